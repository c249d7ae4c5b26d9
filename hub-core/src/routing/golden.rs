//! Runs the scripts in `golden/`, one for each part of the conditions' language.
//!
//! A script is a sequence of blocks with blank lines between them. A block
//! without `---` is a message as [`Trial`] reads it, which the following
//! blocks are about. Every other block is the condition of a route, `---`, and
//! what becomes of the message: `true`, `false`, `undefined` with the reason, or
//! the place and message of a refusal. Lines that start with `#` are comments.
//! Running with `UPDATE_GOLDEN` set writes what comes out into the scripts.

use serde_json::json;

use super::{Routing, Trial, Verdict, source_name};
use crate::golden::check_scripts;
use crate::time::Timestamp;

#[test]
fn scripts_print_what_they_say() {
    check_scripts("routing/golden", run);
}

/// Runs a script and returns it with what comes out.
fn run(script: &str) -> String {
    let mut message = Trial::from_json(&json!({})).unwrap();
    let blocks = script.trim_end().split("\n\n").map(|block| {
        let without_comments = |text: &str| {
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            lines.join("\n")
        };
        match block.split_once("\n---") {
            None => {
                let text = without_comments(block);
                if !text.is_empty() {
                    message = Trial::from_json(&serde_json::from_str(&text).expect(block)).expect(block);
                }
                block.to_owned()
            }
            Some((condition, _)) => {
                format!(
                    "{condition}\n---\n{}",
                    outcome(&without_comments(condition), &message)
                )
            }
        }
    });
    blocks.collect::<Vec<_>>().join("\n\n") + "\n"
}

fn outcome(condition: &str, message: &Trial) -> String {
    let message = message.message(Timestamp::from_unix_ticks(17_000_000_000_000_000));
    let routing = Routing::from_json(&json!({ "routes": [{
        "name": "r",
        "source": source_name(message.source),
        "condition": condition,
        "endpointNames": ["events"],
    }] }));
    match routing {
        Err(error) => {
            let fault = error.condition.expect("only the condition can be wrong");
            format!("{}:{} {}", fault.line, fault.column, fault.message)
        }
        Ok(routing) => {
            let explanation = routing.explain(&message, "hub");
            let verdict = &explanation.routes[0].verdict;
            assert_eq!(
                explanation.decision.routes.contains(0),
                *verdict == Verdict::Matched
            );
            match verdict {
                Verdict::Matched => "true".into(),
                Verdict::False => "false".into(),
                Verdict::Undefined { reference: None, .. } => "undefined".into(),
                Verdict::Undefined {
                    reference: Some(name),
                    reason: None,
                } => format!("undefined: {name}"),
                Verdict::Undefined {
                    reference: Some(name),
                    reason: Some(reason),
                } => {
                    format!("undefined: {name}, {reason}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
