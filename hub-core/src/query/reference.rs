//! Checks evaluation against a naive model of the documented rules.
//!
//! The model shares nothing with the evaluator: it has its own terms, which it
//! prints as query text, and works on whole JSON values, `None` for undefined.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Dialect, Query, Row};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn conditions_mean_what_the_model_says(term in term(), rows in prop::collection::vec(row(), 1..5)) {
        let text = term.print(0);
        let query = Query::from_condition(&text);
        prop_assert!(query.is_ok(), "{}: {:?}", text, query);
        let query = query.unwrap();
        let lenient = Query::from_condition_in(Dialect::Lenient, &text).unwrap();
        for row in &rows {
            let expected = term.value(row) == Some(json!(true));
            prop_assert_eq!(query.matches(row), expected, "{} over {}", text, row);
            prop_assert_eq!(lenient.matches(row), expected, "{} over {}", text, row);
            if let (true, Some(ids)) = (expected, query.device_ids()) {
                prop_assert!(ids.contains(&row["deviceId"].as_str().unwrap()), "{} over {}", text, row);
            }
            for equality in query.equalities().iter().filter(|_| expected) {
                let key = Row::get(row, equality.path).key();
                prop_assert!(key.is_some_and(|key| equality.keys.contains(&key)), "{} over {}", text, row);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Term {
    /// A constant: its text and value.
    Constant(&'static str, Option<Json>),
    /// A path: its text and a JSON pointer.
    Path(&'static str, &'static str),
    /// Operands and operator; also AND and OR.
    Binary(Box<Term>, &'static str, Box<Term>),
    Not(Box<Term>),
    Minus(Box<Term>),
    Parentheses(Box<Term>),
    In(Box<Term>, bool, Vec<Term>),
    Call(&'static str, Vec<Term>),
}

impl Term {
    /// How tightly the term's outermost operator binds.
    fn level(&self) -> u8 {
        match self {
            Self::Binary(_, operator, _) => match *operator {
                "OR" => 0,
                "AND" => 1,
                "+" | "-" => 4,
                "*" | "/" | "%" => 5,
                _ => 3,
            },
            Self::Not(_) => 2,
            Self::In(..) => 3,
            Self::Minus(_) => 6,
            _ => 7,
        }
    }

    /// The term as query text, in parentheses if it binds looser than `least`.
    fn print(&self, least: u8) -> String {
        let level = self.level();
        let text = match self {
            Self::Constant(text, _) | Self::Path(text, _) => (*text).to_owned(),
            Self::Binary(left, operator, right) => {
                // Comparisons do not chain, so both operands bind tighter.
                let left_least = if level == 3 { 4 } else { level };
                format!("{} {operator} {}", left.print(left_least), right.print(level + 1))
            }
            Self::Not(operand) => format!("NOT {}", operand.print(2)),
            Self::Minus(operand) => format!("-{}", operand.print(6)),
            Self::Parentheses(inner) => format!("({})", inner.print(0)),
            Self::In(operand, negated, members) => {
                let members: Vec<String> = members.iter().map(|member| member.print(0)).collect();
                let operator = if *negated { "NIN" } else { "IN" };
                format!("{} {operator} [{}]", operand.print(4), members.join(", "))
            }
            Self::Call(function, arguments) => {
                let arguments: Vec<String> = arguments.iter().map(|argument| argument.print(4)).collect();
                format!("{function}({})", arguments.join(", "))
            }
        };
        if level < least { format!("({text})") } else { text }
    }

    fn value(&self, row: &Json) -> Option<Json> {
        match self {
            Self::Constant(_, value) => value.clone(),
            Self::Path(_, pointer) => row.pointer(pointer).cloned(),
            Self::Binary(left, operator, right) => binary(left.value(row), operator, right.value(row)),
            Self::Not(operand) => operand.value(row)?.as_bool().map(|b| json!(!b)),
            Self::Minus(operand) => operand.value(row)?.as_f64().map(|n| json!(-n)),
            Self::Parentheses(inner) => inner.value(row),
            Self::In(operand, negated, members) => {
                let value = operand.value(row)?;
                if value.is_object() || value.is_array() {
                    return None;
                }
                let equals =
                    |member: &Term| binary(Some(value.clone()), "=", member.value(row)) == Some(json!(true));
                Some(json!(members.iter().any(equals) != *negated))
            }
            Self::Call(function, arguments) => call(function, arguments, row),
        }
    }
}

fn binary(left: Option<Json>, operator: &str, right: Option<Json>) -> Option<Json> {
    let boolean = |value: &Option<Json>| value.as_ref().and_then(Json::as_bool);
    match operator {
        "AND" => {
            return match (boolean(&left), boolean(&right)) {
                (Some(false), _) | (_, Some(false)) => Some(json!(false)),
                (Some(true), Some(true)) => Some(json!(true)),
                _ => None,
            };
        }
        "OR" => {
            return match (boolean(&left), boolean(&right)) {
                (Some(true), _) | (_, Some(true)) => Some(json!(true)),
                (Some(false), Some(false)) => Some(json!(false)),
                _ => None,
            };
        }
        _ => {}
    }
    let holds = match (left?, right?) {
        (Json::Null, Json::Null) => match operator {
            "=" => true,
            "!=" | "<>" => false,
            _ => return None,
        },
        (Json::Bool(a), Json::Bool(b)) => ordered(&a, operator, &b)?,
        (Json::String(a), Json::String(b)) => ordered(&utf16(&a), operator, &utf16(&b))?,
        (Json::Number(a), Json::Number(b)) => {
            let (a, b) = (a.as_f64()?, b.as_f64()?);
            match operator {
                "+" => return Some(json!(a + b)),
                "-" => return Some(json!(a - b)),
                "*" => return Some(json!(a * b)),
                "/" if b != 0.0 => return Some(json!(a / b)),
                "%" if b != 0.0 => return Some(json!(a % b)),
                _ => ordered(&a, operator, &b)?,
            }
        }
        _ => return None,
    };
    Some(json!(holds))
}

fn ordered<T: PartialOrd>(a: &T, operator: &str, b: &T) -> Option<bool> {
    Some(match operator {
        "=" => a == b,
        "!=" | "<>" => a != b,
        "<" => a < b,
        "<=" => a <= b,
        ">" => a > b,
        ">=" => a >= b,
        _ => return None,
    })
}

fn utf16(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn call(function: &str, arguments: &[Term], row: &Json) -> Option<Json> {
    let function = function.to_ascii_uppercase();
    let first = arguments[0].value(row);
    if function == "IS_DEFINED" {
        return Some(json!(first.is_some()));
    }
    let (first, second) = (first?, arguments[1].value(row)?);
    if function == "ARRAY_CONTAINS" {
        if second.is_object() || second.is_array() {
            return None;
        }
        let equals =
            |element: &Json| binary(Some(element.clone()), "=", Some(second.clone())) == Some(json!(true));
        return Some(json!(first.as_array()?.iter().any(equals)));
    }
    let (text, part) = (first.as_str()?, second.as_str()?);
    Some(json!(match function.as_str() {
        "STARTSWITH" => text.starts_with(part),
        "ENDSWITH" => text.ends_with(part),
        other => panic!("no model of {other}"),
    }))
}

fn constant() -> impl Strategy<Value = Term> {
    prop::sample::select(vec![
        Term::Constant("0", Some(json!(0))),
        Term::Constant("1", Some(json!(1))),
        Term::Constant("0x2", Some(json!(2))),
        Term::Constant("2.5e0", Some(json!(2.5))),
        Term::Constant("'d1'", Some(json!("d1"))),
        Term::Constant("'d2'", Some(json!("d2"))),
        Term::Constant("\"d\"", Some(json!("d"))),
        Term::Constant("'1'", Some(json!("1"))),
        Term::Constant("''", Some(json!(""))),
        Term::Constant("'\u{ff5e}'", Some(json!("\u{ff5e}"))),
        Term::Constant("'\\uD83D\\uDE00'", Some(json!("\u{1f600}"))),
        Term::Constant("true", Some(json!(true))),
        Term::Constant("FALSE", Some(json!(false))),
        Term::Constant("Null", Some(json!(null))),
        Term::Constant("undefined", None),
    ])
}

fn path() -> impl Strategy<Value = Term> {
    prop::sample::select(vec![
        Term::Path("deviceId", "/deviceId"),
        Term::Path("DEVICES.ID", "/deviceId"),
        Term::Path("status", "/status"),
        Term::Path("tags.a", "/tags/a"),
        Term::Path("tags.a.b", "/tags/a/b"),
        Term::Path("Tags.[[my-tag]]", "/tags/my-tag"),
        Term::Path("tags.my-tag.b", "/tags/my-tag/b"),
        Term::Path("properties.reported.n", "/properties/reported/n"),
        Term::Path("c.properties.Desired.n", "/properties/desired/n"),
        Term::Path("tags.A", "/tags/A"),
    ])
}

fn comparison() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["=", "!=", "<>", "<", "<=", ">", ">="])
}

/// A constant as it may stand in an IN list.
fn member() -> impl Strategy<Value = Term> {
    let negative = Term::Minus(Box::new(Term::Constant("1", Some(json!(1)))));
    prop_oneof![8 => constant(), 1 => Just(negative)]
}

fn term() -> impl Strategy<Value = Term> {
    let either = prop_oneof![path(), constant()];
    let leaf = prop_oneof![
        2 => path(),
        2 => constant(),
        1 => path().prop_map(|path| Term::Call("IS_DEFINED", vec![path])),
        // Most comparisons of arbitrary terms are undefined.
        4 => (either.clone(), comparison(), either)
            .prop_map(|(a, op, b)| Term::Binary(Box::new(a), op, Box::new(b))),
        2 => (path(), prop::bool::ANY, prop::collection::vec(member(), 0..4))
            .prop_map(|(path, negated, members)| Term::In(Box::new(path), negated, members)),
    ];
    leaf.prop_recursive(6, 48, 3, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let logic = prop::sample::select(vec!["AND", "OR"]);
        let arithmetic = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
        let function = prop::sample::select(vec!["STARTSWITH", "endswith", "Array_Contains"]);
        prop_oneof![
            4 => (boxed.clone(), logic, boxed.clone()).prop_map(|(a, op, b)| Term::Binary(a, op, b)),
            4 => (boxed.clone(), comparison(), boxed.clone()).prop_map(|(a, op, b)| Term::Binary(a, op, b)),
            2 => (boxed.clone(), arithmetic, boxed.clone()).prop_map(|(a, op, b)| Term::Binary(a, op, b)),
            2 => boxed.clone().prop_map(Term::Not),
            1 => boxed.clone().prop_map(Term::Minus),
            1 => boxed.clone().prop_map(Term::Parentheses),
            2 => (boxed, prop::bool::ANY, prop::collection::vec(member(), 0..4))
                .prop_map(|(operand, negated, members)| Term::In(operand, negated, members)),
            1 => (function, inner.clone(), inner).prop_map(|(name, a, b)| Term::Call(name, vec![a, b])),
        ]
    })
}

fn row() -> impl Strategy<Value = Json> {
    let value = prop::sample::select(vec![
        None,
        Some(json!(null)),
        Some(json!(true)),
        Some(json!(false)),
        Some(json!(1)),
        Some(json!(-1)),
        Some(json!(2.5)),
        Some(json!("d1")),
        Some(json!("1")),
        Some(json!("\u{1f600}")),
        Some(json!([1, "1", null, "d1", [1]])),
        Some(json!({"b": 1})),
        Some(json!({"b": true})),
    ]);
    let id = prop::sample::select(vec!["d", "d1", "d2"]);
    (id, prop::collection::vec(value, 5)).prop_map(|(id, values)| {
        let mut row = json!({"deviceId": id, "tags": {}, "properties": {"desired": {}, "reported": {}}});
        let [status, a, my_tag, reported, desired] = values.try_into().unwrap();
        let mut put = |section: &str, key: &str, value: Option<Json>| {
            if let (Some(Json::Object(section)), Some(value)) = (row.pointer_mut(section), value) {
                section.insert(key.to_owned(), value);
            }
        };
        put("", "status", status);
        put("/tags", "a", a);
        put("/tags", "my-tag", my_tag);
        put("/properties/reported", "n", reported);
        put("/properties/desired", "n", desired);
        row
    })
}
