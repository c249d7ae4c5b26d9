//! What a device does, as a pure function: input in, at most one action out.
//!
//! A [`Behaviour`] is the same for a whole fleet and is shared; a [`Device`] is
//! one device that follows it. The module knows neither MQTT nor time: the
//! [session](crate::session) turns packets into [`Input`]s, carries out the
//! [`Action`]s, and waits where an answer has a delay.

mod file;
pub mod properties;
mod telemetry;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_core::ids::Target;
use serde_json::{Map, Value, json};

pub use file::BehaviourError;
pub use telemetry::Telemetry;

/// How a fleet's devices react, made once and shared by all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// Few, so that looking through them beats hashing.
    methods: Vec<(Arc<str>, MethodAnswer)>,
    reflect_desired: bool,
    telemetry: Option<Telemetry>,
}

/// What a device answers to a direct method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodAnswer {
    /// The status, by convention like HTTP's.
    pub status: i32,
    /// The body, JSON text; empty bytes mean no body. Serialised once and
    /// shared by every answer.
    pub payload: Bytes,
    /// How long the device works before it answers.
    pub delay: Duration,
}

impl MethodAnswer {
    /// An answer without delay.
    #[must_use]
    pub fn new(status: i32, payload: &Value) -> Self {
        Self {
            status,
            payload: Bytes::from(payload.to_string()),
            delay: Duration::ZERO,
        }
    }

    /// The same answer after `delay`.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// The device of the tutorials: its one method `lockDoor` succeeds.
impl Default for Behaviour {
    fn default() -> Self {
        let response = json!({ "Response": "lockDoor called successfully" });
        Self {
            methods: vec![("lockDoor".into(), MethodAnswer::new(200, &response))],
            reflect_desired: false,
            telemetry: None,
        }
    }
}

impl Behaviour {
    /// Adds a method, or replaces the one of that name.
    #[must_use]
    pub fn with_method(mut self, name: &str, answer: MethodAnswer) -> Self {
        match self.methods.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, old)) => *old = answer,
            None => self.methods.push((name.into(), answer)),
        }
        self
    }

    /// Makes the device report every desired property that it is given, which
    /// is how a device confirms that it took a setting over.
    #[must_use]
    pub fn with_reflection(mut self) -> Self {
        self.reflect_desired = true;
        self
    }

    /// Makes the device send telemetry.
    #[must_use]
    pub fn with_telemetry(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// The telemetry, when there is any.
    #[must_use]
    pub fn telemetry(&self) -> Option<&Telemetry> {
        self.telemetry.as_ref()
    }

    /// The names of the methods that the device has.
    pub fn method_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.methods.iter().map(|(name, _)| name)
    }

    fn method(&self, name: &str) -> Option<&MethodAnswer> {
        self.methods
            .iter()
            .find_map(|(known, answer)| (**known == *name).then_some(answer))
    }
}

/// Whether a device treats its methods as the [`Behaviour`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conduct {
    /// It does.
    #[default]
    Normal,
    /// Every method ends in status 500.
    Failing,
    /// No method is ever answered.
    Silent,
}

/// What reaches a device.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A direct method is called. The payload is not looked at.
    Method {
        /// The method's name.
        name: &'a str,
    },
    /// The device has read its twin after connecting.
    TwinRead {
        /// The desired properties, with `$version`.
        desired: &'a Map<String, Value>,
        /// The reported properties, with `$version`.
        reported: &'a Map<String, Value>,
    },
    /// Desired properties have changed.
    DesiredChanged {
        /// The change as a merge patch, with `$version`.
        patch: &'a Map<String, Value>,
    },
    /// The telemetry interval has passed.
    TelemetryDue,
}

/// What a device does about an [`Input`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answers the method, after the answer's delay.
    Respond(MethodAnswer),
    /// Updates its reported properties with this merge patch, JSON text.
    Report(Bytes),
    /// Sends this telemetry body.
    Publish(Bytes),
}

/// One device: a shared behaviour and the little that is its own.
#[derive(Debug, Clone)]
pub struct Device {
    target: Target,
    behaviour: Arc<Behaviour>,
    conduct: Conduct,
    sequence: u64,
}

impl Device {
    /// A device, or module, that has sent nothing yet.
    #[must_use]
    pub fn new(target: Target, behaviour: Arc<Behaviour>, conduct: Conduct) -> Self {
        Self {
            target,
            behaviour,
            conduct,
            sequence: 0,
        }
    }

    /// Who the device is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What it follows.
    #[must_use]
    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Decides what to do about `input`.
    pub fn handle(&mut self, input: Input<'_>) -> Option<Action> {
        match input {
            Input::Method { name } => self.answer(name).map(Action::Respond),
            Input::TwinRead { desired, reported } => {
                let wanted = properties::content(desired);
                // What is reported already need not be reported at every reconnect.
                let known = wanted
                    .iter()
                    .all(|(key, value)| reported.get(key).is_some_and(|has| properties::contains(has, value)));
                (self.behaviour.reflect_desired && !known).then(|| report(wanted))
            }
            Input::DesiredChanged { patch } => {
                let wanted = properties::content(patch);
                (self.behaviour.reflect_desired && !wanted.is_empty()).then(|| report(wanted))
            }
            Input::TelemetryDue => {
                let telemetry = self.behaviour.telemetry.as_ref()?;
                self.sequence += 1;
                Some(Action::Publish(telemetry.body(&self.target, self.sequence)))
            }
        }
    }

    fn answer(&self, name: &str) -> Option<MethodAnswer> {
        match self.conduct {
            Conduct::Silent => None,
            Conduct::Failing => Some(MethodAnswer {
                status: 500,
                payload: Bytes::from_static(br#"{"error":"simulated failure"}"#),
                delay: Duration::ZERO,
            }),
            Conduct::Normal => Some(match self.behaviour.method(name) {
                Some(answer) => answer.clone(),
                None => {
                    let text = format!("the device has no method {name:?}");
                    MethodAnswer::new(404, &json!({ "error": text }))
                }
            }),
        }
    }
}

fn report(properties: Map<String, Value>) -> Action {
    Action::Report(Bytes::from(Value::Object(properties).to_string()))
}
