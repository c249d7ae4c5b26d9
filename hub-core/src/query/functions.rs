//! The functions that a condition may call.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::Dialect;
use super::types::Type;
use super::value::{Comparison, Truth, Value};

/// A function of conditions. Names match case-insensitively.
///
/// String positions and lengths count UTF-16 code units, as the service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// Whether a path exists, whatever it leads to.
    IsDefined,
    /// Whether the first string begins with the second.
    StartsWith,
    /// Whether the first string ends with the second.
    EndsWith,
    /// Whether an array has an element equal to the second argument.
    ArrayContains,
    /// Whether the first string contains the second.
    Contains,
    /// Where the second string begins in the first; -1 when it does not occur.
    IndexOf,
    /// The length of a string.
    Length,
    /// A string in small letters, each letter for itself.
    Lower,
    /// A string in capitals, each letter for itself.
    Upper,
    /// Strings one after the other.
    Concat,
    /// A string from a position on, all of the rest or as long as is said.
    Substring,
    /// A number, or what a string says if it is one.
    AsNumber,
    /// Whether the argument is a value of this kind; false when undefined.
    Is(Kind),
    /// Of one number.
    Number(Calculation),
    /// The first number to the power of the second.
    Power,
    /// The first argument that is not undefined, written `a ?? b`.
    Coalesce,
    /// Whether the body of a twin change event has a value at a path.
    TwinChangeIncludes,
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Array,
    Bool,
    Null,
    Number,
    Object,
    /// A string, a number, a boolean or null.
    Primitive,
    String,
}

/// What is made of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calculation {
    Absolute,
    Ceiling,
    Exponential,
    Floor,
    Sign,
    SquareRoot,
    Square,
}

/// What twin and job queries of the service know.
const SERVICE: [(&str, Function); 4] = [
    ("IS_DEFINED", Function::IsDefined),
    ("STARTSWITH", Function::StartsWith),
    ("ENDSWITH", Function::EndsWith),
    ("ARRAY_CONTAINS", Function::ArrayContains),
];

/// What the service knows in message routing conditions only.
const ROUTING: [(&str, Function); 25] = [
    ("ABS", Function::Number(Calculation::Absolute)),
    ("AS_NUMBER", Function::AsNumber),
    ("CEILING", Function::Number(Calculation::Ceiling)),
    ("CONCAT", Function::Concat),
    ("CONTAINS", Function::Contains),
    ("ENDS_WITH", Function::EndsWith),
    ("EXP", Function::Number(Calculation::Exponential)),
    ("FLOOR", Function::Number(Calculation::Floor)),
    ("INDEX_OF", Function::IndexOf),
    ("IS_ARRAY", Function::Is(Kind::Array)),
    ("IS_BOOL", Function::Is(Kind::Bool)),
    ("IS_NULL", Function::Is(Kind::Null)),
    ("IS_NUMBER", Function::Is(Kind::Number)),
    ("IS_OBJECT", Function::Is(Kind::Object)),
    ("IS_PRIMITIVE", Function::Is(Kind::Primitive)),
    ("IS_STRING", Function::Is(Kind::String)),
    ("LENGTH", Function::Length),
    ("LOWER", Function::Lower),
    ("POWER", Function::Power),
    ("SIGN", Function::Number(Calculation::Sign)),
    ("SQRT", Function::Number(Calculation::SquareRoot)),
    ("SQUARE", Function::Number(Calculation::Square)),
    ("STARTS_WITH", Function::StartsWith),
    ("SUBSTRING", Function::Substring),
    ("UPPER", Function::Upper),
];

/// What routing conditions know beside [`ROUTING`], or know by another meaning.
const MESSAGES: [(&str, Function); 4] = [
    // The guide: only where the value is of a primitive type.
    ("IS_DEFINED", Function::Is(Kind::Primitive)),
    // The guide's tables spell these two so; the engine has the underscore.
    ("STARTSWITH", Function::StartsWith),
    ("ENDSWITH", Function::EndsWith),
    ("TWIN_CHANGE_INCLUDES", Function::TwinChangeIncludes),
];

impl Function {
    /// The function called `name`, or what to tell who asked for it.
    pub(super) fn find(name: &str, dialect: Dialect) -> Result<Self, &'static str> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        let among = |known: &[(&str, Self)]| known.iter().find(|(name, _)| is(name)).map(|(_, f)| *f);
        let routing = among(&ROUTING);
        let found = match dialect {
            Dialect::Service => among(&SERVICE),
            Dialect::Lenient => among(&SERVICE).or(routing),
            Dialect::Routing => among(&MESSAGES).or(routing),
        };
        if let Some(function) = found {
            return Ok(function);
        }
        if dialect == Dialect::Routing {
            return Err(if among(&SERVICE).is_some() {
                "the function is available in twin queries only"
            } else {
                "unknown function"
            });
        }
        Err(if ["COUNT", "AVG", "SUM", "MIN", "MAX"].into_iter().any(is) {
            "aggregates are allowed in the SELECT list only"
        } else if is("STARTS_WITH") || is("CONTAINS") {
            "unknown function, STARTSWITH is available"
        } else if is("ENDS_WITH") {
            "unknown function, ENDSWITH is available"
        } else if routing.is_some() || is("TWIN_CHANGE_INCLUDES") {
            "the function is available in message routing only"
        } else {
            "unknown function"
        })
    }

    /// How many arguments the function takes.
    pub(super) fn arity(self) -> RangeInclusive<usize> {
        match self {
            Self::IsDefined
            | Self::Length
            | Self::Lower
            | Self::Upper
            | Self::AsNumber
            | Self::Is(_)
            | Self::Number(_)
            | Self::TwinChangeIncludes => 1..=1,
            Self::StartsWith
            | Self::EndsWith
            | Self::ArrayContains
            | Self::Contains
            | Self::IndexOf
            | Self::Power => 2..=2,
            Self::Substring => 2..=3,
            // As many as the text has room for.
            Self::Concat | Self::Coalesce => 1..=usize::MAX,
        }
    }

    /// Whether the argument must be a path: the question is about the path
    /// itself, not about a value.
    pub(super) fn takes_path(self) -> bool {
        self == Self::IsDefined
    }

    /// What the result is, unless it is undefined.
    pub(super) fn result(self) -> Type {
        match self {
            Self::IsDefined
            | Self::StartsWith
            | Self::EndsWith
            | Self::ArrayContains
            | Self::Contains
            | Self::Is(_)
            | Self::TwinChangeIncludes => Type::Bool,
            Self::IndexOf | Self::Length | Self::AsNumber | Self::Number(_) | Self::Power => Type::Number,
            Self::Lower | Self::Upper | Self::Concat | Self::Substring => Type::Text,
            Self::Coalesce => Type::Any,
        }
    }

    /// What the argument at an index must be to give a result.
    pub(super) fn argument(self, index: usize) -> Type {
        match self {
            Self::StartsWith
            | Self::EndsWith
            | Self::Contains
            | Self::IndexOf
            | Self::Length
            | Self::Lower
            | Self::Upper
            | Self::Concat => Type::Text,
            Self::Substring if index == 0 => Type::Text,
            Self::Substring | Self::Number(_) | Self::Power => Type::Number,
            Self::IsDefined
            | Self::ArrayContains
            | Self::AsNumber
            | Self::Is(_)
            | Self::Coalesce
            | Self::TwinChangeIncludes => Type::Any,
        }
    }

    /// Calls the function with `count` arguments; `argument` evaluates the one
    /// at an index. An argument of the wrong type makes the result undefined.
    pub(super) fn call<'a>(self, count: usize, argument: impl Fn(usize) -> Value<'a>) -> Value<'a> {
        let text = |index| match argument(index) {
            Value::Str(text) => Some(text),
            _ => None,
        };
        let number = |index| match argument(index) {
            Value::Number(number) => Some(number),
            _ => None,
        };
        let texts = |holds: fn(&str, &str) -> bool| Some(holds(&text(0)?, &text(1)?).into());
        let result = match self {
            Self::IsDefined => Some((argument(0) != Value::Undefined).into()),
            Self::Coalesce => (0..count).map(argument).find(|value| *value != Value::Undefined),
            // A removed member is in the event as null; it counts as absent, as
            // in the engine.
            Self::TwinChangeIncludes => {
                let found = argument(0);
                Some((!matches!(found, Value::Undefined | Value::Null)).into())
            }
            Self::StartsWith => texts(|text, part| text.starts_with(part)),
            Self::EndsWith => texts(|text, part| text.ends_with(part)),
            Self::Contains => texts(|text, part| text.contains(part)),
            Self::ArrayContains => array_contains(&argument(0), &argument(1)).map(Value::Bool),
            Self::IndexOf => text(0).zip(text(1)).map(|(text, part)| {
                let before = text.find(&*part).and_then(|at| text.get(..at));
                Value::Number(before.map_or(-1.0, length))
            }),
            Self::Length => text(0).map(|text| Value::Number(length(&text))),
            Self::Lower => text(0).map(|text| mapped(&text, |c| single(c, c.to_lowercase()))),
            Self::Upper => text(0).map(|text| mapped(&text, |c| single(c, c.to_uppercase()))),
            Self::Concat => {
                let texts: Option<Vec<Cow<'_, str>>> = (0..count).map(text).collect();
                texts.map(|texts| Value::from(texts.concat()))
            }
            Self::Substring => text(0).and_then(|text| {
                let length = if count > 2 { Some(number(2)?) } else { None };
                substring(&text, number(1)?, length).map(Value::from)
            }),
            Self::AsNumber => as_number(&argument(0)).map(Value::Number),
            Self::Is(kind) => Some(kind.includes(&argument(0)).into()),
            Self::Number(calculation) => number(0).and_then(|n| calculation.apply(n)).map(Value::Number),
            Self::Power => number(0)
                .zip(number(1))
                .map(|(base, exponent)| base.powf(exponent))
                .filter(|result| !result.is_nan())
                .map(Value::Number),
        };
        result.unwrap_or(Value::Undefined)
    }
}

impl Kind {
    fn includes(self, value: &Value<'_>) -> bool {
        match value {
            Value::Undefined => false,
            Value::Null => matches!(self, Self::Null | Self::Primitive),
            Value::Bool(_) => matches!(self, Self::Bool | Self::Primitive),
            Value::Number(_) => matches!(self, Self::Number | Self::Primitive),
            Value::Str(_) => matches!(self, Self::String | Self::Primitive),
            Value::Array(_) => self == Self::Array,
            Value::Object(_) => self == Self::Object,
        }
    }
}

impl Calculation {
    /// The result; `None` (undefined) for what has none, a negative number's
    /// root.
    fn apply(self, number: f64) -> Option<f64> {
        let result = match self {
            Self::Absolute => number.abs(),
            Self::Ceiling => number.ceil(),
            Self::Exponential => number.exp(),
            Self::Floor => number.floor(),
            Self::Sign if number == 0.0 => 0.0,
            Self::Sign => number.signum(),
            Self::SquareRoot => number.sqrt(),
            Self::Square => number * number,
        };
        Some(result).filter(|result| !result.is_nan())
    }
}

fn array_contains(array: &Value<'_>, sought: &Value<'_>) -> Option<bool> {
    let Value::Array(array) = array else { return None };
    if matches!(sought, Value::Undefined | Value::Array(_) | Value::Object(_)) {
        return None;
    }
    let equals = |element| Comparison::Equal.apply(&Value::from(element), sought) == Truth::True;
    Some(array.iter().any(equals))
}

fn length(text: &str) -> f64 {
    text.encode_utf16().count() as f64
}

/// `None` when the text is not that long, or a character would be cut in two.
fn substring(text: &str, start: f64, length: Option<f64>) -> Option<String> {
    let units: Vec<u16> = text.encode_utf16().collect();
    let within = |n: f64| (n >= 0.0 && n.fract() == 0.0 && n <= units.len() as f64).then_some(n as usize);
    let start = within(start)?;
    let end = match length {
        None => units.len(),
        Some(length) => start + within(length)?,
    };
    String::from_utf16(units.get(start..end)?).ok()
}

fn as_number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        // Not the names of what is no number or infinite.
        Value::Str(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        _ => None,
    }
}

fn mapped(text: &str, map: impl Fn(char) -> char) -> Value<'static> {
    Value::Str(text.chars().map(map).collect())
}

/// The one character that `c` maps to; `c` itself when there are several, so
/// that no text grows.
fn single(c: char, mut mapped: impl Iterator<Item = char>) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(only), None) => only,
        _ => c,
    }
}
