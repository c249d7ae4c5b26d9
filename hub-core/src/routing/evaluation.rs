//! Looks up what conditions ask a message for, each thing at most once per
//! message.

use std::cell::OnceCell;

use serde_json::Value as Json;

use super::message::Message;
use crate::property_bag::{MessageProperties, SystemProperty};
use crate::query::{Condition, Path, Reference, Row, Step, SystemReference, Value};

/// What the conditions of a routing look up, each name once.
#[derive(Debug, Clone, Default)]
pub(super) struct Lookups {
    properties: Vec<Box<str>>,
    twin: Vec<(Path, Box<[Step]>)>,
}

/// A name of a condition, ready to be looked up.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Slot {
    /// An application property, by its place in [`Lookups`].
    Property(usize),
    /// A system property, and the application property that may stand in.
    System(SystemReference, Option<usize>),
    Body(Box<[Step]>),
    /// By its place in [`Lookups`].
    Twin(usize),
    Nothing,
}

impl Lookups {
    /// The condition with its names turned into places.
    pub(super) fn compile(&mut self, condition: &Condition) -> Condition<Slot> {
        condition.clone().map(&mut |reference| match reference {
            Reference::Property(name) => Slot::Property(self.property(name)),
            Reference::System {
                property,
                only_system,
            } => Slot::System(
                property,
                (!only_system).then(|| self.property(format!("${}", property.name()).into())),
            ),
            Reference::Body(steps) => Slot::Body(steps),
            Reference::Twin(path, below) => Slot::Twin(place(&mut self.twin, (path, below))),
            Reference::Nothing(_) => Slot::Nothing,
        })
    }

    fn property(&mut self, name: Box<str>) -> usize {
        place(&mut self.properties, name.to_ascii_lowercase().into())
    }
}

/// The place of an item in a list, which gets it if it is not there.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|other| *other == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// A message under evaluation: what was looked up once stays.
pub(super) struct Evaluation<'a> {
    lookups: &'a Lookups,
    message: &'a Message<'a>,
    properties: OnceCell<MessageProperties>,
    body: OnceCell<Option<Json>>,
    twin: OnceCell<Vec<Value<'static>>>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(lookups: &'a Lookups, message: &'a Message<'a>) -> Self {
        Self {
            lookups,
            message,
            properties: OnceCell::new(),
            body: OnceCell::new(),
            twin: OnceCell::new(),
        }
    }

    fn properties(&self) -> &MessageProperties {
        self.properties.get_or_init(|| self.message.bag.decode())
    }

    fn property(&self, place: usize) -> Option<&str> {
        let name = self.lookups.properties.get(place)?;
        let all = self.properties().application.iter();
        all.filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .next_back()
    }

    fn system(&self, property: SystemReference) -> Option<Value<'_>> {
        let sent = |property| {
            self.properties()
                .system
                .get(&property)
                .map(|value| value.as_str().into())
        };
        let origin = self.message.origin;
        let sender = origin.sender.as_ref();
        match property {
            SystemReference::ContentType => sent(SystemProperty::ContentType),
            SystemReference::ContentEncoding => sent(SystemProperty::ContentEncoding),
            SystemReference::MessageId => sent(SystemProperty::MessageId),
            SystemReference::CorrelationId => sent(SystemProperty::CorrelationId),
            SystemReference::UserId => sent(SystemProperty::UserId),
            SystemReference::Subject => sent(SystemProperty::Subject),
            SystemReference::InterfaceId => sent(SystemProperty::InterfaceId),
            SystemReference::CreationTime => sent(SystemProperty::CreationTime),
            SystemReference::ConnectionDeviceId => Some(origin.target.device.as_str().into()),
            SystemReference::ConnectionModuleId => Some(origin.target.module.as_ref()?.as_str().into()),
            SystemReference::ConnectionAuthMethod => Some(sender?.auth.to_string().into()),
            SystemReference::ConnectionDeviceGenerationId => Some((&*sender?.generation_id).into()),
            SystemReference::DataSchema => Some(sender?.model_id.as_deref()?.into()),
            SystemReference::EnqueuedTime => Some(self.message.enqueued.to_string().into()),
            SystemReference::MessageSource => Some(self.message.source.name().into()),
        }
    }

    fn body(&self) -> Option<&Json> {
        let body = self
            .body
            .get_or_init(|| serde_json::from_slice(self.message.body).ok());
        body.as_ref()
    }

    fn twin(&self, place: usize) -> Value<'_> {
        let values = self.twin.get_or_init(|| {
            let mut values = Vec::new();
            if let Some(twin) = self.message.twin {
                twin.look(&mut |row| {
                    values = self
                        .lookups
                        .twin
                        .iter()
                        .map(|(path, _)| row.get(path).into_owned())
                        .collect();
                });
            }
            values
        });
        values.get(place).cloned().unwrap_or(Value::Undefined)
    }
}

impl Row<Slot> for Evaluation<'_> {
    fn get(&self, slot: &Slot) -> Value<'_> {
        match slot {
            Slot::Property(place) => self.property(*place).map_or(Value::Undefined, Value::from),
            Slot::System(property, instead) => self
                .system(*property)
                .or_else(|| Some(self.property((*instead)?)?.into()))
                .unwrap_or(Value::Undefined),
            Slot::Body(steps) => {
                let found = steps.iter().try_fold(self.body(), |json, step| match step {
                    Step::Key(key) => Some(json?.as_object()?.get(&**key)),
                    Step::Index(index) => Some(json?.as_array()?.get(*index)),
                });
                found.flatten().map_or(Value::Undefined, Value::from)
            }
            Slot::Twin(place) => self.twin(*place),
            Slot::Nothing => Value::Undefined,
        }
    }
}
