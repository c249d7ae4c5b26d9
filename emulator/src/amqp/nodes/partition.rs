//! A reader of one partition of an event stream: the hub's Event-Hub-compatible
//! endpoint, `{hub}/ConsumerGroups/{group}/Partitions/{number}`, or by their names
//! those of the streams that events are routed to.
//!
//! The link holds a cursor and nothing else. Whenever the client has given
//! credit and the connection has room, events are copied from the partition,
//! written as messages and sent settled: a reader remembers by itself how far
//! it is, and the service's clients tell nothing back even if they ask for
//! unsettled deliveries. Events that were cut off before the reader came to
//! them are skipped, which it sees in the sequence numbers.
//!
//! Whether the connection may read is decided before a reader is attached.

mod attach;
mod message;

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use amqp_wire::Value;
use amqp_wire::engine::{AttachReply, CommandError, Engine, LinkId, Outgoing};
use amqp_wire::performative::{Attach, Error, condition};
use amqp_wire::value::Array;
use hub_core::events::AttachError;
use tokio::time::sleep;

use self::attach::{RUNTIME_METRIC, Wishes, argument_error};
use self::message::Encoder;
pub(super) use self::message::{last_enqueued, last_offset, last_sequence};
use super::{Ctx, has_room};
use crate::amqp::condition as conditions;
use crate::hub::events::{EventReader, EventStream, OpenError, ReadEnd};

/// Events taken from the partition at once, so that one reader's share of a
/// connection's turn is small.
const EVENTS_AT_ONCE: u32 = 256;

/// A guess of what a message takes beyond body and properties.
const MESSAGE_BYTES: usize = 512;

/// How long a link waits when others of its connection have filled the queue.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(50);

/// What became of an attempt to send.
enum Sent {
    Some,
    /// There was nothing.
    Nothing,
    /// The connection holds as much as it may for windows that are closed.
    QueueFull,
}

/// A link that reads.
#[derive(Debug)]
pub(crate) struct PartitionReader {
    reader: EventReader,
    metrics: bool,
}

impl PartitionReader {
    /// Answers the attach of a client that may read.
    ///
    /// # Errors
    /// When there is no such group or partition, the start is none, or others
    /// have the place.
    pub(super) fn attach(
        stream: &Arc<EventStream>,
        group: &str,
        partition: &str,
        attach: &Attach,
    ) -> Result<(Self, AttachReply), Error> {
        let wishes = Wishes::of(attach)?;
        // A number that is none is a partition that is not there.
        let partition = partition.parse().unwrap_or(usize::MAX);
        let reader = stream
            .open(group, partition, wishes.start, wishes.epoch)
            .map_err(|error| refusal(&error))?;
        let offered = wishes.metrics.then(|| Array::of_symbols([RUNTIME_METRIC]));
        let reply = AttachReply {
            offered_capabilities: offered.map_or(Value::Null, Value::Array),
            properties: attach.properties.clone(),
            ..AttachReply::default()
        };
        let node = Self {
            reader,
            metrics: wishes.metrics,
        };
        Ok((node, reply))
    }

    /// Sends what there is, as far as credit and room allow, then waits for
    /// more, or for the loss of its place.
    ///
    /// # Errors
    /// Why the link must be detached.
    pub(super) fn pump(&mut self, link: LinkId, engine: &mut Engine, ctx: &Ctx<'_>) -> Result<(), Error> {
        let waker = ctx.waker(link);
        loop {
            let credit = engine.credit(link).unwrap_or(0);
            // What waits for the session's window must leave before more is
            // copied; the engine reports credit again once it has.
            let may_send = credit > 0 && engine.queued(link) == Ok(0);
            if may_send && !has_room(engine) {
                ctx.wake(link);
                return Ok(());
            }
            let sent = if may_send {
                self.send(link, engine, credit, ctx)?
            } else {
                Sent::Nothing
            };
            match sent {
                Sent::Some => {}
                Sent::QueueFull => {
                    let waker = waker.clone();
                    tokio::spawn(async move {
                        sleep(QUEUE_FULL_PAUSE).await;
                        waker.wake();
                    });
                    return Ok(());
                }
                Sent::Nothing => {
                    let mut context = Context::from_waker(&waker);
                    if self.reader.poll_news(&mut context, may_send).is_pending() {
                        return Ok(());
                    }
                    if let Some(end) = self.reader.end() {
                        return Err(ending(end));
                    }
                }
            }
        }
    }

    /// Sends a share of what there is.
    fn send(&mut self, link: LinkId, engine: &mut Engine, credit: u32, ctx: &Ctx<'_>) -> Result<Sent, Error> {
        let events = self
            .reader
            .take(credit.min(EVENTS_AT_ONCE) as usize)
            .map_err(ending)?;
        if events.is_empty() {
            return Ok(Sent::Nothing);
        }
        let info = self.metrics.then(|| self.reader.partition_info());
        let bytes: usize = events.iter().map(|event| event.body.len() + MESSAGE_BYTES).sum();
        let mut encoder = Encoder::new(bytes, info.as_ref().map(|info| (info, ctx.hub.clock.now())));
        for event in &events {
            match engine.send(link, Outgoing::settled(encoder.encode(event))) {
                Ok(_) => {}
                Err(CommandError::TooLarge) => {
                    return Err(Error::new(
                        condition::MESSAGE_SIZE_EXCEEDED,
                        format!("event {} is larger than the link accepts", event.sequence),
                    ));
                }
                Err(_) => {
                    self.reader.go_back_to(event);
                    return Ok(Sent::QueueFull);
                }
            }
        }
        Ok(Sent::Some)
    }
}

fn refusal(error: &OpenError) -> Error {
    let description = error.to_string();
    let condition = match error {
        OpenError::NoSuchPartition { .. } | OpenError::Attach(AttachError::NoSuchGroup(_)) => {
            return conditions::no_such_entity(description);
        }
        // It was there a moment ago; whoever tries again learns what is there now.
        OpenError::EndpointGone => conditions::DETACH_FORCED,
        OpenError::Attach(AttachError::LowerEpoch { .. } | AttachError::EpochRequired { .. }) => {
            conditions::STOLEN
        }
        OpenError::Attach(AttachError::TooManyReaders) => condition::RESOURCE_LIMIT_EXCEEDED,
        OpenError::Start(_) => return argument_error(description),
    };
    Error::new(condition, description)
}

fn ending(end: ReadEnd) -> Error {
    let condition = match end {
        ReadEnd::Stolen => conditions::STOLEN,
        ReadEnd::GroupDeleted | ReadEnd::EndpointGone => return conditions::no_such_entity(end),
        // Clients try again on their own after this.
        ReadEnd::Reset | ReadEnd::EndpointChanged => conditions::DETACH_FORCED,
    };
    Error::new(condition, end.to_string())
}
