//! A behaviour written down as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hub_core::duration::{self, DurationError};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Behaviour, MethodAnswer, Telemetry};

/// Why a text does not describe a behaviour.
#[derive(Debug, thiserror::Error)]
pub enum BehaviourError {
    /// The text is not JSON or has unknown or ill-typed members.
    #[error("the behaviour is not as documented")]
    Json(#[source] serde_json::Error),
    /// A method is not given as `name=status[:json[:delay]]`.
    #[error("a method is given as name=status, name=status:json or name=status:json:delay")]
    MethodForm,
    /// A method's answer is not JSON.
    #[error("the answer of method {name} is not JSON")]
    MethodJson {
        /// The method's name.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A method's delay cannot be read.
    #[error("the delay of method {name} cannot be read")]
    MethodDelay {
        /// The method's name.
        name: String,
        /// What is wrong with it.
        source: DurationError,
    },
}

/// The document: all members are optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    /// Absent: the tutorial's `lockDoor`.
    methods: Option<BTreeMap<String, Method>>,
    #[serde(default)]
    reflect_desired: bool,
    telemetry: Option<TelemetryDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Method {
    #[serde(default = "success")]
    status: i32,
    /// Absent: an empty body, which a caller sees as `null`.
    payload: Option<Value>,
    #[serde(default)]
    delay: Interval,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TelemetryDocument {
    interval: Interval,
    payload: Option<Value>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

/// A duration as text with a unit, or as a number of seconds.
#[derive(Default)]
struct Interval(Duration);

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Number(seconds) => seconds.to_string(),
            _ => return Err(serde::de::Error::custom(DurationError)),
        };
        duration::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

fn success() -> i32 {
    200
}

impl Behaviour {
    /// Reads a behaviour from JSON; every member may be left out:
    ///
    /// ```
    /// # let behaviour = device_sim::Behaviour::from_json(r#"
    /// {
    ///   "methods": {
    ///     "lockDoor": { "status": 200, "payload": { "locked": true }, "delay": "250ms" }
    ///   },
    ///   "reflectDesired": true,
    ///   "telemetry": {
    ///     "interval": "10s",
    ///     "payload": { "device": "${device}", "number": "${sequence}", "temperature": 21.5 },
    ///     "properties": { "alert": "false" }
    ///   }
    /// }
    /// # "#).unwrap();
    /// # assert_eq!(behaviour.method_names().count(), 1);
    /// ```
    ///
    /// Without `methods` the device has the tutorial's `lockDoor`; given
    /// methods take its place. A payload that is left out is an empty answer.
    ///
    /// # Errors
    /// When the text is not such a document.
    pub fn from_json(text: &str) -> Result<Self, BehaviourError> {
        let document: Document = serde_json::from_str(text).map_err(BehaviourError::Json)?;
        let mut behaviour = Self::default();
        if let Some(methods) = document.methods {
            let answer = |method: Method| MethodAnswer {
                status: method.status,
                payload: method
                    .payload
                    .map_or_else(Bytes::new, |value| Bytes::from(value.to_string())),
                delay: method.delay.0,
            };
            behaviour.methods = methods
                .into_iter()
                .map(|(name, method)| (name.into(), answer(method)))
                .collect();
        }
        behaviour.reflect_desired = document.reflect_desired;
        behaviour.telemetry = document.telemetry.map(|telemetry| match telemetry.payload {
            None => Telemetry::every(telemetry.interval.0),
            Some(payload) => Telemetry::new(telemetry.interval.0, &payload, telemetry.properties),
        });
        Ok(behaviour)
    }
}

impl MethodAnswer {
    /// Reads a method and its answer from `name=status`, `name=status:json` or
    /// `name=status:json:delay`, as in `openDoor=409:{"locked":true}:250ms`.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn parse(text: &str) -> Result<(String, Self), BehaviourError> {
        let (name, rest) = text.split_once('=').ok_or(BehaviourError::MethodForm)?;
        let (status, rest) = match rest.split_once(':') {
            None => (rest, None),
            Some((status, rest)) => (status, Some(rest)),
        };
        let status = status.parse().map_err(|_| BehaviourError::MethodForm)?;
        if name.is_empty() {
            return Err(BehaviourError::MethodForm);
        }
        let (payload, delay) = match rest {
            None => (Bytes::new(), Duration::ZERO),
            Some(rest) => body_and_delay(name, rest)?,
        };
        let answer = Self {
            status,
            payload,
            delay,
        };
        Ok((name.to_owned(), answer))
    }
}

/// JSON contains colons, so its own grammar has to tell where it ends.
fn body_and_delay(name: &str, text: &str) -> Result<(Bytes, Duration), BehaviourError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let body = match values.next() {
        Some(Ok(value)) => Bytes::from(value.get().to_owned()),
        Some(Err(source)) => {
            let name = name.to_owned();
            return Err(BehaviourError::MethodJson { name, source });
        }
        None => return Err(BehaviourError::MethodForm),
    };
    let delay = match text[values.byte_offset()..].trim() {
        "" => Duration::ZERO,
        rest => {
            let rest = rest.strip_prefix(':').ok_or(BehaviourError::MethodForm)?;
            duration::parse(rest).map_err(|source| BehaviourError::MethodDelay {
                name: name.to_owned(),
                source,
            })?
        }
    };
    Ok((body, delay))
}
