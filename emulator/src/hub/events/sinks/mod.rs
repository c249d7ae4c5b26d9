//! The tasks of endpoints that nobody reads from: a directory, a webhook.
//!
//! A task reads its endpoint's log at the pace of what it writes to. While that
//! does not take events, the task tries again with growing pauses and the log
//! goes on; once it is full the oldest events are lost, which is counted and
//! seen in the sequence numbers. Nothing here holds up whoever appends.

mod directory;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use hub_core::events::Event;
use hub_core::routing::EndpointKind;
use job_service::Clock;
use tokio::time::{Instant, sleep, timeout_at};
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
    /// Whether the other side will never take these events as they are.
    is_final: bool,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            done: 0,
            retry_after: None,
            is_final: false,
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

/// Passes on what comes until the task is to end, and then, for a while, what has
/// come until then: a directory or a webhook that does not answer holds up
/// nobody who ends the task. Where another task goes on with the log, this one
/// only ends what it has begun.
async fn run(endpoint: &Endpoint, sink: impl Sink, clock: &Clock) {
    let Some((reader, _turn)) = endpoint.read().await else {
        return;
    };
    let end = async {
        endpoint.stop.cancelled().await;
        sleep(FAREWELL).await;
    };
    tokio::select! {
        () = pass_all_on(endpoint, reader, sink, clock) => {}
        () = end => {}
    }
    let left = endpoint.report().backlog;
    if left > 0 && !endpoint.is_handed_over() {
        tracing::warn!(
            endpoint = endpoint.name(),
            left,
            "events are not passed on any more"
        );
    }
}

async fn pass_all_on(endpoint: &Endpoint, mut reader: EventReader, mut sink: impl Sink, clock: &Clock) {
    while let Some(events) = next_batch(&mut reader, sink.batch(), &endpoint.stop).await {
        if endpoint.is_handed_over() {
            return;
        }
        note_gaps(&endpoint.health, &events, clock);
        if !pass_on(endpoint, &reader, &mut sink, events, clock).await {
            break;
        }
    }
}

/// Passes events on until they are; false when the task is to end and they
/// cannot be now.
///
/// Of events that are refused for good, half as many are tried, down to a single
/// one, which is dropped: one that is not acceptable must not hold up all others.
async fn pass_on(
    endpoint: &Endpoint,
    reader: &EventReader,
    sink: &mut impl Sink,
    mut events: Vec<Event>,
    clock: &Clock,
) -> bool {
    let (health, stop) = (&endpoint.health, &endpoint.stop);
    let mut pause = FIRST_PAUSE;
    let mut count = events.len();
    while !events.is_empty() {
        count = count.clamp(1, events.len());
        let attempt = sink.put(&events[..count]).await;
        let done = attempt
            .as_ref()
            .map_or_else(|failure| failure.done.min(count), |()| count);
        if done > 0 {
            let done: Vec<Event> = events.drain(..done).collect();
            let last = done.last().map(|event| event.sequence);
            health.delivered(&done, reader.partition_info().last_sequence == last);
        }
        let Err(failure) = attempt else {
            pause = FIRST_PAUSE;
            count *= 2;
            continue;
        };
        let name = endpoint.name();
        health.failed(clock.now(), &failure.reason);
        if failure.is_final {
            if count > 1 {
                tracing::debug!(endpoint = name, reason = failure.reason, "events are refused");
                count /= 2;
                health.retries();
            } else if let Some(event) = events.drain(..1).next() {
                let reason = format!(
                    "event {} was refused and dropped: {}",
                    event.sequence, failure.reason
                );
                tracing::warn!(endpoint = name, "{reason}");
                health.passed_over(&event, clock.now(), &reason);
            }
            continue;
        }
        tracing::debug!(endpoint = name, reason = failure.reason, "events wait");
        // Sooner than the hub itself would try again is no wish to grant: a
        // `Retry-After: 0` would have it try without a pause.
        let wait = failure.retry_after.unwrap_or(pause).clamp(pause, LONGEST_WISH);
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return false;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        health.retries();
    }
    true
}

/// The next events, as soon as there is one and others had time to come; when
/// the task is to end, those that are there. `None` when there will be no more.
async fn next_batch(
    reader: &mut EventReader,
    (count, wait): (usize, Duration),
    stop: &CancellationToken,
) -> Option<Vec<Event>> {
    let mut events = match stop.run_until_cancelled(reader.next(count)).await {
        Some(events) => events.ok()?,
        None => reader.take(count).ok().filter(|events| !events.is_empty())?,
    };
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

/// Counts the events that the log had lost before they were read: in front of
/// these, and between them where they were read at several times.
fn note_gaps(health: &Health, events: &[Event], clock: &Clock) {
    let gap: u64 = events
        .iter()
        .map(|event| health.taken(event.sequence, event.sequence + 1))
        .sum();
    if gap > 0 {
        let reason = format!("{gap} events were lost: the endpoint takes them more slowly than they come");
        health.lost(gap, clock.now(), &reason);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hub_core::events::{Origin, PartitionInfo, Source};
    use hub_core::ids::{DeviceId, Target};
    use hub_core::property_bag::MessageProperties;
    use hub_core::time::Timestamp;

    use super::*;

    pub(super) fn event(sequence: u64) -> Event {
        Event {
            sequence,
            offset: 0,
            position: sequence + 1,
            enqueued: Timestamp::from_unix_milliseconds(0),
            source: Source::Telemetry,
            origin: Arc::new(Origin {
                target: Target::device(DeviceId::parse("d").unwrap()),
                sender: None,
            }),
            properties: MessageProperties::default(),
            body: bytes::Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn gaps_count_in_front_of_events_and_between_them() {
        let (health, clock) = (Health::default(), Clock::default());
        let log = PartitionInfo {
            begin_sequence: 0,
            last_sequence: None,
            last_offset: None,
            last_enqueued: None,
            count: 0,
            bytes: 0,
        };
        let dropped = || health.report(&log).dropped;
        note_gaps(&health, &[2, 3, 7].map(event), &clock);
        assert_eq!(dropped(), 2 + 3);
        note_gaps(&health, &[8, 9].map(event), &clock);
        assert_eq!(dropped(), 5);
        note_gaps(&health, &[11].map(event), &clock);
        assert_eq!(dropped(), 6);
    }
}
