//! Bounds and hostile texts, over the public API.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Dialect, Query, Row, Selection};
use crate::limits;

#[test]
fn a_refusal_reads_like_the_service() {
    for (condition, place) in [
        (
            "SELECT * FROM devices",
            "Line 1:29 Unexpected character at input 'SELECT'",
        ),
        ("x # y", "Line 1:31 Unexpected character at input '#'"),
        ("", "Line 1:29 Unexpected end of input"),
        (
            "FROM devices WHERE #",
            "Line 1:29 Unexpected character at input '#'",
        ),
    ] {
        let text = Query::from_condition(condition).unwrap_err().to_string();
        let expected = format!("SQL query parse failed due to following errors: {place}");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn rows_may_be_trait_objects() {
    let row = json!({"deviceId": "d", "tags": {"a": 1}});
    let row: &dyn Row = &row;
    assert!(Query::from_condition("tags.a = 1").unwrap().matches(row));
    let query = Query::parse("SELECT tags.a FROM devices").unwrap();
    let Selection::Fields(projection) = query.selection() else {
        panic!("{query:?}");
    };
    assert_eq!(Json::from(projection.project(row)), json!({"a": 1}));
}

#[test]
fn the_length_is_bounded_in_characters() {
    let of_length = |n: usize| format!("SELECT * FROM devices WHERE tags.x = '{}'", "é".repeat(n - 39));
    assert!(Query::parse(&of_length(limits::QUERY_CHARS)).is_ok());
    let error = Query::parse(&of_length(limits::QUERY_CHARS + 1)).unwrap_err();
    assert_eq!((error.line, error.column), (1, limits::QUERY_CHARS + 1));
    assert_eq!(error.message, "The query is longer than 8192 characters");
    // A condition is measured without what is put before it.
    let condition = format!("tags.x = '{}'", "x".repeat(limits::QUERY_CHARS - 11));
    assert!(Query::from_condition(&condition).is_ok());
    assert!(Query::from_condition(&(condition + " ")).is_err());
}

/// Conditions that nest `depth` deep, each by other means.
fn nested(depth: usize) -> Vec<String> {
    let around = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    vec![
        around("(", "true", ")"),
        around("NOT ", "true", ""),
        around("-", "tags.x", ""),
        around("-", "1", ""),
        around("STARTSWITH(", "'x'", ", 'x')"),
        around("true OR true AND 1 = 1 + 2 * (", "1", ")"),
        around("NOT 1 = -1 + (", "1", ")").replacen("NOT 1 = -1 + (", "(", depth / 2),
    ]
}

#[test]
fn nesting_is_bounded() {
    for condition in nested(limits::QUERY_DEPTH / 2) {
        assert!(Query::from_condition(&condition).is_ok(), "{condition}");
    }
    assert!(Query::from_condition(&nested(limits::QUERY_DEPTH)[0]).is_ok());
    for condition in nested(limits::QUERY_DEPTH + 1) {
        let error = Query::from_condition(&condition).unwrap_err();
        assert!(error.message.ends_with("nested deeper than 64 levels"), "{error}");
    }
    let lower = |depth| format!("{}'X'{} = 'x'", "LOWER(".repeat(depth), ")".repeat(depth));
    let lenient = |condition: String| Query::from_condition_in(Dialect::Lenient, &condition);
    assert!(lenient(lower(limits::QUERY_DEPTH)).unwrap().matches(&json!({})));
    let error = lenient(lower(limits::QUERY_DEPTH + 1)).unwrap_err();
    assert!(error.message.ends_with("nested deeper than 64 levels"), "{error}");
    for opening in [
        "(",
        "NOT ",
        "not\n",
        "-",
        "IS_DEFINED(",
        "STARTSWITH((",
        "(-",
        "1+(",
        "[",
        "[[",
    ] {
        let text = opening.repeat(limits::QUERY_CHARS / opening.len());
        assert!(Query::from_condition(&text).is_err(), "{opening}");
        assert!(Query::parse(&text).is_err(), "{opening}");
    }
}

#[test]
fn the_deepest_query_fits_a_small_stack() {
    let run = || {
        let row = json!({"tags": {"x": 1}});
        for condition in nested(limits::QUERY_DEPTH / 2) {
            let query = Query::from_condition(&condition).unwrap();
            let _ = query.clone().matches(&row);
        }
    };
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    small.spawn(run).unwrap().join().unwrap();
}

#[test]
fn flat_chains_are_as_long_as_the_text() {
    let row = json!({"deviceId": "d", "tags": {"a": 2}});
    for (link, separator, last, matches) in [
        ("tags.a=1", " OR ", "tags.a=2", true),
        ("tags.a=2", " AND ", "tags.a=2", true),
        ("tags.a=2", " AND ", "tags.a=1", false),
        ("NOT tags.a=1", " AND ", "true", true),
        ("1", "+", "1 > 0", true),
        ("1", "*", "1 = 1", true),
        ("0-1", "-", "1 < -1000", true),
    ] {
        let links = (limits::QUERY_CHARS - last.len()) / (link.len() + separator.len());
        let mut condition = String::new();
        for _ in 0..links {
            condition.push_str(link);
            condition.push_str(separator);
        }
        condition.push_str(last);
        let query = Query::from_condition(&condition).unwrap();
        assert_eq!(query.matches(&row), matches, "{link}{separator}…{last}");
    }
    let mut ids = String::from("deviceId IN ['d'");
    for i in 0..1000 {
        write!(ids, ",'d{i}'").unwrap();
    }
    ids.push(']');
    let query = Query::from_condition(&ids).unwrap();
    assert!(query.matches(&row));
    assert_eq!(query.device_ids().map(|ids| ids.len()), Some(1001));
}

/// Texts made of the language's own pieces: they get further than noise does.
fn token_soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "SELECT",
        "*",
        "FROM",
        "devices",
        "devices.jobs",
        "WHERE",
        "GROUP BY",
        "TOP",
        "AS",
        "COUNT()",
        "MIN(",
        "tags.a",
        "[[x]]",
        "[[",
        "]]",
        "[",
        "]",
        "(",
        ")",
        "NOT",
        "AND",
        "OR",
        "IN",
        "NIN",
        "-",
        "+",
        "/",
        "=",
        "<>",
        ">=",
        "1",
        "0x1",
        "1e5",
        "'s'",
        "\"",
        "'",
        "\\u00e9",
        "é",
        ".",
        ",",
        ";",
        "null",
        "IS_DEFINED(",
        "STARTSWITH(",
        "SUBSTRING(",
        "CONCAT(",
        "$version",
        "\n",
        "properties.reported",
        "a-b",
    ]);
    (
        prop::collection::vec(piece, 0..30),
        prop::sample::select(vec![" ", ""]),
    )
        .prop_map(|(pieces, separator)| pieces.join(separator))
}

fn never_panics(text: &str) {
    let row = json!({"deviceId": "d", "tags": {"a": 1}, "status": "completed"});
    for result in [
        Query::parse(text),
        Query::from_condition(text),
        Query::from_condition_in(Dialect::Lenient, text),
        Query::parse(&format!("SELECT {text} FROM devices")),
        Query::from_condition(&format!("FROM devices.modules WHERE {text}")),
    ] {
        match result {
            Ok(query) => {
                let _ = (query.matches(&row), query.device_ids());
            }
            Err(error) => {
                assert!(error.line <= 1 + text.matches('\n').count(), "{error}");
                assert!((1..=text.chars().count() + 60).contains(&error.column), "{error}");
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        never_panics(&text);
    }

    #[test]
    fn arbitrary_tokens_never_panic(text in token_soup()) {
        never_panics(&text);
    }
}
