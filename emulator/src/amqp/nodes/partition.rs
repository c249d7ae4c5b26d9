//! A reader of one partition of the event stream: the hub's Event-Hub-compatible
//! endpoint, `{hub}/ConsumerGroups/{group}/Partitions/{number}`.
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
use std::task::{Context, Poll};

use amqp_wire::Value;
use amqp_wire::engine::{AttachReply, CommandError, Engine, LinkId, Outgoing};
use amqp_wire::performative::{Attach, Error};
use amqp_wire::value::Array;
use hub_core::events::AttachError;
use job_service::Clock;

use self::attach::{RUNTIME_METRIC, Wishes, argument_error};
use self::message::Encoder;
pub(in crate::amqp) use self::message::{last_enqueued, last_offset, last_sequence};
use crate::hub::events::{EventReader, EventStream, OpenError, ReadEnd};

/// Events taken from the partition at once, so that one reader's share of a
/// connection's turn is small.
const EVENTS_AT_ONCE: u32 = 256;

/// A guess of what a message takes beyond body and properties.
const MESSAGE_BYTES: usize = 512;

/// A link that reads.
#[derive(Debug)]
pub(in crate::amqp) struct PartitionReader {
    reader: EventReader,
    clock: Clock,
    metrics: bool,
    /// Whether there is credit and nothing to send.
    waits: bool,
}

impl PartitionReader {
    /// Answers the attach of a client that may read.
    ///
    /// # Errors
    /// When there is no such group or partition, the start is none, or others
    /// have the place.
    pub(in crate::amqp) fn attach(
        events: &Arc<EventStream>,
        clock: &Clock,
        group: &str,
        partition: &str,
        attach: &Attach,
    ) -> Result<(Self, AttachReply), Error> {
        let wishes = Wishes::of(attach)?;
        // A number that is none is a partition that is not there.
        let partition = partition.parse().unwrap_or(usize::MAX);
        let reader = events
            .open(group, partition, wishes.start, wishes.epoch)
            .map_err(refusal)?;
        let offered = wishes.metrics.then(|| Array::of_symbols([RUNTIME_METRIC]));
        let reply = AttachReply {
            offered_capabilities: offered.map_or(Value::Null, Value::Array),
            properties: attach.properties.clone(),
            ..AttachReply::default()
        };
        let node = Self {
            reader,
            clock: clock.clone(),
            metrics: wishes.metrics,
            waits: false,
        };
        Ok((node, reply))
    }

    /// Sends what there is, as far as credit and `room`, in bytes of unwritten
    /// output, allow.
    ///
    /// # Errors
    /// Why the link must be detached.
    pub(in crate::amqp) fn pump(&mut self, link: LinkId, engine: &mut Engine, room: usize) -> Result<(), Error> {
        self.waits = false;
        loop {
            // What waits for the session's window must leave before more is copied.
            let is_held_up = engine.output_len() >= room || engine.queued(link) != Ok(0);
            let credit = engine.credit(link).unwrap_or(0);
            if is_held_up || credit == 0 {
                return Ok(());
            }
            let events = self
                .reader
                .take(credit.min(EVENTS_AT_ONCE) as usize)
                .map_err(ending)?;
            if events.is_empty() {
                self.waits = true;
                return Ok(());
            }
            let info = self.metrics.then(|| self.reader.partition_info());
            let bytes: usize = events.iter().map(|event| event.body.len() + MESSAGE_BYTES).sum();
            let mut encoder = Encoder::new(bytes, info.as_ref().map(|info| (info, self.clock.now())));
            for event in &events {
                match engine.send(link, Outgoing::settled(encoder.encode(event))) {
                    Ok(_) => {}
                    Err(CommandError::TooLarge) => {
                        return Err(Error::new(
                            "amqp:link:message-size-exceeded",
                            format!("event {} is larger than the link accepts", event.sequence),
                        ));
                    }
                    // Other links of the connection have filled its queue.
                    Err(_) => {
                        self.reader.go_back_to(event);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Ready when it is worth while to [`pump`](Self::pump).
    pub(in crate::amqp) fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.reader.poll_news(context, self.waits)
    }
}

fn refusal(error: OpenError) -> Error {
    let description = error.to_string();
    let condition = match error {
        OpenError::NoSuchPartition { .. } | OpenError::Attach(AttachError::NoSuchGroup(_)) => "amqp:not-found",
        OpenError::Attach(AttachError::LowerEpoch { .. } | AttachError::EpochRequired { .. }) => "amqp:link:stolen",
        OpenError::Attach(AttachError::TooManyReaders) => "amqp:resource-limit-exceeded",
        OpenError::Start(_) => return argument_error(description),
    };
    Error::new(condition, description)
}

fn ending(end: ReadEnd) -> Error {
    let condition = match end {
        ReadEnd::Stolen => "amqp:link:stolen",
        ReadEnd::GroupDeleted => "amqp:not-found",
        ReadEnd::Reset => "amqp:link:detach-forced",
    };
    Error::new(condition, end.to_string())
}
