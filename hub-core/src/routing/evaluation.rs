//! Looks up what conditions ask a message for, each thing at most once per
//! message and only when a condition comes to it.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::Value as Json;

use super::body::{self, NoBody};
use super::message::Message;
use super::properties::{Found, Wanted};
use crate::property_bag::SystemProperty;
use crate::query::{Condition, Members, Path, Reference, Row, Step, SystemReference, Value};

/// What the conditions of a routing look up, each name once.
#[derive(Debug, Clone, Default)]
pub(super) struct Lookups {
    properties: Wanted,
    /// Places of content type and encoding, if a condition is about the body.
    content: Option<(usize, usize)>,
    twin: Vec<Path>,
}

/// A name of a condition, ready to be looked up.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Slot {
    /// A property that the sender sets, by its place, and one that stands in.
    Sent(usize, Option<usize>),
    /// A system property that the hub sets.
    Made(SystemReference),
    /// A place in the body.
    Body(Box<[Step]>),
    /// A path in the sender's twin by its place, and the way on below an array.
    Twin(usize, Box<[Step]>),
    /// Never defined.
    Nothing,
}

impl Lookups {
    /// The condition with its names turned into places.
    pub(super) fn compile(&mut self, condition: &Condition) -> Condition<Slot> {
        condition.clone().map(&mut |reference| match reference {
            Reference::Property(name) => Slot::Sent(self.properties.application(&name), None),
            Reference::System {
                property,
                only_system,
            } => match sent(property) {
                Some(system) => {
                    let instead = format!("${}", property.name());
                    let instead = (!only_system).then(|| self.properties.application(&instead));
                    Slot::Sent(self.properties.system(system), instead)
                }
                None => Slot::Made(property),
            },
            Reference::Body(steps) => {
                let properties = &mut self.properties;
                self.content.get_or_insert_with(|| {
                    (
                        properties.system(SystemProperty::ContentType),
                        properties.system(SystemProperty::ContentEncoding),
                    )
                });
                Slot::Body(steps)
            }
            Reference::Twin(path, below) => {
                let known = self.twin.iter().position(|other| *other == path);
                let place = known.unwrap_or_else(|| {
                    self.twin.push(path);
                    self.twin.len() - 1
                });
                Slot::Twin(place, below)
            }
            Reference::Nothing(_) => Slot::Nothing,
        })
    }
}

/// The property of the message that the sender sets; `None` for what the hub
/// says of the message, which no sender can.
pub(super) fn sent(property: SystemReference) -> Option<SystemProperty> {
    Some(match property {
        SystemReference::ContentType => SystemProperty::ContentType,
        SystemReference::ContentEncoding => SystemProperty::ContentEncoding,
        SystemReference::MessageId => SystemProperty::MessageId,
        SystemReference::CorrelationId => SystemProperty::CorrelationId,
        SystemReference::UserId => SystemProperty::UserId,
        SystemReference::Subject => SystemProperty::Subject,
        SystemReference::InterfaceId => SystemProperty::InterfaceId,
        SystemReference::CreationTime => SystemProperty::CreationTime,
        SystemReference::ConnectionDeviceId
        | SystemReference::ConnectionModuleId
        | SystemReference::ConnectionAuthMethod
        | SystemReference::ConnectionDeviceGenerationId
        | SystemReference::DataSchema
        | SystemReference::EnqueuedTime
        | SystemReference::MessageSource => return None,
    })
}

/// A message under evaluation: what was looked up once stays.
pub(super) struct Evaluation<'a> {
    lookups: &'a Lookups,
    message: &'a Message<'a>,
    properties: OnceCell<Found<'a>>,
    body: OnceCell<Result<Json, NoBody>>,
    twin: OnceCell<Option<Vec<Value<'static>>>>,
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

    /// Why a name has no value, where that is not plain from the name.
    pub(super) fn why_undefined(&self, slot: &Slot) -> Option<String> {
        match slot {
            Slot::Body(_) => self.body().err().map(|reason| reason.to_string()),
            Slot::Twin(..) if self.twin().is_none() => Some("the message's sender has no twin".into()),
            _ => None,
        }
    }

    #[inline]
    fn sent(&self, place: usize) -> Option<Cow<'_, str>> {
        self.properties
            .get_or_init(|| Found::read(&self.lookups.properties, self.message.bag.as_str()))
            .get(place)
    }

    fn made(&self, property: SystemReference) -> Option<Value<'_>> {
        let origin = self.message.origin;
        let sender = origin.sender.as_ref();
        Some(match property {
            SystemReference::ConnectionDeviceId => origin.target.device.as_str().into(),
            SystemReference::ConnectionModuleId => origin.target.module.as_ref()?.as_str().into(),
            SystemReference::ConnectionAuthMethod => sender?.auth.to_string().into(),
            SystemReference::ConnectionDeviceGenerationId => (&*sender?.generation_id).into(),
            SystemReference::DataSchema => sender?.model_id.as_deref()?.into(),
            SystemReference::EnqueuedTime => self.message.enqueued.to_string().into(),
            SystemReference::MessageSource => self.message.source.name().into(),
            // The others are properties that the sender sets.
            _ => return None,
        })
    }

    fn body(&self) -> Result<&Json, NoBody> {
        let body = self.body.get_or_init(|| {
            let content = |place: fn((usize, usize)) -> usize| self.sent(place(self.lookups.content?));
            let (content_type, encoding) = (content(|places| places.0), content(|places| places.1));
            body::read(self.message.body, content_type.as_deref(), encoding.as_deref())
        });
        body.as_ref().map_err(|reason| *reason)
    }

    /// The values of all paths that conditions ask for, copied at one look;
    /// `None` without a twin.
    fn twin(&self) -> Option<&[Value<'static>]> {
        let values = self.twin.get_or_init(|| {
            let mut values = None;
            self.message.twin?.look(&mut |row| {
                let value = |path: &Path| row.get(path).into_owned();
                values = Some(self.lookups.twin.iter().map(value).collect());
            });
            values
        });
        values.as_deref()
    }
}

impl Row<Slot> for Evaluation<'_> {
    fn get(&self, slot: &Slot) -> Value<'_> {
        let found = match slot {
            Slot::Sent(place, instead) => self
                .sent(*place)
                .or_else(|| self.sent((*instead)?))
                .map(Value::Str),
            Slot::Made(property) => self.made(*property),
            Slot::Body(steps) => self.body().ok().and_then(|body| walk(body, steps)),
            Slot::Twin(place, below) => self
                .twin()
                .and_then(|values| values.get(*place))
                .and_then(|value| below_value(value, below)),
            Slot::Nothing => None,
        };
        found.unwrap_or(Value::Undefined)
    }
}

/// Follows steps into JSON.
fn walk<'a>(json: &'a Json, steps: &[Step]) -> Option<Value<'a>> {
    let found = steps.iter().try_fold(json, |json, step| match step {
        Step::Key(key) => json.as_object()?.get(&**key),
        Step::Index(index) => json.as_array()?.get(*index),
    });
    found.map(Value::from)
}

/// A value of the twin, or what is below it in an array.
fn below_value<'a>(value: &'a Value<'static>, steps: &[Step]) -> Option<Value<'a>> {
    if let Some((Step::Index(index), rest)) = steps.split_first() {
        let Value::Array(items) = value else { return None };
        return walk(items.get(*index)?, rest);
    }
    Some(match value {
        Value::Undefined => return None,
        Value::Null => Value::Null,
        Value::Bool(b) => Value::Bool(*b),
        Value::Number(n) => Value::Number(*n),
        Value::Str(text) => Value::from(&**text),
        Value::Array(items) => Value::Array(items.as_ref().into()),
        Value::Object(Members::Json(members)) => Value::Object(Members::Json(Cow::Borrowed(members))),
        Value::Object(members) => Value::Object(members.clone()),
    })
}
