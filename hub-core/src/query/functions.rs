//! The functions that a condition may call.

use super::value::{Comparison, Truth, Value};

/// A function of twin and job queries. Names match case-insensitively.
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
}

/// Functions of message routing conditions, which twin queries refuse.
const ROUTING_ONLY: &[&str] = &[
    "ABS",
    "AS_NUMBER",
    "CEILING",
    "CONCAT",
    "EXP",
    "FLOOR",
    "INDEX_OF",
    "IS_ARRAY",
    "IS_BOOL",
    "IS_NULL",
    "IS_NUMBER",
    "IS_OBJECT",
    "IS_PRIMITIVE",
    "IS_STRING",
    "LENGTH",
    "LOWER",
    "POWER",
    "SIGN",
    "SQRT",
    "SQUARE",
    "SUBSTRING",
    "TWIN_CHANGE_INCLUDES",
    "UPPER",
];

impl Function {
    const ALL: [Self; 4] = [
        Self::IsDefined,
        Self::StartsWith,
        Self::EndsWith,
        Self::ArrayContains,
    ];

    /// The function called `name`, or what to tell who asked for it.
    pub(super) fn find(name: &str) -> Result<Self, String> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        if let Some(function) = Self::ALL.into_iter().find(|f| is(f.name())) {
            return Ok(function);
        }
        Err(if ["COUNT", "AVG", "SUM", "MIN", "MAX"].into_iter().any(is) {
            "aggregates are allowed in the SELECT list only".into()
        } else if ROUTING_ONLY.iter().copied().any(is) {
            "the function is available in message routing only".into()
        } else if is("STARTS_WITH") || is("CONTAINS") {
            "unknown function, STARTSWITH is available".into()
        } else if is("ENDS_WITH") {
            "unknown function, ENDSWITH is available".into()
        } else {
            "unknown function".into()
        })
    }

    /// The name as documentation spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::IsDefined => "IS_DEFINED",
            Self::StartsWith => "STARTSWITH",
            Self::EndsWith => "ENDSWITH",
            Self::ArrayContains => "ARRAY_CONTAINS",
        }
    }

    /// How many arguments the function takes.
    pub(super) fn arity(self) -> usize {
        match self {
            Self::IsDefined => 1,
            Self::StartsWith | Self::EndsWith | Self::ArrayContains => 2,
        }
    }

    /// Whether the argument must be a path: the question is about the path
    /// itself, not about a value.
    pub(super) fn takes_path(self) -> bool {
        self == Self::IsDefined
    }

    /// Calls the function; `argument` evaluates the argument at an index. An
    /// argument of the wrong type makes the result undefined.
    pub(super) fn call<'a>(self, argument: impl Fn(usize) -> Value<'a>) -> Truth {
        match self {
            Self::IsDefined => (argument(0) != Value::Undefined).into(),
            Self::StartsWith => texts(&argument, |text, part| text.starts_with(part)),
            Self::EndsWith => texts(&argument, |text, part| text.ends_with(part)),
            Self::ArrayContains => {
                let (Value::Array(array), sought) = (argument(0), argument(1)) else {
                    return Truth::Undefined;
                };
                if matches!(sought, Value::Undefined | Value::Array(_) | Value::Object(_)) {
                    return Truth::Undefined;
                }
                let equals = |element| Comparison::Equal.apply(&Value::from(element), &sought) == Truth::True;
                array.iter().any(equals).into()
            }
        }
    }
}

fn texts<'a>(argument: impl Fn(usize) -> Value<'a>, holds: impl Fn(&str, &str) -> bool) -> Truth {
    match (argument(0), argument(1)) {
        (Value::Str(text), Value::Str(part)) => holds(&text, &part).into(),
        _ => Truth::Undefined,
    }
}
