//! A device's side of MQTT, without sockets and clocks.
//!
//! A [`Session`] takes packets and points in time and appends the packets that
//! follow to an output buffer; the [client](crate::client) moves the bytes.
//! Topics are those of [`hub_core::topic`]; what the device decides comes from
//! its [behaviour](crate::behaviour).
//!
//! One session serves a device for its whole life: every [`Session::open`]
//! starts over with what belongs to a connection and keeps what belongs to
//! the device.

mod deliveries;
mod requests;
#[cfg(test)]
mod tests;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hub_core::topic::{Address, DeviceTopic, Filter};
use mqtt_wire::{
    CleanSession, ConnectAck, ConnectAckReason, Packet, QoS, SubscribeReturnCode, WireError, encode,
    publish_qos0, publish_qos1,
};
use tokio::time::Instant;

use crate::behaviour::{Action, Device, Input};
use crate::credentials::Login;
use crate::event::{Event, Failure};

use self::requests::{Requests, TwinRequest};

/// How long the hub may take to answer a ping, as the C# SDK has it.
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the hub may take to answer a twin request or acknowledge telemetry.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of one kind, or answers, that may be under way at once.
const IN_FLIGHT: usize = 64;
/// A moment that no simulation lives to see, for timers that wait for nothing.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What all devices of a fleet do alike on their connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// Longest time between two packets to the hub, in whole seconds; 0 sends
    /// no pings. The hub closes after one and a half times as long.
    pub keep_alive_seconds: u16,
    /// How long the hub may take from CONNECT to the last SUBACK.
    pub connect_timeout: Duration,
    /// Whether the device reads its twin after connecting, as the SDKs do.
    /// Desired properties that changed while it was offline are missed otherwise.
    pub read_twin: bool,
    /// Whether the device subscribes to cloud-to-device messages.
    pub receive_messages: bool,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            keep_alive_seconds: 60,
            connect_timeout: Duration::from_secs(60),
            read_twin: true,
            receive_messages: false,
        }
    }
}

/// Why a session cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The hub refused the CONNECT.
    #[error("connection refused: {}", meaning(*.0))]
    Refused(ConnectAckReason),
    /// The hub refused a subscription.
    #[error("subscription refused")]
    Subscription,
    /// Bytes from the hub are not MQTT, or a packet for it cannot be expressed.
    #[error("malformed MQTT")]
    Wire(#[from] WireError),
    /// The hub sent a packet that only clients send, or one out of order.
    #[error("unexpected packet from the hub")]
    Unexpected,
    /// The hub took too long to accept the connection.
    #[error("no answer to CONNECT or SUBSCRIBE in time")]
    ConnectTimeout,
    /// The hub took too long to answer a ping.
    #[error("no answer to a ping in time")]
    PingTimeout,
}

fn meaning(reason: ConnectAckReason) -> &'static str {
    match reason {
        ConnectAckReason::ConnectionAccepted => "accepted",
        ConnectAckReason::UnacceptableProtocolVersion => "the hub does not speak MQTT 3.1.1",
        ConnectAckReason::IdentifierRejected => "the client id is not acceptable",
        ConnectAckReason::ServiceUnavailable => "the hub is unavailable or throttles",
        ConnectAckReason::BadUserNameOrPassword => "malformed user name or password",
        ConnectAckReason::NotAuthorized => {
            "not authorised (unknown or disabled device, wrong key, or expired token)"
        }
        ConnectAckReason::Reserved => "for a reason that MQTT does not know",
    }
}

/// Whether a connection is worth keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It goes on.
    Continue,
    /// The token is about to expire: close the connection and open another.
    Renew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Subscribing,
    Ready,
}

/// An answer that waits for its delay to pass.
#[derive(Debug)]
struct Delayed {
    due: Instant,
    rid: Box<str>,
    status: i32,
    payload: Bytes,
}

/// One device and its current connection.
#[derive(Debug)]
pub struct Session {
    device: Device,
    settings: Arc<SessionSettings>,
    /// Place of the device's telemetry within the interval, 0 to 1: a fleet
    /// that connects at once does not send at once.
    phase: f64,
    stage: Stage,
    opened: Instant,
    last_sent: Instant,
    ping_sent: Option<Instant>,
    renew_at: Option<Instant>,
    next_telemetry: Option<Instant>,
    last_packet_id: u16,
    desired_version: Option<u64>,
    twin: Requests<TwinRequest>,
    telemetry: Requests<NonZeroU16>,
    delayed: Vec<Delayed>,
}

impl Session {
    /// A session that has no connection yet. `phase`, from 0 to 1, places the
    /// device's telemetry within the interval.
    #[must_use]
    pub fn new(device: Device, settings: Arc<SessionSettings>, phase: f64) -> Self {
        let now = Instant::now();
        Self {
            device,
            settings,
            phase: phase.clamp(0.0, 1.0),
            stage: Stage::Connecting,
            opened: now,
            last_sent: now,
            ping_sent: None,
            renew_at: None,
            next_telemetry: None,
            last_packet_id: 0,
            desired_version: None,
            twin: Requests::default(),
            telemetry: Requests::default(),
            delayed: Vec::new(),
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the hub has accepted the connection and the subscriptions.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Begins a new connection: appends CONNECT.
    ///
    /// # Errors
    /// When user name or token are too long for MQTT.
    pub fn open(&mut self, login: &Login, now: Instant, out: &mut BytesMut) -> Result<(), SessionError> {
        self.stage = Stage::Connecting;
        self.opened = now;
        self.ping_sent = None;
        // Renewed early, so that clocks may disagree a little.
        self.renew_at = login.valid_for.map(|valid| now + valid.min(FAR).mul_f64(0.85));
        self.next_telemetry = None;
        self.desired_version = None;
        self.twin = Requests::default();
        self.telemetry = Requests::default();
        self.delayed = Vec::new();
        let connect = mqtt_wire::connect(
            &self.device.target().to_string(),
            &login.user_name,
            login.password.as_deref(),
            self.settings.keep_alive_seconds,
            CleanSession::Yes,
        );
        self.send(connect, now, out)
    }

    /// Ends the connection in order: appends DISCONNECT.
    pub fn close(&mut self, out: &mut BytesMut) {
        // DISCONNECT has no content that could be wrong.
        let _ = encode(Packet::Disconnect, out);
    }

    /// Takes a packet from the hub.
    ///
    /// # Errors
    /// When the connection has to end.
    pub fn handle_packet(
        &mut self,
        packet: Packet,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        // Whatever arrives proves that the hub is there.
        self.ping_sent = None;
        match (self.stage, packet) {
            (Stage::Ready, Packet::Publish(publish)) => self.handle_publish(&publish, now, out, observe),
            (Stage::Ready, Packet::PublishAck { packet_id }) => {
                if let Some((_, took)) = self.telemetry.finish(|id| *id == packet_id, now) {
                    observe(Event::TelemetryAcknowledged { took });
                }
                Ok(())
            }
            (_, Packet::PingResponse) => Ok(()),
            (Stage::Connecting, Packet::ConnectAck(ack)) => self.handle_accepted(ack, now, out),
            (Stage::Subscribing, Packet::SubscribeAck { status, .. }) => {
                if status.contains(&SubscribeReturnCode::Failure) {
                    return Err(SessionError::Subscription);
                }
                self.handle_subscribed(now, out, observe)
            }
            // A hub may deliver before it acknowledges the subscription.
            (Stage::Subscribing, Packet::Publish(publish)) => {
                self.handle_publish(&publish, now, out, observe)
            }
            _ => Err(SessionError::Unexpected),
        }
    }

    /// When [`Session::handle_timeout`] wants to be called at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Instant {
        if self.stage != Stage::Ready {
            return self.opened + self.settings.connect_timeout;
        }
        let ping = match self.ping_sent {
            Some(sent) => Some(sent + PING_TIMEOUT),
            None => self.ping_interval().map(|interval| self.last_sent + interval),
        };
        let oldest = self.twin.oldest().into_iter().chain(self.telemetry.oldest());
        oldest
            .map(|sent| sent + REQUEST_TIMEOUT)
            .chain(self.delayed.iter().map(|answer| answer.due))
            .chain([ping, self.renew_at, self.next_telemetry].into_iter().flatten())
            .min()
            .unwrap_or(self.opened + FAR)
    }

    /// Does what is due at `now`; harmless when nothing is.
    ///
    /// # Errors
    /// When the connection has to end.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<Course, SessionError> {
        if self.stage != Stage::Ready {
            return if now < self.opened + self.settings.connect_timeout {
                Ok(Course::Continue)
            } else {
                Err(SessionError::ConnectTimeout)
            };
        }
        while let Some(index) = self.delayed.iter().position(|answer| answer.due <= now) {
            let answer = self.delayed.swap_remove(index);
            self.respond(&answer.rid, answer.status, answer.payload, now, out, observe)?;
        }
        if self.next_telemetry.is_some_and(|due| due <= now) {
            self.send_telemetry(now, out, observe)?;
        }
        while self.twin.take_older(now, REQUEST_TIMEOUT).is_some() {
            observe(Event::Failure(Failure::TwinUnanswered));
        }
        while self.telemetry.take_older(now, REQUEST_TIMEOUT).is_some() {
            observe(Event::Failure(Failure::TelemetryUnacknowledged));
        }
        if self.renew_at.is_some_and(|due| due <= now) {
            return Ok(Course::Renew);
        }
        match (self.ping_sent, self.ping_interval()) {
            (Some(sent), _) if sent + PING_TIMEOUT <= now => return Err(SessionError::PingTimeout),
            (None, Some(interval)) if self.last_sent + interval <= now => {
                self.ping_sent = Some(now);
                self.send(Packet::PingRequest, now, out)?;
            }
            _ => {}
        }
        Ok(Course::Continue)
    }

    fn ping_interval(&self) -> Option<Duration> {
        match self.settings.keep_alive_seconds {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        }
    }

    fn handle_accepted(&mut self, ack: ConnectAck, now: Instant, out: &mut BytesMut) -> Result<(), SessionError> {
        if ack.return_code != ConnectAckReason::ConnectionAccepted {
            return Err(SessionError::Refused(ack.return_code));
        }
        self.stage = Stage::Subscribing;
        let mut filters = vec![
            (Filter::Methods, QoS::AtMostOnce),
            (Filter::DesiredChanges, QoS::AtMostOnce),
            (Filter::TwinResponses, QoS::AtMostOnce),
        ];
        if self.settings.receive_messages {
            filters.push((Filter::CloudToDevice, QoS::AtLeastOnce));
        }
        let target = self.device.target();
        let topic_filters = filters
            .into_iter()
            .map(|(filter, qos)| (filter.text(target).into(), qos))
            .collect();
        let packet_id = self.next_packet_id();
        let subscribe = Packet::Subscribe {
            packet_id,
            topic_filters,
        };
        self.send(subscribe, now, out)
    }

    fn handle_subscribed(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        self.stage = Stage::Ready;
        if let Some(telemetry) = self.device.behaviour().telemetry() {
            self.next_telemetry = Some(now + telemetry.interval().mul_f64(self.phase));
        }
        observe(Event::Connected {
            took: now - self.opened,
        });
        // Only after the SUBACK: the hub drops responses that nobody has
        // subscribed to.
        if self.settings.read_twin {
            self.read_twin(now, out)?;
        }
        Ok(())
    }

    fn read_twin(&mut self, now: Instant, out: &mut BytesMut) -> Result<(), SessionError> {
        let rid = self.twin.next_id();
        let topic = DeviceTopic::TwinGet { rid: &rid.to_string() }.to_string();
        self.twin.begin(TwinRequest::Read(rid), now);
        self.send(publish_qos0(topic, Bytes::new()), now, out)
    }

    fn send_telemetry(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        let Some(interval) = self.device.behaviour().telemetry().map(|t| t.interval()) else {
            self.next_telemetry = None;
            return Ok(());
        };
        // Missed intervals are not made up for.
        let next = self.next_telemetry.unwrap_or(now) + interval;
        self.next_telemetry = Some(if next > now { next } else { now + interval });
        if self.telemetry.len() >= IN_FLIGHT {
            observe(Event::Failure(Failure::Skipped));
            return Ok(());
        }
        let Some(Action::Publish(body)) = self.device.handle(Input::TelemetryDue) else {
            return Ok(());
        };
        let topic = DeviceTopic::Telemetry {
            address: Address::from(self.device.target()),
            bag: self.device.behaviour().telemetry().map_or("", |t| t.bag()),
        }
        .to_string();
        let packet_id = self.next_packet_id();
        self.telemetry.begin(packet_id, now);
        observe(Event::TelemetrySent { body: &body });
        self.send(publish_qos1(topic, body, packet_id), now, out)
    }

    /// Packet ids go round; those in flight are far fewer than there are ids.
    fn next_packet_id(&mut self) -> NonZeroU16 {
        self.last_packet_id = self.last_packet_id.wrapping_add(1);
        match NonZeroU16::new(self.last_packet_id) {
            Some(id) => id,
            None => {
                self.last_packet_id = 1;
                NonZeroU16::MIN
            }
        }
    }

    fn send(&mut self, packet: Packet, now: Instant, out: &mut BytesMut) -> Result<(), SessionError> {
        encode(packet, out)?;
        self.last_sent = now;
        Ok(())
    }
}
