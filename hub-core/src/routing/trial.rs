//! A message to try a configuration with, in the form of the service's test of
//! all routes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value as Json;

use super::evaluation::sent;
use super::message::{Message, SenderTwin};
use super::reader::Members;
use super::{RoutingError, source_from_name, source_name};
use crate::events::{AuthMethod, AuthScope, Origin, Sender, Source};
use crate::ids::{DeviceId, ModuleId, Target};
use crate::limits;
use crate::property_bag::{Bag, MessageProperties, SystemProperty};
use crate::query::{Row, SystemReference};
use crate::time::Timestamp;

/// The device that sends what names no device.
const DEVICE: &str = "testDevice";

/// A message that nobody sent.
#[derive(Debug, Clone)]
pub struct Trial {
    source: Source,
    origin: Origin,
    bag: Bag<'static>,
    body: Bytes,
    enqueued: Option<Timestamp>,
    twin: Option<Json>,
}

impl Trial {
    /// Reads `{"routingSource": …, "message": {"body": …, "appProperties": {},
    /// "systemProperties": {}}, "twin": {"tags": {}, "properties": {"desired": {},
    /// "reported": {}}}}`; everything may be left out.
    ///
    /// System properties have the names that conditions have for them. A body is
    /// a string; anything else is JSON, and says so unless its content type and
    /// encoding are given.
    ///
    /// # Errors
    /// Says what is wrong and where: unknown members, wrong types, ids and times
    /// that are none, a body or properties above the size of a message.
    pub fn from_json(value: &Json) -> Result<Self, RoutingError> {
        let device = DeviceId::parse(DEVICE).map_err(|e| RoutingError::new("test".into(), &e.to_string()))?;
        let nobody = Origin {
            target: Target::device(device),
            sender: None,
        };
        Self::of(nobody, value)
    }

    /// The same of a sender, as far as the message does not name another. Events
    /// of the hub itself are about it and have no sender.
    ///
    /// # Errors
    /// As [`Trial::from_json`].
    pub fn of(origin: Origin, value: &Json) -> Result<Self, RoutingError> {
        let known = ["routingSource", "message", "twin"];
        let members = Members::of(value, "test".into(), &known)?;
        let source = match members.text("routingSource")? {
            None => Source::Telemetry,
            Some(name) => source_from_name(name).ok_or_else(|| {
                let known: Vec<&str> = Source::ALL.iter().map(|source| source_name(*source)).collect();
                members.fault(&format!(
                    "unknown routingSource {name:?}; known are {}",
                    known.join(", ")
                ))
            })?,
        };
        let twin = members.get("twin");
        if twin.is_some_and(|twin| !twin.is_object()) {
            return Err(members.fault("twin must be an object"));
        }
        let mut trial = Self {
            source,
            origin: Origin {
                sender: origin.sender.filter(|_| source == Source::Telemetry),
                ..origin
            },
            bag: Bag::default(),
            body: Bytes::new(),
            enqueued: None,
            twin: twin.cloned(),
        };
        if let Some(message) = members.get("message") {
            trial.read(message)?;
        }
        Ok(trial)
    }

    fn read(&mut self, message: &Json) -> Result<(), RoutingError> {
        let known = ["body", "appProperties", "systemProperties"];
        let members = Members::of(message, "message".into(), &known)?;
        let mut properties = MessageProperties {
            system: BTreeMap::new(),
            application: texts(&members, "appProperties")?,
        };
        match members.get("body") {
            None => {}
            Some(Json::String(text)) => self.body = Bytes::copy_from_slice(text.as_bytes()),
            Some(json) => {
                self.body = Bytes::from(json.to_string());
                let json = [
                    (SystemProperty::ContentType, "application/json"),
                    (SystemProperty::ContentEncoding, "utf-8"),
                ];
                properties
                    .system
                    .extend(json.map(|(property, text)| (property, text.to_owned())));
            }
        }
        self.read_system(&members, &mut properties)?;
        if properties.size() + self.body.len() > limits::D2C_MESSAGE_BYTES {
            return Err(members.fault(&format!(
                "the message has more than {} bytes",
                limits::D2C_MESSAGE_BYTES
            )));
        }
        self.bag = Bag::from(&properties);
        Ok(())
    }

    fn read_system(
        &mut self,
        members: &Members<'_>,
        properties: &mut MessageProperties,
    ) -> Result<(), RoutingError> {
        let (mut generation_id, mut auth, mut model_id) = (None, None, None);
        for (name, text) in texts(members, "systemProperties")? {
            let fault = |reason: String| members.fault(&format!("systemProperties: {reason}"));
            let property = SystemReference::from_name(name.trim_start_matches('$'))
                .ok_or_else(|| fault(format!("unknown system property {name:?}")))?;
            if let Some(property) = sent(property) {
                properties.system.insert(property, text);
                continue;
            }
            let told = |e: &dyn std::fmt::Display| fault(format!("{name}: {e}"));
            match property {
                SystemReference::ConnectionDeviceId => {
                    self.origin.target.device = DeviceId::parse(&text).map_err(|e| told(&e))?;
                }
                SystemReference::ConnectionModuleId => {
                    self.origin.target.module = Some(ModuleId::parse(&text).map_err(|e| told(&e))?);
                }
                SystemReference::EnqueuedTime => {
                    self.enqueued = Some(Timestamp::parse(&text).map_err(|e| told(&e))?);
                }
                SystemReference::ConnectionAuthMethod => auth = Some(auth_method(&text)),
                SystemReference::ConnectionDeviceGenerationId => generation_id = Some(text),
                SystemReference::DataSchema => model_id = Some(text),
                // The source of the message follows from the routing source.
                _ => {}
            }
        }
        if generation_id.is_some() || auth.is_some() || model_id.is_some() {
            let sender = self.origin.sender.get_or_insert_with(|| Sender {
                generation_id: "".into(),
                auth: AuthMethod::Sas(AuthScope::Device),
                model_id: None,
            });
            if let Some(generation_id) = generation_id {
                sender.generation_id = generation_id.into();
            }
            sender.auth = auth.unwrap_or(sender.auth);
            sender.model_id = model_id.map(Into::into).or(sender.model_id.take());
        }
        Ok(())
    }

    /// The message as routing sees it, accepted at `now` unless it says when.
    #[must_use]
    pub fn message(&self, now: Timestamp) -> Message<'_> {
        Message {
            source: self.source,
            origin: &self.origin,
            bag: &self.bag,
            body: &self.body,
            enqueued: self.enqueued.unwrap_or(now),
            twin: self.twin.is_some().then_some(self),
        }
    }
}

/// An object whose members are strings.
fn texts(members: &Members<'_>, name: &str) -> Result<BTreeMap<String, String>, RoutingError> {
    let object = match members.get(name) {
        None => return Ok(BTreeMap::new()),
        Some(Json::Object(object)) => object,
        Some(_) => return Err(members.fault(&format!("{name} must be an object"))),
    };
    let text = |(key, value): (&String, &Json)| {
        let value = value
            .as_str()
            .ok_or_else(|| members.fault(&format!("{name}: {key:?} must be a string")))?;
        Ok((key.clone(), value.to_owned()))
    };
    object.iter().map(text).collect()
}

/// Reads what [`AuthMethod`] displays as; whatever else is a device's token.
fn auth_method(text: &str) -> AuthMethod {
    let json: Json = serde_json::from_str(text).unwrap_or_default();
    let scope = match json["scope"].as_str() {
        Some("module") => AuthScope::Module,
        Some("hub") => AuthScope::Hub,
        _ => AuthScope::Device,
    };
    match json["type"].as_str() {
        Some("x509") => AuthMethod::X509(scope),
        _ => AuthMethod::Sas(scope),
    }
}

impl SenderTwin for Trial {
    fn look(&self, look: &mut dyn FnMut(&dyn Row)) {
        if let Some(twin) = &self.twin {
            look(twin);
        }
    }
}
