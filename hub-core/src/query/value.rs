//! Runtime values and the three-valued logic over them.
//!
//! A comparison never coerces: operands of different types, a missing path, or
//! an object or array give [`Truth::Undefined`], for `!=` as well.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Value as Json};

use crate::twin::{Node, Object};

/// What a path or an expression is worth in one row. Borrows from the row
/// wherever the row holds the value as such.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// The path leads nowhere, or the operation does not apply.
    Undefined,
    /// JSON null; only attributes outside tags and properties can be null.
    Null,
    /// True or false.
    Bool(bool),
    /// A number. Twin integers have at most 53 bits, so a double holds them
    /// exactly.
    Number(f64),
    /// A string.
    Str(Cow<'a, str>),
    /// An array; it can be selected and searched, but not compared.
    Array(Cow<'a, [Json]>),
    /// An object; it can be selected and tested for existence only.
    Object(Members<'a>),
}

/// An object where it stands: it becomes JSON only if it is selected.
#[derive(Debug, Clone)]
pub enum Members<'a> {
    /// In a JSON document, or made for the query.
    Json(Cow<'a, Map<String, Json>>),
    /// In a twin.
    Twin(&'a Object),
}

impl Members<'_> {
    fn into_json(self) -> Map<String, Json> {
        match self {
            Self::Json(members) => members.into_owned(),
            Self::Twin(members) => members.to_json(),
        }
    }
}

impl PartialEq for Members<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => a == b,
            (a, b) => a.clone().into_json() == b.clone().into_json(),
        }
    }
}

impl Value<'_> {
    /// The value as JSON; `None` for what JSON cannot express, undefined
    /// first of all. A number without a fraction becomes a JSON integer.
    #[must_use]
    pub fn into_json(self) -> Option<Json> {
        Some(match self {
            Self::Undefined => return None,
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(b),
            Self::Number(n) => return json_number(n),
            Self::Str(s) => Json::String(s.into_owned()),
            Self::Array(a) => Json::Array(a.into_owned()),
            Self::Object(o) => Json::Object(o.into_json()),
        })
    }

    /// The same value without anything borrowed.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Undefined => Value::Undefined,
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::Number(n) => Value::Number(n),
            Self::Str(s) => Value::Str(Cow::Owned(s.into_owned())),
            Self::Array(a) => Value::Array(Cow::Owned(a.into_owned())),
            Self::Object(o) => Value::Object(Members::Json(Cow::Owned(o.into_json()))),
        }
    }

    pub(super) fn truth(&self) -> Truth {
        match self {
            Self::Bool(true) => Truth::True,
            Self::Bool(false) => Truth::False,
            _ => Truth::Undefined,
        }
    }
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n.as_f64().map_or(Self::Undefined, Self::Number),
            Json::String(s) => Self::Str(Cow::Borrowed(s)),
            Json::Array(a) => Self::Array(Cow::Borrowed(a)),
            Json::Object(o) => Self::Object(Members::Json(Cow::Borrowed(o))),
        }
    }
}

impl<'a> From<&'a Node> for Value<'a> {
    fn from(node: &'a Node) -> Self {
        match node {
            Node::Bool(b) => Self::Bool(*b),
            Node::Number(n) => n.as_f64().map_or(Self::Undefined, Self::Number),
            Node::Text(s) => Self::Str(Cow::Borrowed(s)),
            Node::Array(a) => Self::Array(Cow::Borrowed(a)),
            Node::Object(o) => Self::Object(Members::Twin(o)),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Str(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Str(Cow::Owned(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<Truth> for Value<'_> {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::True => Self::Bool(true),
            Truth::False => Self::Bool(false),
            Truth::Undefined => Self::Undefined,
        }
    }
}

/// A number as JSON, an integer where it is one; `None` for infinities.
pub(super) fn json_number(number: f64) -> Option<Json> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        // In range by the test above, so that the cast is exact.
        return Some(Json::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Json::Number)
}

/// The outcome of a condition, ordered so that AND is the least and OR the
/// greatest of its operands (Kleene's logic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    False,
    Undefined,
    True,
}

impl Truth {
    pub(super) fn negate(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::Undefined => Self::Undefined,
            Self::True => Self::False,
        }
    }
}

impl From<bool> for Truth {
    fn from(b: bool) -> Self {
        if b { Self::True } else { Self::False }
    }
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub(super) fn apply(self, left: &Value<'_>, right: &Value<'_>) -> Truth {
        match (left, right) {
            (Value::Number(a), Value::Number(b)) => self.holds(a.partial_cmp(b)),
            (Value::Str(a), Value::Str(b)) => self.apply_to_texts(a, b),
            (Value::Bool(a), Value::Bool(b)) => self.holds(Some(a.cmp(b))),
            (Value::Null, Value::Null) => match self {
                Self::Equal => Truth::True,
                Self::NotEqual => Truth::False,
                _ => Truth::Undefined,
            },
            _ => Truth::Undefined,
        }
    }

    /// `order` is absent for a number that is none (infinity minus itself):
    /// it differs from everything, as IEEE has it.
    fn holds(self, order: Option<Ordering>) -> Truth {
        let holds = match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order.is_some_and(Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order.is_some_and(Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        };
        holds.into()
    }

    /// Compares two strings.
    pub(super) fn apply_to_texts(self, a: &str, b: &str) -> Truth {
        match self {
            Self::Equal => (a == b).into(),
            Self::NotEqual => (a != b).into(),
            _ => self.holds(Some(ordinal(a, b))),
        }
    }
}

/// Compares texts by their UTF-16 code units, as the service does.
///
/// UTF-8 sorts by code point. The two orders differ only for U+E000 to U+FFFF
/// (first byte EE or EF), which UTF-16 sorts behind the surrogates that write
/// U+10000 and above (first byte F0 to F4).
fn ordinal(a: &str, b: &str) -> Ordering {
    let weight = |byte: u8| if byte | 1 == 0xEF { byte + 0x10 } else { byte };
    a.bytes().map(weight).cmp(b.bytes().map(weight))
}

/// An arithmetic operator between two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Arithmetic {
    /// The result; `None` (undefined) for a division by zero.
    pub(super) fn apply(self, left: f64, right: f64) -> Option<f64> {
        Some(match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide | Self::Remainder if right == 0.0 => return None,
            Self::Divide => left / right,
            Self::Remainder => left % right,
        })
    }
}

/// A constant in the query text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

impl Literal {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Undefined => Value::Undefined,
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Number(n) => Value::Number(*n),
            Self::Text(text) => Value::Str(Cow::Borrowed(text)),
        }
    }
}

/// The constants of an IN list, sorted: a query may list a thousand device
/// ids, and every row is looked up in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LiteralSet {
    null: bool,
    booleans: Vec<bool>,
    numbers: Vec<f64>,
    texts: Vec<Box<str>>,
}

impl LiteralSet {
    /// Whether `value` equals a member. A missing value, an object or an array
    /// is neither in the set nor outside it.
    pub(super) fn contains(&self, value: &Value<'_>) -> Truth {
        let found = match value {
            Value::Undefined | Value::Array(_) | Value::Object(_) => return Truth::Undefined,
            Value::Null => self.null,
            Value::Bool(b) => self.booleans.contains(b),
            Value::Number(n) => {
                let n = unsigned_zero(*n);
                self.numbers
                    .binary_search_by(|member| member.total_cmp(&n))
                    .is_ok()
            }
            Value::Str(text) => self.texts.binary_search_by(|member| (**member).cmp(text)).is_ok(),
        };
        found.into()
    }

    /// The members of the set.
    pub(super) fn values(&self) -> impl Iterator<Item = Value<'_>> {
        let null = self.null.then_some(Value::Null);
        let booleans = self.booleans.iter().map(|b| Value::Bool(*b));
        let numbers = self.numbers.iter().map(|n| Value::Number(*n));
        null.into_iter()
            .chain(booleans)
            .chain(numbers)
            .chain(self.texts().map(Value::from))
    }

    /// The strings of the set, sorted and each once.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| &**text)
    }
}

impl FromIterator<Literal> for LiteralSet {
    fn from_iter<I: IntoIterator<Item = Literal>>(literals: I) -> Self {
        let mut set = Self::default();
        for literal in literals {
            match literal {
                // Nothing equals undefined, so it adds no member.
                Literal::Undefined => {}
                Literal::Null => set.null = true,
                Literal::Bool(b) => set.booleans.push(b),
                Literal::Number(n) => set.numbers.push(unsigned_zero(n)),
                Literal::Text(text) => set.texts.push(text),
            }
        }
        set.numbers.sort_by(f64::total_cmp);
        set.texts.sort();
        set.texts.dedup();
        set
    }
}

/// Makes the two zeros, which are equal, the same.
fn unsigned_zero(number: f64) -> f64 {
    number + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn and_or_not_follow_kleene() {
        use Truth::{False, True, Undefined};
        assert_eq!(False.min(Undefined), False);
        assert_eq!(True.min(Undefined), Undefined);
        assert_eq!(True.max(Undefined), True);
        assert_eq!(False.max(Undefined), Undefined);
        assert_eq!(Undefined.negate(), Undefined);
        assert_eq!(True.negate(), False);
    }

    #[test]
    fn values_of_different_types_do_not_compare() {
        let array = json!([1]);
        let object = json!({"a": 1});
        let kinds = [
            Value::Undefined,
            Value::Null,
            Value::Bool(true),
            Value::Number(1.0),
            Value::from("1"),
            Value::from(&array),
            Value::from(&object),
        ];
        for (i, a) in kinds.iter().enumerate() {
            for (j, b) in kinds.iter().enumerate() {
                let expected = if i == j && (1..=4).contains(&i) {
                    (Truth::True, Truth::False)
                } else {
                    (Truth::Undefined, Truth::Undefined)
                };
                let found = (Comparison::Equal.apply(a, b), Comparison::NotEqual.apply(a, b));
                assert_eq!(found, expected, "{a:?} and {b:?}");
            }
        }
        assert_eq!(
            Comparison::LessOrEqual.apply(&Value::Null, &Value::Null),
            Truth::Undefined
        );
        assert_eq!(
            Comparison::Less.apply(&Value::Bool(false), &Value::Bool(true)),
            Truth::True
        );
    }

    #[test]
    fn dividing_by_zero_is_undefined() {
        assert_eq!(Arithmetic::Divide.apply(1.0, 0.0), None);
        assert_eq!(Arithmetic::Remainder.apply(1.0, -0.0), None);
        assert_eq!(Arithmetic::Remainder.apply(-7.0, 3.0), Some(-1.0));
    }

    #[test]
    fn sets_know_their_members_by_type() {
        let set: LiteralSet = [
            Literal::Number(-0.0),
            Literal::Text("b".into()),
            Literal::Text("a".into()),
            Literal::Text("b".into()),
            Literal::Bool(true),
            Literal::Undefined,
        ]
        .into_iter()
        .collect();
        assert_eq!(set.texts().collect::<Vec<_>>(), ["a", "b"]);
        for (value, expected) in [
            (Value::Number(0.0), Truth::True),
            (Value::Number(1.0), Truth::False),
            (Value::from("a"), Truth::True),
            (Value::from("0"), Truth::False),
            (Value::Bool(true), Truth::True),
            (Value::Bool(false), Truth::False),
            (Value::Null, Truth::False),
            (Value::Undefined, Truth::Undefined),
            (Value::from(&json!([])), Truth::Undefined),
        ] {
            assert_eq!(set.contains(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn numbers_become_json_integers_where_they_are() {
        assert_eq!(json_number(3.0), Some(json!(3)));
        assert_eq!(
            json_number(-4_503_599_627_370_496.0),
            Some(json!(-4_503_599_627_370_496_i64))
        );
        assert_eq!(json_number(0.5), Some(json!(0.5)));
        assert_eq!(json_number(1e300), Some(json!(1e300)));
        assert_eq!(json_number(f64::INFINITY), None);
    }

    proptest! {
        #[test]
        fn texts_sort_by_utf16_code_units(a in "[a\u{7f}-\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,4}", b in "[a\u{7f}-\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,4}") {
            prop_assert_eq!(ordinal(&a, &b), a.encode_utf16().cmp(b.encode_utf16()));
        }
    }
}
