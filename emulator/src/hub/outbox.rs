//! What waits to be sent to one connected device.
//!
//! Frames are put in under the device's own lock, so their order is the order
//! of the state changes behind them; the connection task takes them out. The
//! queue is bounded: a device that does not drain it is disconnected, because
//! dropping one frame silently would leave it with a wrong picture of its twin.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hub_core::c2d::{LockToken, Message};
use hub_core::json::JsonText;
use hub_core::method::RequestId;
use hub_core::topic::Qos;
use hub_core::twin::DesiredChange;

/// Frames that may wait for one device; the emulator's own bound.
const MAX_FRAMES: usize = 1024;
/// Payload bytes that may wait for one device, beyond its first frame; the
/// emulator's own bound.
const MAX_BYTES: usize = 1024 * 1024;

/// A frame for a device, in terms that every device protocol can carry.
#[derive(Debug)]
pub(crate) enum ToDevice {
    /// Invoke a direct method.
    MethodRequest {
        /// Under which id the answer is expected.
        id: RequestId,
        /// The method's name.
        name: Arc<str>,
        /// The caller's payload.
        payload: JsonText,
    },
    /// The answer to the device's own twin request.
    TwinResponse {
        /// The device's request id, as it sent it.
        rid: Box<str>,
        /// HTTP-like status.
        status: u16,
        /// New version of the reported properties, after an update.
        version: Option<u64>,
        /// The twin, an error, or nothing.
        body: Bytes,
    },
    /// Desired properties have changed.
    DesiredChanged(DesiredChange),
    /// A cloud-to-device message, held by this connection until it is settled.
    Message {
        /// The message.
        message: Arc<Message>,
        /// Names the hold.
        token: LockToken,
        /// Whether the device acknowledges it.
        qos: Qos,
        /// Whether the same session was sent it before.
        again: bool,
        /// How often it was abandoned before.
        delivery_count: u32,
    },
}

impl ToDevice {
    fn size(&self) -> usize {
        match self {
            Self::MethodRequest { payload, .. } => payload.size(),
            Self::TwinResponse { body, .. } => body.len(),
            Self::DesiredChanged(change) => change.payload.len(),
            Self::Message { message, .. } => message.size(),
        }
    }
}

/// Why the hub ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The same identity has connected again.
    Takeover,
    /// The identity was disabled or deleted.
    IdentityChanged,
    /// The device did not take what was sent to it.
    SlowReader,
    /// The hub stops or was reset.
    Shutdown,
}

/// The bounded queue between the hub and one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    frames: Vec<ToDevice>,
    bytes: usize,
    closed: Option<CloseReason>,
    reader: Option<Waker>,
}

impl Outbox {
    /// Appends a frame. When the queue is full the connection is closed
    /// instead; after closing, frames vanish.
    pub(crate) fn push(&self, frame: ToDevice) {
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return;
        }
        let bytes = queue.bytes + frame.size();
        if queue.frames.len() >= MAX_FRAMES || (bytes > MAX_BYTES && !queue.frames.is_empty()) {
            queue.close(CloseReason::SlowReader);
            return;
        }
        queue.bytes = bytes;
        queue.frames.push(frame);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
    }

    /// Ends the connection; frames not yet taken are dropped.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.lock().close(reason);
    }

    /// Takes all waiting frames; pending until there are some, an error once closed.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<ToDevice>, CloseReason>> {
        let mut queue = self.lock();
        if let Some(reason) = queue.closed {
            return Poll::Ready(Err(reason));
        }
        if queue.frames.is_empty() {
            queue.wake_later(cx);
            return Poll::Pending;
        }
        queue.bytes = 0;
        Poll::Ready(Ok(std::mem::take(&mut queue.frames)))
    }

    /// Takes what waits at this moment, possibly nothing.
    ///
    /// # Errors
    /// Once closed.
    pub(crate) fn take_now(&self) -> Result<Vec<ToDevice>, CloseReason> {
        let mut queue = self.lock();
        if let Some(reason) = queue.closed {
            return Err(reason);
        }
        queue.bytes = 0;
        Ok(std::mem::take(&mut queue.frames))
    }

    /// Why the connection is to be closed, once it is.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.lock().closed
    }

    /// Cloud-to-device messages among the waiting frames.
    pub(crate) fn waiting_messages(&self) -> usize {
        let is_message = |frame: &&ToDevice| matches!(frame, ToDevice::Message { .. });
        self.lock().frames.iter().filter(is_message).count()
    }

    /// Pending until the connection is to be closed, without taking frames.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut queue = self.lock();
        match queue.closed {
            Some(reason) => Poll::Ready(reason),
            None => {
                queue.wake_later(cx);
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // A panic cannot leave the queue half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn close(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        self.frames = Vec::new();
        self.bytes = 0;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_later(&mut self, cx: &Context<'_>) {
        match &self.reader {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.reader = Some(cx.waker().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: RequestId, bytes: usize) -> ToDevice {
        let payload = JsonText::parse(Bytes::from(format!("\"{}\"", "x".repeat(bytes)))).unwrap();
        ToDevice::MethodRequest {
            id,
            name: "m".into(),
            payload,
        }
    }

    fn poll(outbox: &Outbox) -> Poll<Result<usize, CloseReason>> {
        let mut cx = Context::from_waker(Waker::noop());
        outbox.poll_take(&mut cx).map(|r| r.map(|frames| frames.len()))
    }

    #[test]
    fn frames_come_out_in_order_and_once() {
        let outbox = Outbox::default();
        assert_eq!(poll(&outbox), Poll::Pending);
        outbox.push(request(1, 1));
        outbox.push(request(2, 1));
        let ids: Vec<_> = outbox
            .take_now()
            .unwrap()
            .into_iter()
            .map(|f| match f {
                ToDevice::MethodRequest { id, .. } => id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids, [1, 2]);
        assert_eq!(poll(&outbox), Poll::Pending);
    }

    #[test]
    fn a_device_that_does_not_drain_is_closed() {
        let by_count = Outbox::default();
        for id in 0..=MAX_FRAMES as u32 {
            by_count.push(request(id, 1));
        }
        assert_eq!(poll(&by_count), Poll::Ready(Err(CloseReason::SlowReader)));

        let by_bytes = Outbox::default();
        by_bytes.push(request(1, MAX_BYTES));
        assert_eq!(poll(&by_bytes), Poll::Ready(Ok(1)));
        by_bytes.push(request(2, MAX_BYTES));
        by_bytes.push(request(3, 10));
        assert_eq!(poll(&by_bytes), Poll::Ready(Err(CloseReason::SlowReader)));
    }

    #[test]
    fn the_first_reason_to_close_stays() {
        let outbox = Outbox::default();
        outbox.close(CloseReason::Takeover);
        outbox.close(CloseReason::Shutdown);
        outbox.push(request(1, 1));
        assert_eq!(poll(&outbox), Poll::Ready(Err(CloseReason::Takeover)));
        assert_eq!(outbox.take_now().unwrap_err(), CloseReason::Takeover);
    }
}
