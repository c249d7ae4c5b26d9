//! One client of the tap: MQTT 3.1.1, for reading.
//!
//! Takes subscriptions, which go to the router, and hands on what the router
//! gives, all with QoS 0. The router sees nothing else of a client, not even its
//! id. What breaks a rule ends the connection.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use futures_util::FutureExt as _;
use hub_core::limits;
use mqtt_wire::{
    Connect, ConnectAck, ConnectAckReason, LEVEL_3_1_1, Packet, PacketBuffer, QoS, SubscribeReturnCode,
    WireError, encode, fill, publish_qos0,
};
use rumqttd::Notification;
use rumqttd::protocol::valid_filter;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::link::Link;
use super::topics::ROOT;
use super::{RouterGone, Tap, lock};
use crate::writing::{self, Unwritten, shut_down};

/// Bytes of the largest packet that is read: a SUBSCRIBE.
const PACKET_BYTES: u32 = 64 * 1024;
/// Messages are collected up to this many bytes before they are written, plus
/// the one that goes beyond.
const OUT_BYTES: usize = 64 * 1024;
/// How long a SUBACK waits for the journal to be watched.
const WATCHING: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the client disconnected")]
    Disconnect,
    #[error("the client closed the connection")]
    PeerClosed,
    #[error("no CONNECT in time")]
    NoConnect,
    #[error("no packet within the keep-alive")]
    KeepAlive,
    #[error("the client does not read what it is sent")]
    WriteStalled,
    #[error("refused with {0:?}")]
    Refused(ConnectAckReason),
    #[error("the tap is for reading, and the client publishes")]
    Publishes,
    #[error("a packet that does not belong here")]
    Unexpected,
    #[error(transparent)]
    RouterGone(#[from] RouterGone),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Unwritten<Infallible>> for Ending {
    fn from(unwritten: Unwritten<Infallible>) -> Self {
        match unwritten {
            Unwritten::Io(error) => Self::Io(error),
            Unwritten::Late => Self::WriteStalled,
            Unwritten::Interrupted(never) => match never {},
        }
    }
}

/// Serves a client until it goes, or the router does.
pub(super) async fn serve(mut stream: TcpStream, tap: Arc<Tap>) {
    let ending = match run(&mut stream, &tap).await {
        Ok(never) => match never {},
        Err(ending) => ending,
    };
    tracing::debug!(%ending, "a client of the event tap is gone");
    shut_down(&mut stream).await;
}

async fn run(stream: &mut TcpStream, tap: &Tap) -> Result<Infallible, Ending> {
    let mut packets = PacketBuffer::new(PACKET_BYTES);
    let connected = timeout(limits::MQTT_CONNECT_DEADLINE, connect(stream, &mut packets));
    let admitted = match connected.await.map_err(|_| Ending::NoConnect)? {
        Ok(connect) => admit(&connect, tap).map(|place| (place, connect.keep_alive)),
        Err(Ending::Wire(WireError::Protocol)) => Err(ConnectAckReason::UnacceptableProtocolVersion),
        Err(Ending::Wire(WireError::ClientId)) => Err(ConnectAckReason::IdentifierRejected),
        Err(ending) => return Err(ending),
    };
    let mut out = BytesMut::new();
    let return_code = match &admitted {
        Ok(_) => ConnectAckReason::ConnectionAccepted,
        Err(reason) => *reason,
    };
    let answer = ConnectAck {
        return_code,
        session_present: false,
    };
    encode(Packet::ConnectAck(answer), &mut out)?;
    let (place, keep_alive) = match admitted {
        Ok(admitted) => admitted,
        Err(reason) => {
            write(stream, &mut out).await?;
            return Err(Ending::Refused(reason));
        }
    };
    let mut client = Client {
        link: tap.link(&format!("client-{}", place.number)).await?,
        tap,
        filters: HashSet::new(),
        listening: None,
        is_paused: false,
        _place: place,
    };
    // One and a half times (MQTT-3.1.2-24); 0 is for ever.
    let patience = Duration::from_secs(u64::from(keep_alive)) * 3 / 2;
    let mut heard = Instant::now();
    loop {
        while let Some(packet) = packets.next_packet()? {
            client.handle(packet, &mut out).await?;
        }
        while out.len() < OUT_BYTES
            && let Some(news) = client.link.next().now_or_never()
        {
            client.hand_on(news?, &mut out)?;
        }
        write(stream, &mut out).await?;
        tokio::select! {
            biased;
            read = fill(stream, &mut packets) => {
                if read? == 0 {
                    return Err(Ending::PeerClosed);
                }
                heard = Instant::now();
            }
            () = sleep_until(heard + patience), if keep_alive > 0 => return Err(Ending::KeepAlive),
            news = client.link.next() => client.hand_on(news?, &mut out)?,
            // Once all is handed on: it may have stopped twice, and is woken once.
            () = ready(()), if client.is_paused => {
                client.link.wake().await?;
                client.is_paused = false;
            }
        }
    }
}

async fn connect(stream: &mut TcpStream, packets: &mut PacketBuffer) -> Result<Box<Connect>, Ending> {
    loop {
        match packets.next_packet()? {
            Some(Packet::Connect(connect)) => return Ok(connect),
            Some(_) => return Err(Ending::Unexpected),
            None if fill(stream, packets).await? == 0 => return Err(Ending::PeerClosed),
            None => {}
        }
    }
}

/// A place for the client, whatever its name and password are.
fn admit<'a>(connect: &Connect, tap: &'a Tap) -> Result<Place<'a>, ConnectAckReason> {
    if connect.protocol.level() != LEVEL_3_1_1 {
        return Err(ConnectAckReason::UnacceptableProtocolVersion);
    }
    if connect.last_will.is_some() {
        // It would be published.
        return Err(ConnectAckReason::NotAuthorized);
    }
    let free = lock(&tap.places).pop();
    let number = free.ok_or(ConnectAckReason::ServiceUnavailable)?;
    Ok(Place { tap, number })
}

async fn write(stream: &mut TcpStream, out: &mut BytesMut) -> Result<(), Ending> {
    if !out.is_empty() {
        writing::write_all(stream, out, None, |_| Poll::Pending::<Infallible>).await?;
    }
    Ok(())
}

struct Client<'a> {
    link: Link,
    tap: &'a Tap,
    /// Filters that the router has for this client.
    filters: HashSet<ByteString>,
    /// There while it has any.
    listening: Option<Listening<'a>>,
    /// Whether the router waits to be woken.
    is_paused: bool,
    /// Given back after the link, so that a name is never used twice at once.
    _place: Place<'a>,
}

impl Client<'_> {
    async fn handle(&mut self, packet: Packet, out: &mut BytesMut) -> Result<(), Ending> {
        let answer = match packet {
            Packet::Subscribe {
                packet_id,
                topic_filters,
            } => {
                let mut status = Vec::with_capacity(topic_filters.len());
                for (filter, _) in topic_filters {
                    status.push(if self.subscribe(filter).await? {
                        SubscribeReturnCode::Success(QoS::AtMostOnce)
                    } else {
                        SubscribeReturnCode::Failure
                    });
                }
                if self.listening.is_some() {
                    // What happens after the SUBACK is seen.
                    let mut watching = self.tap.watching.subscribe();
                    let _ = timeout(WATCHING, watching.wait_for(|watching| *watching)).await;
                }
                Packet::SubscribeAck { packet_id, status }
            }
            Packet::Unsubscribe {
                packet_id,
                topic_filters,
            } => {
                for filter in topic_filters {
                    if self.filters.remove(&filter) {
                        self.link.unsubscribe(&filter).await?;
                    }
                }
                if self.filters.is_empty() {
                    self.listening = None;
                }
                Packet::UnsubscribeAck { packet_id }
            }
            Packet::PingRequest => Packet::PingResponse,
            Packet::Disconnect => return Err(Ending::Disconnect),
            Packet::Publish(_) => return Err(Ending::Publishes),
            _ => return Err(Ending::Unexpected),
        };
        Ok(encode(answer, out)?)
    }

    /// Whether the subscription is granted.
    async fn subscribe(&mut self, filter: ByteString) -> Result<bool, RouterGone> {
        if !valid_filter(&filter) {
            return Ok(false);
        }
        if !can_match(&filter) || self.filters.contains(&filter) {
            return Ok(true);
        }
        if !self.tap.admits(&filter) {
            tracing::warn!(
                "the event tap refuses a filter: it has had {} different ones, which is the most; those still work",
                limits::EVENT_TAP_FILTERS
            );
            return Ok(false);
        }
        self.link.subscribe(&filter).await?;
        self.filters.insert(filter);
        self.listening.get_or_insert_with(|| Listening::new(self.tap));
        Ok(true)
    }

    /// What comes from the router.
    fn hand_on(&mut self, news: Option<Notification>, out: &mut BytesMut) -> Result<(), Ending> {
        match news {
            Some(Notification::Forward(forward)) => {
                // All topics are ours.
                if let Ok(topic) = ByteString::try_from(forward.publish.topic) {
                    encode(publish_qos0(topic, forward.publish.payload), out)?;
                }
            }
            // It has stopped because too much was waiting here.
            Some(Notification::Unschedule) => self.is_paused = true,
            Some(Notification::Disconnect(..)) => return Err(Ending::Unexpected),
            // Acknowledgements of its own.
            _ => {}
        }
        Ok(())
    }
}

/// Whether a topic of the tap could match the filter; others need not trouble
/// the router.
fn can_match(filter: &str) -> bool {
    let first = filter.split('/').next();
    filter.is_ascii() && matches!(first, Some(ROOT | "+" | "#"))
}

/// A client's place among all; its number makes its name at the router.
struct Place<'a> {
    tap: &'a Tap,
    number: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.tap.places).push(self.number);
    }
}

/// Part of the audience, until it is dropped.
struct Listening<'a>(&'a Tap);

impl<'a> Listening<'a> {
    fn new(tap: &'a Tap) -> Self {
        tap.audience.send_modify(|listeners| *listeners += 1);
        Self(tap)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.audience.send_modify(|listeners| *listeners -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_for_the_taps_topics_reach_the_router() {
        for filter in ["#", "hub/#", "hub/+/telemetry", "+/d/twin", "hub/d/c2d"] {
            assert!(can_match(filter), "{filter}");
        }
        for filter in ["$SYS/#", "$share/g/hub/#", "hu/#", "hub/é/#", "é", "/hub/#", ""] {
            assert!(!can_match(filter), "{filter}");
        }
    }
}
