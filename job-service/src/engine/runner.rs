//! Takes one running job through its devices.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hub_core::error::ServiceError;
use hub_core::ids::Target;
use hub_core::job::{Action, Outcome};
use tokio::task::unconstrained;

use super::Shared;
use super::cell::JobCell;
use crate::Fleet;

/// Outcomes that are entered under one lock.
const BATCH: usize = 256;

/// Runs a job to its end: all devices done, window closed, or stopped. The
/// window closes when so much time has [elapsed](crate::Clock::elapsed).
pub(super) async fn run<F: Fleet>(shared: Arc<Shared<F>>, cell: Arc<JobCell>, window_end: Duration) {
    let clock = &shared.clock;
    tokio::select! {
        // In this order: a stop is prompt, and what was due before the end of
        // the window counts even if the clock has jumped over both.
        biased;
        () = cell.stopped() => {}
        done = AssertUnwindSafe(drive(&shared, &cell, window_end)).catch_unwind() => {
            // The panic itself has been reported by the panic hook.
            if done.is_err() {
                shared.update(&cell, |job| job.fail("the operation on a device crashed", clock.now()));
            }
        }
        () = clock.elapses(window_end) => shared.update(&cell, |job| job.close_window(clock.now())),
    }
    shared.table().retire(&cell, clock.now());
    shared.changed.notify_one();
    let progress = *cell.watch().borrow();
    tracing::debug!(
        job = %cell.id(),
        status = progress.status.name(),
        devices = progress.statistics.device_count,
        failed = progress.statistics.failed_count,
        "job ended"
    );
}

async fn drive<F: Fleet>(shared: &Shared<F>, cell: &JobCell, window_end: Duration) {
    match select(shared, cell).await {
        Ok(targets) => act_on_all(shared, cell, &targets, window_end).await,
        Err(error) => shared.update(cell, |job| job.fail(&error.message, shared.clock.now())),
    }
}

/// Evaluates the query, once, and makes the records. Gives the targets in the
/// order of their record numbers.
async fn select<F: Fleet>(shared: &Shared<F>, cell: &JobCell) -> Result<Vec<Target>, ServiceError> {
    let targets = shared.fleet.query(&cell.request().condition).await?;
    shared.table().reserve(cell, targets.len())?;
    Ok(shared.update(cell, |job| job.select(targets, shared.clock.now())))
}

async fn act_on_all<F: Fleet>(shared: &Shared<F>, cell: &JobCell, targets: &[Target], window_end: Duration) {
    let clock = &shared.clock;
    let fan_out = shared.settings.fan_out.max(1);
    let mut begun = 0;
    let mut in_flight = FuturesUnordered::new();
    let mut done = Vec::with_capacity(BATCH);
    // Held while there is room for an operation that may not begin yet.
    let mut waiting = None;
    // After the end of the window a twin still changes in time, a device's
    // answer comes too late.
    let in_time = matches!(cell.request().action, Action::Method(_));
    // Kept between the turns of the loop: whoever asks anew is the last in line.
    let mut leave = pin!(Fuse::terminated());
    loop {
        let room = (targets.len() - begun).min(fan_out - in_flight.len());
        if room == 0 {
            waiting = None;
        } else if leave.is_terminated() {
            let waiting = waiting.get_or_insert_with(|| shared.pacing.wait(clock, cell.number()));
            let asking = waiting.asking(room, window_end, in_time);
            leave.set(shared.pacing.take(clock, asking).fuse());
        }
        tokio::select! {
            biased;
            count = &mut leave, if !leave.is_terminated() => {
                let next = begun..begun + count;
                let now = clock.now();
                shared.update(cell, |job| {
                    for number in next.clone() {
                        job.begin(number, now);
                    }
                });
                begun = next.end;
                in_flight.extend(next.map(|number| act(shared, cell, number, &targets[number])));
                // Begins them.
                collect(&mut in_flight, &mut done);
                settle(shared, cell, &mut done);
                // Before more begin, the devices have the time to answer: the
                // fewer operations are in flight, the more of them a processor
                // has at hand.
                if clock.elapsed() < window_end {
                    tokio::task::yield_now().await;
                }
            }
            Some(first) = unconstrained(in_flight.next()), if !in_flight.is_empty() => {
                done.push(first);
                collect(&mut in_flight, &mut done);
                settle(shared, cell, &mut done);
                // A fleet that answers instantly must not keep the window, a
                // stop or other tasks from their turn. After the end of the
                // window no operation begins, so what is left is little.
                if clock.elapsed() < window_end {
                    tokio::task::consume_budget().await;
                }
            }
            else => return,
        }
    }
}

/// What an operation on a device has come to, with the number of its record.
type Done = (usize, Result<Outcome, ServiceError>);

/// Goes on with the operations and takes those that are done, up to [`BATCH`].
fn collect<O: Future<Output = Done>>(in_flight: &mut FuturesUnordered<O>, done: &mut Vec<Done>) {
    // The runtime's budget is for a task that does one thing at a time: one that
    // has thousands in flight would be told to wait for each that comes after it.
    while done.len() < BATCH
        && let Some(Some(another)) = unconstrained(in_flight.next()).now_or_never()
    {
        done.push(another);
    }
}

/// Enters what is done, all under one lock.
fn settle<F: Fleet>(shared: &Shared<F>, cell: &JobCell, done: &mut Vec<Done>) {
    if done.is_empty() {
        return;
    }
    let now = shared.clock.now();
    shared.update(cell, |job| {
        for (number, result) in done.drain(..) {
            job.settle(number, result, now);
        }
    });
}

async fn act<F: Fleet>(shared: &Shared<F>, cell: &JobCell, number: usize, target: &Target) -> Done {
    let fleet = &*shared.fleet;
    let result = match &cell.request().action {
        Action::Method(call) => fleet.invoke_method(target, call).await.map(Outcome::Method),
        Action::Twin(update) => fleet.update_twin(target, update).await.map(|()| Outcome::Twin),
    };
    (number, result)
}
