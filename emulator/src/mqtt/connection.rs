//! One MQTT connection from its first byte to its last.
//!
//! The task handles all packets that a read brought before it writes, sends
//! all answers and waiting frames in one write, and holds neither a read nor a
//! write buffer while it waits.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use hub_core::c2d::LockToken;
use hub_core::limits;
use mqtt_wire::{ConnectAck, ConnectAckReason, Packet, PacketBuffer, WireError, encode, fill};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::handshake::{self, Accepted, Refusal, Will};
use super::protocol::{self, Next, Violation};
use crate::hub::HubState;
use crate::hub::outbox::{CloseReason, Outbox};
use crate::hub::session::Session;
use crate::tls::ClientCertificate;
use crate::writing::{self, FAREWELL_DEADLINE, Unwritten, shut_down};

/// Answers to one read are collected up to this many bytes before they are
/// written, plus the one that goes beyond; the emulator's own choice.
const ANSWERS_BYTES: usize = 64 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the device disconnected")]
    Disconnect,
    #[error("the device closed the connection")]
    PeerClosed,
    #[error("no packet within the keep-alive")]
    KeepAlive,
    #[error("the token has expired")]
    TokenExpired,
    #[error("the device does not read what it is sent")]
    WriteStalled,
    #[error("the hub closes the connection: {0:?}")]
    ByHub(CloseReason),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection until it ends. Never fails: a bad peer is closed.
/// `certificate` is what the client presented in the TLS handshake, if there
/// was one; it counts for CONNECT only and is not kept beyond.
pub(crate) async fn serve<S>(stream: S, hub: Arc<HubState>, certificate: Option<ClientCertificate>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // What happens once is boxed, so that a connection that lives for days
    // holds no room for it.
    let Some((mut connection, session, will)) = Box::pin(open(stream, &hub, certificate)).await else {
        return;
    };
    let ending = match connection.run(&session, &hub).await {
        Ok(never) => match never {},
        Err(ending) => ending,
    };
    tracing::debug!(target = %session.target(), %ending, "connection ended");
    let broke_the_rules = match &ending {
        // A quota that is used up is no fault of the device's.
        Ending::Violation(violation) => !matches!(violation, Violation::Refused(_)),
        ending => matches!(ending, Ending::Wire(_)),
    };
    if broke_the_rules {
        hub.counters.protocol_violations.add(1);
    }
    match (ending, will) {
        (Ending::Disconnect, _) | (_, None) => {}
        (_, Some(will)) => session.will(&will.bag, &will.body),
    }
    drop(session);
    Box::pin(shut_down(&mut connection.stream)).await;
}

/// From the first byte to the answer to CONNECT; `None` when the connection has
/// ended with that.
async fn open<S>(
    mut stream: S,
    hub: &Arc<HubState>,
    certificate: Option<ClientCertificate>,
) -> Option<(Connection<S>, Session, Option<Will>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut packets = PacketBuffer::new(limits::MQTT_CONNECT_BYTES);
    let connected = timeout(
        limits::MQTT_CONNECT_DEADLINE,
        connect(&mut stream, &mut packets, hub, certificate.as_ref()),
    )
    .await;
    let Ok(Some(accepted)) = connected else {
        shut_down(&mut stream).await;
        return None;
    };
    packets.set_limit(limits::MQTT_PACKET_BYTES);
    let connection = Connection {
        stream,
        packets,
        out: BytesMut::new(),
        written: Vec::new(),
        keep_alive: accepted.keep_alive,
        expires: accepted.expires,
    };
    Some((connection, accepted.session, accepted.will))
}

/// Reads CONNECT and answers it; `None` when the connection is not to go on.
async fn connect<S>(
    stream: &mut S,
    packets: &mut PacketBuffer,
    hub: &Arc<HubState>,
    certificate: Option<&ClientCertificate>,
) -> Option<Accepted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let decision = loop {
        match packets.next_packet() {
            Ok(Some(Packet::Connect(connect))) => {
                let delay = hub.settings.connack_delay;
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                break handshake::decide(hub, &connect, certificate);
            }
            // Anything else first is not an MQTT client of ours.
            Ok(Some(_)) => return None,
            Ok(None) => {
                if fill(stream, packets).await.ok()? == 0 {
                    return None;
                }
            }
            Err(WireError::Protocol) => {
                let code = ConnectAckReason::UnacceptableProtocolVersion;
                break Err(Refusal {
                    code,
                    reason: "the protocol is not MQTT 3.1.1".into(),
                });
            }
            Err(WireError::ClientId) => {
                let code = ConnectAckReason::IdentifierRejected;
                break Err(Refusal {
                    code,
                    reason: "the client id is empty".into(),
                });
            }
            Err(_) => return None,
        }
    };
    let (return_code, session_present) = match &decision {
        Ok(accepted) => (ConnectAckReason::ConnectionAccepted, accepted.session.resumed),
        Err(refusal) => {
            hub.counters.connects_refused.add(1);
            tracing::debug!(code = ?refusal.code, reason = %refusal.reason, "connection refused");
            (refusal.code, false)
        }
    };
    let mut out = BytesMut::new();
    encode(
        Packet::ConnectAck(ConnectAck {
            return_code,
            session_present,
        }),
        &mut out,
    )
    .ok()?;
    let written = write_all(stream, &mut out, None, None).await;
    match decision {
        Ok(accepted) if written.is_ok() => Some(accepted),
        _ => None,
    }
}

/// How many of the packets that have arrived were handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    AllHandled,
    SomeLeft,
}

struct Connection<S> {
    stream: S,
    packets: PacketBuffer,
    out: BytesMut,
    /// Messages in `out` that are complete once they are written.
    written: Vec<LockToken>,
    keep_alive: Duration,
    expires: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self, session: &Session, hub: &HubState) -> Result<std::convert::Infallible, Ending> {
        let mut last_packet = Instant::now();
        let timer = sleep_until(self.deadline(last_packet));
        tokio::pin!(timer);
        loop {
            let received = match self.handle_received(session, hub, &mut last_packet) {
                Ok(received) => received,
                // Whatever was asked for after the end has not been done.
                Err(ending @ Ending::ByHub(_)) => return Err(ending),
                Err(ending) => {
                    // What was done before the end is acknowledged, however the
                    // packets were cut into reads.
                    Box::pin(self.write_last(session)).await;
                    return Err(ending);
                }
            };
            self.write_out(session, Some(&session.outbox)).await?;
            if received == Received::SomeLeft {
                continue;
            }
            tokio::select! {
                read = fill(&mut self.stream, &mut self.packets) => {
                    if read? == 0 {
                        return Err(Ending::PeerClosed);
                    }
                }
                frames = poll_fn(|cx| session.outbox.poll_take(cx)) => {
                    for frame in frames.map_err(Ending::ByHub)? {
                        protocol::encode_frame(frame, session.target(), &mut self.out, &mut self.written)?;
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    if self.expires.is_some_and(|expires| expires <= now) {
                        return Err(Ending::TokenExpired);
                    }
                    if last_packet + self.keep_alive <= now {
                        return Err(Ending::KeepAlive);
                    }
                    timer.as_mut().reset(self.deadline(last_packet));
                }
            }
        }
    }

    /// Writes what waits in `out`, unless the peer takes too long to read it.
    async fn write_last(&mut self, session: &Session) {
        let _ = timeout(FAREWELL_DEADLINE, self.write_out(session, None)).await;
    }

    /// Writes what waits in `out`, which completes messages that nobody will
    /// acknowledge.
    async fn write_out(&mut self, session: &Session, outbox: Option<&Outbox>) -> Result<(), Ending> {
        if self.out.is_empty() {
            return Ok(());
        }
        write_all(&mut self.stream, &mut self.out, outbox, self.expires).await?;
        // Drops the storage: an idle connection holds none.
        self.out = BytesMut::new();
        let written = std::mem::take(&mut self.written);
        if !written.is_empty() {
            session.complete_messages(|_, token| written.contains(&token));
        }
        Ok(())
    }

    /// Handles the packets that have arrived, as far as their answers may wait
    /// for one write.
    fn handle_received(
        &mut self,
        session: &Session,
        hub: &HubState,
        last_packet: &mut Instant,
    ) -> Result<Received, Ending> {
        while self.out.len() < ANSWERS_BYTES {
            let Some(packet) = self.packets.next_packet()? else {
                return Ok(Received::AllHandled);
            };
            *last_packet = Instant::now();
            hub.counters.packets_received.add(1);
            let next = protocol::handle(packet, session, &hub.settings, &mut self.out)?;
            // After each packet, so that answers never fill the outbox: a device
            // that has not had the chance to read is no slow reader.
            for frame in session.outbox.take_now().map_err(Ending::ByHub)? {
                protocol::encode_frame(frame, session.target(), &mut self.out, &mut self.written)?;
            }
            if next == Next::Disconnect {
                return Err(Ending::Disconnect);
            }
        }
        Ok(Received::SomeLeft)
    }

    /// When the timers have to be looked at next. Packets only move
    /// `last_packet`: the timer itself is set anew when it fires, not for each.
    fn deadline(&self, last_packet: Instant) -> Instant {
        let silence = last_packet + self.keep_alive;
        self.expires.map_or(silence, |expires| expires.min(silence))
    }
}

/// Writes and flushes all of `out`, unless the peer stops reading, its token
/// expires meanwhile or the hub wants the connection closed.
async fn write_all<S>(
    stream: &mut S,
    out: &mut BytesMut,
    outbox: Option<&Outbox>,
    expires: Option<Instant>,
) -> Result<(), Ending>
where
    S: AsyncWrite + Unpin,
{
    let closed = |cx: &mut Context<'_>| outbox.map_or(Poll::Pending, |outbox| outbox.poll_closed(cx));
    writing::write_all(stream, out, expires, closed)
        .await
        .map_err(|unwritten| match unwritten {
            Unwritten::Io(error) => error.into(),
            Unwritten::Interrupted(reason) => Ending::ByHub(reason),
            Unwritten::Late if expires.is_some_and(|expires| expires <= Instant::now()) => {
                Ending::TokenExpired
            }
            Unwritten::Late => Ending::WriteStalled,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand of these wait at once; a field too many shows in megabytes.
    #[test]
    fn a_connection_that_waits_is_small() {
        let (_, stream) = tokio::io::duplex(1);
        let connection = serve(stream, Arc::new(HubState::for_tests()), None);
        let bytes = size_of_val(&connection);
        assert!(bytes <= 1_000, "{bytes} bytes");
    }
}
