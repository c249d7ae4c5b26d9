//! Conditions over messages: the routing dialect's names and their meaning.
//!
//! The grammar and the logic are those of queries; only the names differ, and a
//! condition stands alone. What a message is made of is its owner's business:
//! it implements [`Row`] for whatever it replaces the names by. Source: the
//! developer guide's page on the routing query syntax.

use std::convert::Infallible;
use std::fmt;

use super::ast::{Expr, Form, Name, Segment};
use super::error::{Fault, QueryError};
use super::row::{Attribute, Path, Row};
use super::value::{Literal, Truth};
use super::{eval, parser};
use crate::events::Source;
use crate::limits;

/// The condition of a route, ready to be evaluated; `P` is what its names stand
/// for.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition<P = Reference>(Expr<P>);

/// What a name in a routing condition stands for. Displays as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// An application property, whatever the case of its letters. One whose
    /// name starts with `$` is no system property that the hub knows.
    Property(Box<str>),
    /// A system property, `$contentType`.
    System {
        /// Which one.
        property: SystemReference,
        /// Written as `{$contentType}`: an application property of this name
        /// does not stand in when the message has no such system property.
        only_system: bool,
    },
    /// A place in the body, `$body.a[0].b`; the first step is a key.
    Body(Box<[Step]>),
    /// A place in the twin of the sender, and the way on below an array.
    Twin(Path, Box<[Step]>),
    /// Legal, and never defined: the whole body, an unknown name in braces.
    Nothing(Box<str>),
}

/// One step of the way into JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// To the member of an object.
    Key(Box<str>),
    /// To the element of an array, counted from 0.
    Index(usize),
}

macro_rules! system_references {
    ($($(#[$doc:meta])* $name:ident = $text:literal $(| $other:literal)*,)*) => {
        /// A system property by which messages can be routed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum SystemReference {
            $($(#[$doc])* $name,)*
        }

        impl SystemReference {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that conditions have for it, without `$`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Finds one by its name without `$`, in any case, or by the name
            /// that readers of the built-in endpoint know it by.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                let is = |known: &str| known.eq_ignore_ascii_case(name);
                $(if is($text) $(|| is($other))* { return Some(Self::$name); })*
                None
            }
        }
    };
}

system_references! {
    /// Content type.
    ContentType = "contentType" | "content-type",
    /// Content encoding.
    ContentEncoding = "contentEncoding" | "content-encoding",
    /// Message id.
    MessageId = "messageId" | "message-id",
    /// Correlation id.
    CorrelationId = "correlationId" | "correlation-id",
    /// User id.
    UserId = "userId" | "user-id",
    /// Id of the device that sent the message or that it is about.
    ConnectionDeviceId = "connectionDeviceId" | "iothub-connection-device-id",
    /// Id of the module, for messages of modules.
    ConnectionModuleId = "connectionModuleId" | "iothub-connection-module-id",
    /// How the sender proved who it is, a JSON text.
    ConnectionAuthMethod = "connectionAuthMethod" | "iothub-connection-auth-method",
    /// Generation id of the sender's identity.
    ConnectionDeviceGenerationId = "connectionDeviceGenerationId" | "iothub-connection-auth-generation-id",
    /// When the hub accepted the message, ISO 8601.
    EnqueuedTime = "enqueuedTime" | "iothub-enqueuedtime",
    /// What the message is about, by the name that readers see.
    MessageSource = "iothub-message-source",
    /// The model that the sender announced.
    DataSchema = "dt-dataschema",
    /// The component that sent it.
    Subject = "dt-subject",
    /// The interface that sent it, of older devices.
    InterfaceId = "iothub-interface-id",
    /// When the device made the message, ISO 8601.
    CreationTime = "creationTimeUtc" | "iothub-creation-time-utc",
}

impl Condition {
    /// Reads the condition of a route with this source; an empty text is true.
    ///
    /// # Errors
    /// Says where the text breaks a rule of the language, or that it has more
    /// than [`limits::ROUTE_CONDITION_CHARS`] characters.
    pub fn parse(text: &str, source: Source) -> Result<Self, QueryError> {
        if let Some((excess, _)) = text.char_indices().nth(limits::ROUTE_CONDITION_CHARS) {
            let message = format!(
                "The condition is longer than {} characters",
                limits::ROUTE_CONDITION_CHARS
            );
            return Err(Fault::new(excess, message).locate(text));
        }
        parser::routing_condition(text, source)
            .and_then(|expr| expr.try_map(&mut |name| resolve(&name)))
            .map(Self)
            .map_err(|fault| fault.locate(text))
    }
}

impl<P> Condition<P> {
    /// The condition that is always true.
    #[must_use]
    pub fn always() -> Self {
        Self(Expr::Literal(Literal::Bool(true)))
    }

    /// The same condition with its names replaced.
    #[must_use]
    pub fn map<Q>(self, replace: &mut impl FnMut(P) -> Q) -> Condition<Q> {
        let mapped = self.0.try_map(&mut |name| Ok::<_, Infallible>(replace(name)));
        match mapped {
            Ok(expr) => Condition(expr),
            Err(never) => match never {},
        }
    }

    /// The name that the condition consists of, if that is all.
    #[must_use]
    pub fn as_reference(&self) -> Option<&P> {
        match &self.0 {
            Expr::Path(name) => Some(name),
            _ => None,
        }
    }

    /// Whether the condition holds for `message`; `None` when it is neither
    /// true nor false, which routes nothing either.
    #[must_use]
    pub fn outcome<R: Row<P> + ?Sized>(&self, message: &R) -> Option<bool> {
        match eval::truth(&self.0, message) {
            Truth::True => Some(true),
            Truth::False => Some(false),
            Truth::Undefined => None,
        }
    }

    /// Names and texts such that the condition holds only where one of the names
    /// has its text as value; `None` when there are none.
    pub(crate) fn needs_one_of(&self) -> Option<Vec<(&P, &str)>> {
        self.0.needs_one_of()
    }

    /// Whether the condition is the constant `true`.
    #[must_use]
    pub fn is_always(&self) -> bool {
        matches!(self.0, Expr::Literal(Literal::Bool(true)))
    }

    /// The names in the condition, in the order of the text and as often as
    /// they occur.
    #[must_use]
    pub fn references(&self) -> Vec<&P> {
        let mut references = Vec::new();
        self.0.visit(&mut |name| references.push(name));
        references
    }
}

/// What a name stands for.
fn resolve(name: &Name) -> Result<Reference, Fault> {
    let whole = spelled(&name.segments);
    let refuse = |hint| Fault::unexpected(name.at, &whole, Some(hint));
    let (first, rest) = match name.segments.split_first() {
        Some((first, rest)) => (&*first.text, rest),
        None => ("", &[][..]),
    };
    let is_index = |segment: &Segment| matches!(segment.form, Form::Index(_));
    if first.eq_ignore_ascii_case("$body") {
        let leads_on = rest.first().is_some_and(|segment| !is_index(segment));
        return Ok(if leads_on {
            Reference::Body(rest.iter().map(step).collect())
        } else {
            Reference::Nothing(whole.into())
        });
    }
    if first.eq_ignore_ascii_case("$twin") {
        let hint = "$twin has tags, properties.desired and properties.reported";
        return twin(rest).ok_or_else(|| refuse(hint));
    }
    if rest.iter().any(is_index) {
        return Err(refuse("only $body and $twin have elements"));
    }
    let system = whole.strip_prefix('$').and_then(SystemReference::from_name);
    Ok(match system {
        Some(property) => Reference::System {
            property,
            only_system: name.braced,
        },
        None if name.braced => Reference::Nothing(format!("{{{whole}}}").into()),
        None => Reference::Property(whole.into()),
    })
}

/// What follows `$twin`.
fn twin(segments: &[Segment]) -> Option<Reference> {
    let is = |at: usize, known: &str| {
        segments
            .get(at)
            .is_some_and(|segment| segment.form == Form::Plain && segment.text.eq_ignore_ascii_case(known))
    };
    let (attribute, rest) = match () {
        () if is(0, "tags") => (Attribute::Tags, segments.get(1..)?),
        () if is(0, "properties") && is(1, "desired") => (Attribute::Desired, segments.get(2..)?),
        () if is(0, "properties") && is(1, "reported") => (Attribute::Reported, segments.get(2..)?),
        () => return None,
    };
    let is_index = |segment: &Segment| matches!(segment.form, Form::Index(_));
    let (keys, below) = rest.split_at(rest.iter().position(is_index).unwrap_or(rest.len()));
    let keys: Vec<Box<str>> = keys.iter().map(|segment| segment.text.clone()).collect();
    let path = Path::new(attribute, keys);
    Some(Reference::Twin(path, below.iter().map(step).collect()))
}

fn step(segment: &Segment) -> Step {
    match segment.form {
        Form::Index(index) => Step::Index(index),
        Form::Plain | Form::Quoted => Step::Key(segment.text.clone()),
    }
}

/// A name as it was written.
fn spelled(segments: &[Segment]) -> String {
    let mut text = String::new();
    for segment in segments {
        if segment.form == Form::Plain && !text.is_empty() {
            text.push('.');
        }
        text.push_str(&segment.text);
    }
    text
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, ".{key}"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, steps: &[Step]| steps.iter().try_for_each(|step| step.fmt(f));
        match self {
            Self::Property(name) | Self::Nothing(name) => f.write_str(name),
            Self::System {
                property,
                only_system: true,
            } => write!(f, "{{${}}}", property.name()),
            Self::System { property, .. } => write!(f, "${}", property.name()),
            Self::Body(steps) => {
                f.write_str("$body")?;
                all(f, steps)
            }
            Self::Twin(path, steps) => {
                write!(f, "$twin.{path}")?;
                all(f, steps)
            }
        }
    }
}
