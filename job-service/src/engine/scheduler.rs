//! The task that starts jobs at their time.

use std::future::pending;
use std::sync::Arc;

use hub_core::time::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Shared, runner};
use crate::{Clock, Fleet};

/// Starts jobs until `stop` is used or dropped, then stops those that run.
///
/// A runner changes its job only between two awaits, so stopping it loses
/// nothing that was recorded.
pub(super) async fn run<F: Fleet>(shared: Arc<Shared<F>>, mut stop: oneshot::Receiver<()>) {
    let mut runners = JoinSet::new();
    loop {
        // In this order, see `Clock::elapsed`, and before a job is seen to run:
        // whoever advances the clock then shortens its window.
        let now = shared.clock.now();
        let elapsed = shared.clock.elapsed();
        let turn = shared.table().turn(now);
        for cell in turn.start {
            let window_end = elapsed.saturating_add(cell.request().max_execution);
            runners.spawn(runner::run(shared.clone(), cell, window_end));
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = sleep_until(&shared.clock, turn.wake_at) => {}
            Some(_) = runners.join_next() => {}
            _ = &mut stop => break,
        }
    }
    runners.shutdown().await;
}

async fn sleep_until(clock: &Clock, time: Option<Timestamp>) {
    match time {
        Some(time) => clock.sleep_until(time).await,
        None => pending().await,
    }
}
