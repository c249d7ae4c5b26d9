//! Deliveries that arrive.

use bytes::{Bytes, BytesMut};

use super::{CommandError, DeliveryId, Engine, Event, Fault, LinkId};
use crate::performative::{DeliveryState, Disposition, Error, Performative, Role, Transfer, condition};

/// A delivery of which a part has arrived.
#[derive(Debug)]
pub(super) struct Partial {
    delivery: u32,
    tag: Bytes,
    format: u32,
    settled: bool,
    payload: BytesMut,
}

impl Partial {
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }
}

impl Engine {
    pub(super) fn handle_transfer(
        &mut self,
        channel: u16,
        transfer: Transfer,
        payload: Bytes,
    ) -> Result<(), Fault> {
        let window = self.config.limits.incoming_window;
        let Some(session) = self.session_mut(channel) else {
            return Ok(());
        };
        let link = session
            .by_remote_handle
            .get(transfer.handle as usize)
            .copied()
            .flatten();
        match session.count_transfer(window) {
            Some(false) => {}
            Some(true) => self.put_session_flow(channel),
            None => {
                return Err(Fault::Session(
                    channel,
                    Error::new(
                        condition::WINDOW_VIOLATION,
                        "a transfer beyond the session's window",
                    ),
                ));
            }
        }
        let Some(id) = link else {
            return Err(Fault::Session(
                channel,
                Error::new(
                    condition::UNATTACHED_HANDLE,
                    "a transfer for a handle without a link",
                ),
            ));
        };
        // On its way when we detached.
        if self.live(id).is_err() {
            return Ok(());
        }
        self.receive(id, transfer, payload)
            .map_err(|error| Fault::Link(id, error))
    }

    fn receive(&mut self, id: LinkId, transfer: Transfer, payload: Bytes) -> Result<(), Error> {
        let partial_limit = self.config.limits.partial_bytes;
        let Some(link) = self.links.get_mut(id) else {
            return Ok(());
        };
        if link.role != Role::Receiver {
            return Err(Error::new(condition::NOT_ALLOWED, "a transfer from a receiver"));
        }
        let begun = link.partial.as_ref().map_or(0, |partial| partial.len());
        let size = (begun + payload.len()) as u64;
        if link.max_message_size > 0 && size > link.max_message_size {
            return Err(Error::new(
                condition::MESSAGE_SIZE_EXCEEDED,
                format!("a message of more than {} bytes", link.max_message_size),
            ));
        }
        if link.partial.is_none() {
            if link.credit == 0 {
                return Err(Error::new(
                    condition::TRANSFER_LIMIT_EXCEEDED,
                    "a delivery beyond the link's credit",
                ));
            }
            let Some(delivery) = transfer.delivery_id else {
                return Err(Error::new(
                    condition::INVALID_FIELD,
                    "a delivery without delivery-id",
                ));
            };
            link.credit -= 1;
            link.delivery_count = link.delivery_count.wrapping_add(1);
            if transfer.aborted {
                return Ok(());
            }
            let tag = transfer.delivery_tag.unwrap_or_default();
            let format = transfer.message_format.unwrap_or_default();
            let settled = transfer.settled.unwrap_or(false);
            if !transfer.more {
                self.deliver(id, delivery, tag, format, settled, payload);
                return Ok(());
            }
            link.partial = Some(Box::new(Partial {
                delivery,
                tag: Bytes::copy_from_slice(&tag),
                format,
                settled,
                payload: BytesMut::new(),
            }));
        }
        let Some(partial) = &mut link.partial else {
            return Ok(());
        };
        if transfer
            .delivery_id
            .is_some_and(|delivery| delivery != partial.delivery)
        {
            return Err(Error::new(
                condition::NOT_ALLOWED,
                "a delivery before the one before it is complete",
            ));
        }
        if transfer.aborted {
            self.partial_bytes -= partial.len();
            link.partial = None;
            return Ok(());
        }
        partial.settled |= transfer.settled.unwrap_or(false);
        if transfer.more && self.partial_bytes + payload.len() > partial_limit {
            return Err(Error::new(
                condition::RESOURCE_LIMIT_EXCEEDED,
                "too many bytes of incomplete deliveries",
            ));
        }
        partial.payload.extend_from_slice(&payload);
        self.partial_bytes += payload.len();
        if !transfer.more
            && let Some(partial) = link.partial.take()
        {
            self.partial_bytes -= partial.len();
            let Partial {
                delivery,
                tag,
                format,
                settled,
                payload,
            } = *partial;
            self.deliver(id, delivery, tag, format, settled, payload.freeze());
        }
        Ok(())
    }

    fn deliver(&mut self, id: LinkId, delivery: u32, tag: Bytes, format: u32, settled: bool, payload: Bytes) {
        if !settled && let Some(link) = self.links.get_mut(id) {
            link.to_settle.push_back(delivery);
        }
        self.events.push_back(Event::Message {
            link: id,
            delivery: DeliveryId(delivery),
            tag,
            settled,
            format,
            payload,
        });
    }

    /// Settles a delivery with its outcome, whichever settlement mode the link
    /// has: clients that ask for the second mode wait for this, too.
    ///
    /// # Errors
    /// When the link is gone, or the delivery is settled.
    pub fn settle(
        &mut self,
        link: LinkId,
        delivery: DeliveryId,
        state: DeliveryState,
    ) -> Result<(), CommandError> {
        self.live(link)?;
        let link = self.links.get_mut(link).ok_or(CommandError::Gone)?;
        let at = link
            .to_settle
            .iter()
            .position(|id| *id == delivery.0)
            .ok_or(CommandError::Gone)?;
        link.to_settle.remove(at);
        let channel = link.channel;
        let disposition = Disposition {
            role: Role::Receiver,
            first: delivery.0,
            last: Some(delivery.0),
            settled: true,
            state: Some(state),
            batchable: false,
        };
        self.put(channel, &Performative::Disposition(disposition));
        Ok(())
    }

    /// The peer settles deliveries that it has sent.
    pub(super) fn forget_received(&mut self, channel: u16, first: u32, last: u32) {
        let Some(session) = self.session(channel) else {
            return;
        };
        for id in session.links() {
            if let Some(link) = self.links.get_mut(id) {
                let width = last.wrapping_sub(first);
                link.to_settle
                    .retain(|delivery| delivery.wrapping_sub(first) > width);
            }
        }
    }
}
