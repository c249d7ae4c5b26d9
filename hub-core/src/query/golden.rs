//! Runs the scripts in `golden/`, one for each feature of the language.
//!
//! A script is a sequence of blocks with blank lines between them. A block
//! without `---` adds rows, each line one: the collection and the row's JSON.
//! Every other block is a command, `---`, and what it prints. The command is a
//! query text, possibly of several lines, or one of
//!
//! * `condition …`: runs a condition as a job would,
//! * `lenient …`: runs a query in the lenient dialect,
//! * `ids …`: prints the devices that a query can be answered from,
//! * `equalities …`: prints the paths by which an index could answer a query,
//!   with how many values.
//!
//! A result prints its item type and then a row per line; whole rows are
//! printed by their ids only. A refusal prints its place and message. Running
//! with `UPDATE_GOLDEN` set writes what the commands print into the scripts.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::{Dialect, Query, QueryError, Selection, Source};
use crate::golden::check_scripts;

#[test]
fn scripts_print_what_they_say() {
    check_scripts("query/golden", run);
}

/// Runs a script and returns it with what its commands print.
fn run(script: &str) -> String {
    let mut rows = Rows::default();
    let blocks: Vec<String> = script
        .trim_end()
        .split("\n\n")
        .map(|block| match block.split_once("\n---") {
            None => {
                rows.add(block);
                block.to_owned()
            }
            Some((command, _)) => format!("{command}\n---\n{}", rows.execute(command).trim_end()),
        })
        .collect();
    blocks.join("\n\n") + "\n"
}

#[derive(Default)]
struct Rows {
    devices: Vec<Json>,
    modules: Vec<Json>,
    jobs: Vec<Json>,
}

impl Rows {
    fn add(&mut self, block: &str) {
        for line in block.lines().filter(|line| !line.starts_with('#')) {
            let (collection, json) = line.split_once(' ').expect("a collection and a row");
            let rows = match collection {
                "devices" => &mut self.devices,
                "devices.modules" => &mut self.modules,
                "devices.jobs" => &mut self.jobs,
                other => panic!("unknown collection {other}"),
            };
            rows.push(serde_json::from_str(json).expect(json));
        }
    }

    fn execute(&self, command: &str) -> String {
        let text: Vec<&str> = command.lines().filter(|line| !line.starts_with('#')).collect();
        let text = text.join("\n");
        let printed = if let Some(condition) = text.strip_prefix("condition ") {
            Query::from_condition(condition).map(|query| self.result(&query))
        } else if let Some(query) = text.strip_prefix("lenient ") {
            Query::parse_in(Dialect::Lenient, query).map(|query| self.result(&query))
        } else if let Some(query) = text.strip_prefix("ids ") {
            Query::parse(query).map(|query| format!("{:?}", query.device_ids()))
        } else if let Some(query) = text.strip_prefix("equalities ") {
            Query::parse(query).map(|query| {
                let terms = query.equalities();
                let terms = terms
                    .iter()
                    .map(|term| format!("{}: {}", term.path, term.keys.len()));
                let printed = terms.collect::<Vec<_>>().join("\n");
                if printed.is_empty() {
                    "none".into()
                } else {
                    printed
                }
            })
        } else {
            Query::parse(&text).map(|query| self.result(&query))
        };
        printed.unwrap_or_else(
            |QueryError {
                 line,
                 column,
                 message,
             }| format!("{line}:{column} {message}"),
        )
    }

    fn result(&self, query: &Query) -> String {
        let rows = match query.source() {
            Source::Devices => &self.devices,
            Source::Modules => &self.modules,
            Source::Jobs => &self.jobs,
        };
        let matching = rows.iter().filter(|row| query.matches(*row));
        let output: Vec<Json> = match query.selection() {
            Selection::Whole => matching.map(ids).collect(),
            Selection::Fields(projection) => matching.map(|row| projection.project(row).into()).collect(),
            Selection::Groups(grouping) => {
                let mut aggregation = grouping.aggregate();
                matching.for_each(|row| aggregation.add(row));
                aggregation.finish().into_iter().map(Json::from).collect()
            }
        };
        let top = query
            .top()
            .map_or(usize::MAX, |top| usize::try_from(top).unwrap());
        let mut printed = format!("{}\n", query.item_type().as_str());
        for row in output.into_iter().take(top) {
            match row {
                Json::String(ids) => writeln!(printed, "{ids}").unwrap(),
                row => writeln!(printed, "{row}").unwrap(),
            }
        }
        printed
    }
}

/// What identifies a row within its collection.
fn ids(row: &Json) -> Json {
    let ids: Vec<&str> = ["jobId", "deviceId", "moduleId"]
        .iter()
        .filter_map(|name| row.get(name)?.as_str())
        .collect();
    ids.join("/").into()
}
