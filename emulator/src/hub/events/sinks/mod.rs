//! The tasks of endpoints that nobody reads from: a directory, a webhook.
//!
//! A task reads its endpoint's log at the pace of what it writes to. While that
//! does not take events, the task tries again with growing pauses and the log
//! goes on; once it is full the oldest events are lost, which is counted and
//! seen in the sequence numbers. Nothing here holds up whoever appends.

mod directory;
mod webhook;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hub_core::events::Event;
use hub_core::routing::EndpointKind;
use job_service::Clock;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::directory::Directory;
pub(crate) use self::webhook::ORIGIN;
use self::webhook::Webhook;
use super::endpoint::Endpoint;
use super::health::Health;
use super::{EventReader, Tasks};

/// Pauses between attempts: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that the other side may wish for.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// Bytes of bodies that are passed on at once, beyond the last event's.
const BATCH_BYTES: usize = 256 * 1024;

/// How long a task that is to end may still pass events on.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where events are passed on to.
trait Sink: Send {
    /// How many events are passed on at once, and how long one may wait for
    /// others.
    fn batch(&self) -> (usize, Duration);

    /// Passes events on, in their order.
    fn put(&mut self, events: &[Event]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Events could not be passed on.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// How many of the first were.
    done: usize,
    /// When to try again, if the other side says so.
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            done: 0,
            retry_after: None,
        }
    }
}

/// Starts the task of an endpoint that has one and where it does not run yet.
/// `instance` is the hub's mark on requests.
pub(super) fn spawn(endpoint: &Arc<Endpoint>, clock: &Clock, instance: &str, tasks: &Tasks) {
    let Some(kind) = endpoint.kind().cloned() else {
        return;
    };
    if endpoint.is_stream() || !endpoint.starts() {
        return;
    }
    let (endpoint, clock) = (endpoint.clone(), clock.clone());
    // The task ends with the endpoint or with the hub.
    let (stop, hub_stop) = (endpoint.stop.clone(), tasks.stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = hub_stop.cancelled() => stop.cancel(),
            () = stop.cancelled() => {}
        }
    });
    let instance = instance.to_owned();
    tasks.spawn(async move {
        match kind {
            EndpointKind::Directory(settings) => {
                let sink = Directory::new(endpoint.name(), settings);
                run(&endpoint, sink, &clock).await;
            }
            EndpointKind::Webhook(settings) => {
                let sink = Webhook::new(settings, instance);
                run(&endpoint, sink, &clock).await;
            }
            EndpointKind::Stream(_) => {}
        }
    });
}

async fn run(endpoint: &Endpoint, mut sink: impl Sink, clock: &Clock) {
    let Some((mut reader, _turn)) = endpoint.read().await else {
        return;
    };
    let (health, stop) = (&endpoint.health, &endpoint.stop);
    while let Some(events) = next_batch(&mut reader, sink.batch(), stop).await {
        if endpoint.is_handed_over() {
            return;
        }
        note_gap(health, &events, clock);
        if !pass_on(endpoint, &reader, &mut sink, events, clock).await {
            break;
        }
    }
    // What is there already still goes where it is going to.
    if health.is_failing() || endpoint.is_handed_over() {
        return;
    }
    let end = Instant::now() + FAREWELL;
    while let Ok(events) = reader.take(sink.batch().0)
        && !events.is_empty()
    {
        note_gap(health, &events, clock);
        match timeout_at(end, sink.put(&events)).await {
            Ok(Ok(())) => health.delivered(&events, true),
            _ => return,
        }
    }
}

/// Passes events on until they are; false when the task is to end before.
async fn pass_on(
    endpoint: &Endpoint,
    reader: &EventReader,
    sink: &mut impl Sink,
    mut events: Vec<Event>,
    clock: &Clock,
) -> bool {
    let (health, stop) = (&endpoint.health, &endpoint.stop);
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match attempt(sink, &events, stop).await {
            None => return false,
            Some(Ok(())) => {
                let last = events.last().map(|event| event.sequence);
                health.delivered(&events, reader.partition_info().last_sequence == last);
                return true;
            }
            Some(Err(failure)) => failure,
        };
        let done: Vec<Event> = events.drain(..failure.done.min(events.len())).collect();
        if !done.is_empty() {
            health.delivered(&done, false);
        }
        tracing::debug!(endpoint = endpoint.name(), reason = failure.reason, "events wait");
        health.failed(clock.now(), &failure.reason);
        let wait = failure.retry_after.map_or(pause, |wait| wait.min(LONGEST_WISH));
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return false;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        health.retries();
    }
}

/// Tries to pass events on. An attempt that has begun when the task is to end has
/// some time left; then `None`.
async fn attempt(
    sink: &mut impl Sink,
    events: &[Event],
    stop: &CancellationToken,
) -> Option<Result<(), Failure>> {
    let mut put = pin!(sink.put(events));
    match stop.run_until_cancelled(put.as_mut()).await {
        None => timeout(FAREWELL, put).await.ok(),
        done => done,
    }
}

/// The next events, as soon as there is one and others had time to come; `None`
/// when the task is to end, or the log has.
async fn next_batch(
    reader: &mut EventReader,
    (count, wait): (usize, Duration),
    stop: &CancellationToken,
) -> Option<Vec<Event>> {
    let mut events = stop.run_until_cancelled(reader.next(count)).await?.ok()?;
    let end = Instant::now() + wait;
    while !wait.is_zero() && events.len() < count && !stop.is_cancelled() {
        let bytes: usize = events.iter().map(|event| event.body.len()).sum();
        if bytes >= BATCH_BYTES {
            break;
        }
        let more = timeout_at(end, stop.run_until_cancelled(reader.next(count - events.len())));
        match more.await {
            Ok(Some(Ok(more))) => events.extend(more),
            // Nothing came in time. What is here is passed on in any case.
            _ => break,
        }
    }
    Some(events)
}

/// Counts the events that the log had lost before they were read.
fn note_gap(health: &Health, events: &[Event], clock: &Clock) {
    if let (Some(first), Some(last)) = (events.first(), events.last()) {
        let gap = health.taken(first.sequence, last.sequence + 1);
        if gap > 0 {
            let reason =
                format!("{gap} events were lost: the endpoint takes them more slowly than they come");
            health.lost(gap, clock.now(), &reason);
        }
    }
}
