//! Moves a session's packets over a stream of bytes.
//!
//! Every packet that one read brought is handled before anything is written,
//! and all that follows from them goes out in one write. A client that waits
//! holds no buffer.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use hub_core::limits;
use mqtt_wire::{PacketBuffer, fill};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::credentials::Login;
use crate::event::Event;
use crate::session::{Course, Session, SessionError};

/// How long the hub may refuse to take bytes before the connection counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a connection ended that should have gone on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// MQTT came to an end.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The hub closed the connection, which is its answer to anything it
    /// cannot answer otherwise.
    #[error("connection closed by the hub")]
    Closed,
    /// The stream failed.
    #[error("connection failed")]
    Stream(#[source] io::Error),
    /// The hub stopped taking bytes.
    #[error("the hub takes no bytes")]
    Stalled,
}

/// Why a connection ended as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to stop, and said goodbye to the hub.
    Stopped,
    /// Its token is about to expire: time for a new connection.
    Renewal,
}

/// How it goes on after one turn.
enum Turn {
    Continue,
    Renew,
    Stop,
}

/// A device's connection: a session and the stream that carries it.
#[derive(Debug)]
pub struct Client<'a, S> {
    stream: S,
    session: &'a mut Session,
    buffer: PacketBuffer,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Client<'a, S> {
    /// Connects and subscribes; returns when the hub has accepted both.
    ///
    /// # Errors
    /// When the hub refuses, takes longer than the session's connect timeout,
    /// or the stream fails.
    pub async fn open(
        stream: S,
        session: &'a mut Session,
        login: &Login,
        observe: &impl Fn(Event<'_>),
    ) -> Result<Self, ClientError> {
        let mut client = Self {
            stream,
            session,
            buffer: PacketBuffer::new(limits::MQTT_PACKET_BYTES),
        };
        let now = Instant::now();
        let mut out = BytesMut::new();
        client.session.open(login, now, &mut out)?;
        client.flush(out).await?;
        let mut timer = Box::pin(sleep_until(client.session.next_timeout()));
        while !client.session.is_ready() {
            // Not ready, so there is nothing yet to renew.
            client.turn(timer.as_mut(), std::future::pending(), observe).await?;
        }
        Ok(client)
    }

    /// Serves the device until `stop` is cancelled, its token has to be
    /// renewed or the connection fails.
    ///
    /// # Errors
    /// When the connection fails or the hub breaks the protocol.
    pub async fn run(
        mut self,
        stop: &CancellationToken,
        observe: &impl Fn(Event<'_>),
    ) -> Result<End, ClientError> {
        let timer = sleep_until(self.session.next_timeout());
        tokio::pin!(timer);
        let stopped = stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let end = match self.turn(timer.as_mut(), stopped.as_mut(), observe).await? {
                Turn::Continue => continue,
                Turn::Renew => End::Renewal,
                Turn::Stop => End::Stopped,
            };
            self.close().await;
            return Ok(end);
        }
    }

    /// Waits for bytes, a timeout or `stop`, and does everything that follows
    /// from the first of them.
    async fn turn(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        stop: impl Future<Output = ()>,
        observe: &impl Fn(Event<'_>),
    ) -> Result<Turn, ClientError> {
        // A timer that fires early costs less than one moved at every packet.
        let due = self.session.next_timeout();
        if due < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(due);
        }
        let mut out = BytesMut::new();
        let mut turn = Turn::Continue;
        tokio::select! {
            read = fill(&mut self.stream, &mut self.buffer) => {
                if read.map_err(ClientError::Stream)? == 0 {
                    return Err(ClientError::Closed);
                }
                let now = Instant::now();
                while let Some(packet) = self.buffer.next_packet().map_err(SessionError::Wire)? {
                    self.session.handle_packet(packet, now, &mut out, observe)?;
                }
            }
            () = timer => {
                if self.session.handle_timeout(Instant::now(), &mut out, observe)? == Course::Renew {
                    turn = Turn::Renew;
                }
            }
            () = stop => turn = Turn::Stop,
        }
        // Outside of the choice above: half a packet must never be left behind.
        self.flush(out).await?;
        Ok(turn)
    }

    async fn flush(&mut self, mut out: BytesMut) -> Result<(), ClientError> {
        if out.is_empty() {
            return Ok(());
        }
        let written = async {
            self.stream.write_all_buf(&mut out).await?;
            self.stream.flush().await
        };
        match timeout(WRITE_TIMEOUT, written).await {
            Ok(result) => result.map_err(ClientError::Stream),
            Err(_) => Err(ClientError::Stalled),
        }
    }

    /// Says goodbye; a hub that does not listen any more changes nothing.
    async fn close(&mut self) {
        let mut out = BytesMut::new();
        self.session.close(&mut out);
        if self.flush(out).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests;
