//! What a session does about the messages that the hub publishes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hub_core::topic::{DeviceTopic, HubTopic};
use mqtt_wire::{Packet, Publish, QoS, publish_qos0};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::requests::TwinRequest;
use super::{Delayed, FAR, IN_FLIGHT, Session, SessionError};
use crate::behaviour::{Action, Input, MethodAnswer};
use crate::event::{Event, Failure};

impl Session {
    pub(super) fn handle_publish(
        &mut self,
        publish: &Publish,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        let payload = &publish.payload;
        match HubTopic::parse(&publish.topic) {
            Ok(HubTopic::MethodRequest { name, rid }) => {
                self.handle_method(name, rid, payload, now, out, observe)?;
            }
            Ok(HubTopic::DesiredChanged { version }) => {
                self.handle_desired(version, payload, now, out, observe)?;
            }
            Ok(HubTopic::TwinResponse { status, rid, .. }) => {
                self.handle_twin_response(status, rid, payload, now, out, observe)?;
            }
            Ok(HubTopic::CloudToDevice { bag, .. }) => observe(Event::Message { bag, body: payload }),
            Err(_) => observe(Event::Failure(Failure::Topic)),
        }
        match publish.packet_id {
            Some(packet_id) if publish.qos == QoS::AtLeastOnce => {
                self.send(Packet::PublishAck { packet_id }, now, out)
            }
            _ => Ok(()),
        }
    }

    fn handle_method(
        &mut self,
        name: &str,
        rid: &str,
        payload: &[u8],
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        let answer = match self.device.handle(Input::Method { name }) {
            Some(Action::Respond(answer)) if !answer.delay.is_zero() && self.delayed.len() >= IN_FLIGHT => {
                Some(busy())
            }
            Some(Action::Respond(answer)) => Some(answer),
            _ => None,
        };
        observe(Event::Method {
            name,
            payload,
            answer: answer.as_ref(),
        });
        match answer {
            None => Ok(()),
            Some(answer) if answer.delay.is_zero() => {
                self.respond(rid, answer.status, answer.payload, now, out, observe)
            }
            Some(answer) => {
                self.delayed.push(Delayed {
                    due: now + answer.delay.min(FAR),
                    rid: rid.into(),
                    status: answer.status,
                    payload: answer.payload,
                });
                Ok(())
            }
        }
    }

    pub(super) fn respond(
        &mut self,
        rid: &str,
        status: i32,
        payload: Bytes,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        let topic = DeviceTopic::MethodResponse { status, rid }.to_string();
        self.send(publish_qos0(topic, payload), now, out)?;
        observe(Event::MethodAnswered);
        Ok(())
    }

    fn handle_desired(
        &mut self,
        version: u64,
        payload: &[u8],
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        if self.desired_version.is_some_and(|known| version <= known) {
            return Ok(());
        }
        let Ok(patch) = serde_json::from_slice::<Map<String, Value>>(payload) else {
            observe(Event::Failure(Failure::Twin));
            return Ok(());
        };
        self.desired_version = Some(version);
        let patch = &patch;
        observe(Event::DesiredChanged { version, patch });
        let action = self.device.handle(Input::DesiredChanged { patch });
        self.report(action, now, out, observe)
    }

    fn handle_twin_response(
        &mut self,
        status: u16,
        rid: &str,
        payload: &[u8],
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        let Some((request, took)) = self.twin.finish(|request| request.has_rid(rid), now) else {
            // Its request was given up.
            return Ok(());
        };
        if !(200..300).contains(&status) {
            observe(Event::Failure(Failure::TwinRefused { status }));
            return Ok(());
        }
        if let TwinRequest::Report(_) = request {
            observe(Event::ReportAccepted { took });
            return Ok(());
        }
        let twin = serde_json::from_slice::<Value>(payload).unwrap_or_default();
        let section = |name: &str| twin.get(name).and_then(Value::as_object);
        let (Some(desired), Some(reported)) = (section("desired"), section("reported")) else {
            observe(Event::Failure(Failure::Twin));
            return Ok(());
        };
        let version = desired.get("$version").and_then(Value::as_u64).unwrap_or(0);
        if self.desired_version.is_some_and(|known| version < known) {
            // A change overtook the response, so what was read is out of date.
            return self.read_twin(now, out);
        }
        self.desired_version = Some(version);
        observe(Event::TwinRead { took, desired });
        let action = self.device.handle(Input::TwinRead { desired, reported });
        self.report(action, now, out, observe)
    }

    fn report(
        &mut self,
        action: Option<Action>,
        now: Instant,
        out: &mut BytesMut,
        observe: &impl Fn(Event<'_>),
    ) -> Result<(), SessionError> {
        let Some(Action::Report(patch)) = action else {
            return Ok(());
        };
        if self.twin.len() >= IN_FLIGHT {
            observe(Event::Failure(Failure::Skipped));
            return Ok(());
        }
        let rid = self.twin.next_id();
        let topic = DeviceTopic::TwinPatchReported {
            rid: &rid.to_string(),
            version: None,
        }
        .to_string();
        self.twin.begin(TwinRequest::Report(rid), now);
        observe(Event::ReportSent { patch: &patch });
        self.send(publish_qos0(topic, patch), now, out)
    }
}

/// The answer of a device that has too many delayed answers under way.
fn busy() -> MethodAnswer {
    MethodAnswer {
        status: 429,
        payload: Bytes::from_static(br#"{"error":"too many methods under way"}"#),
        delay: Duration::ZERO,
    }
}
