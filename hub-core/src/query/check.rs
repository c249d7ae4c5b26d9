//! Gives the names of a [`Statement`] their meaning: the third stage.
//!
//! Knows which collections there are, which attributes their rows have and how
//! each may be queried. The syntax is right by now.

use super::ast::{Column, Item, Items, Name, Segment, Statement};
use super::error::{Fault, shorten};
use super::row::{Attribute, Path};
use super::select::{GroupColumn, Grouping, Projection};
use super::{Output, Query, Source};

/// Attributes of device and module twins.
const TWIN_ATTRIBUTES: &[Attribute] = &[
    Attribute::DeviceId,
    Attribute::ModuleId,
    Attribute::Etag,
    Attribute::DeviceEtag,
    Attribute::Status,
    Attribute::StatusReason,
    Attribute::StatusUpdateTime,
    Attribute::ConnectionState,
    Attribute::LastActivityTime,
    Attribute::CloudToDeviceMessageCount,
    Attribute::AuthenticationType,
    Attribute::X509Thumbprint,
    Attribute::ModelId,
    Attribute::Version,
    Attribute::Tags,
    Attribute::Properties,
    Attribute::Capabilities,
    Attribute::DeviceScope,
    Attribute::ParentScopes,
    Attribute::Configurations,
];

/// Attributes of a job's records that conditions may use.
const JOB_ATTRIBUTES: &[Attribute] = &[
    Attribute::DeviceId,
    Attribute::ModuleId,
    Attribute::JobId,
    Attribute::JobType,
    Attribute::Status,
    Attribute::StartTimeUtc,
    Attribute::EndTimeUtc,
    Attribute::CreatedDateTimeUtc,
    Attribute::LastUpdatedDateTimeUtc,
];

/// Turns a statement into a query that can be run.
pub(super) fn check(statement: Statement) -> Result<Query, Fault> {
    let source = source(&statement.collection)?;
    let output = if source == Source::Jobs {
        job_output(&statement)?
    } else {
        output(&statement, source)?
    };
    let condition = statement
        .condition
        .map(|condition| condition.try_map(&mut |name: Name| resolve(&name, source)))
        .transpose()?;
    Ok(Query {
        source,
        top: statement.top,
        condition,
        output,
    })
}

/// Turns the statement that a job's or configuration's condition stands for
/// into a query: such a condition selects twins.
pub(super) fn check_condition(statement: Statement) -> Result<Query, Fault> {
    let at = statement.collection.at;
    let query = check(statement)?;
    if query.source == Source::Jobs {
        let hint = "a condition is over devices or devices.modules";
        return Err(Fault::unexpected(at, query.source.as_str(), Some(hint)));
    }
    Ok(query)
}

/// The collection after FROM; `c` is what some tools call `devices`.
fn source(name: &Name) -> Result<Source, Fault> {
    let is = |parts: &[&str]| {
        parts.len() == name.segments.len()
            && parts
                .iter()
                .zip(&name.segments)
                .all(|(part, segment)| segment.is_collection(part))
    };
    if is(&["devices"]) || is(&["c"]) {
        Ok(Source::Devices)
    } else if is(&["devices", "modules"]) {
        Ok(Source::Modules)
    } else if is(&["devices", "jobs"]) {
        Ok(Source::Jobs)
    } else {
        let hint = "the collections are devices, devices.modules and devices.jobs";
        Err(Fault::unexpected(name.at, &spelled(&name.segments), Some(hint)))
    }
}

/// Job records come out whole or not at all.
fn job_output(statement: &Statement) -> Result<Output, Fault> {
    if let Items::List(items) = &statement.items {
        let at = items.first().map_or(0, |item| item.at);
        return Err(Fault::new(at, "devices.jobs can be queried with SELECT * only"));
    }
    match statement.group_by.first() {
        None => Ok(Output::Whole),
        Some(key) => Err(Fault::new(key.at, "devices.jobs cannot be grouped")),
    }
}

fn output(statement: &Statement, source: Source) -> Result<Output, Fault> {
    let items = match &statement.items {
        Items::List(items) => items,
        Items::Star => {
            return match statement.group_by.first() {
                None => Ok(Output::Whole),
                Some(key) => Err(Fault::new(key.at, "SELECT * cannot be combined with GROUP BY")),
            };
        }
    };
    let has_aggregates = items.iter().any(|item| !matches!(item.column, Column::Name(_)));
    if has_aggregates || !statement.group_by.is_empty() {
        return grouping(items, statement, source).map(Output::Groups);
    }
    let mut fields = Vec::with_capacity(items.len());
    for item in items {
        if let Column::Name(name) = &item.column {
            let path = resolve(name, source)?;
            fields.push((title(item, path.last_segment()), path));
        }
    }
    Ok(Output::Fields(Projection { fields }))
}

fn grouping(items: &[Item], statement: &Statement, source: Source) -> Result<Grouping, Fault> {
    let keys: Vec<Path> = statement
        .group_by
        .iter()
        .map(|name| resolve(name, source))
        .collect::<Result<_, _>>()?;
    let columns = items
        .iter()
        .map(|item| {
            Ok(match &item.column {
                Column::Count => (title(item, "count"), GroupColumn::Count),
                Column::Aggregate(measure, name) => (
                    title(item, measure.name()),
                    GroupColumn::Aggregate(*measure, resolve(name, source)?),
                ),
                Column::Name(name) => {
                    let path = resolve(name, source)?;
                    let Some(index) = keys.iter().position(|key| *key == path) else {
                        let hint = "a column beside aggregates or GROUP BY must be a group key";
                        return Err(Fault::unexpected(name.at, &spelled(&name.segments), Some(hint)));
                    };
                    (title(item, path.last_segment()), GroupColumn::Key(index))
                }
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Grouping {
        keys,
        columns,
        top: statement.top,
    })
}

/// What a column is called in the output.
fn title(item: &Item, otherwise: &str) -> Box<str> {
    item.alias.clone().unwrap_or_else(|| otherwise.into())
}

/// The path that a name stands for in rows of `source`.
fn resolve(name: &Name, source: Source) -> Result<Path, Fault> {
    let segments = without_collection(name, source)?;
    let Some((first, rest)) = segments.split_first() else {
        let hint = "a collection is not a value";
        return Err(Fault::unexpected(name.at, &spelled(&name.segments), Some(hint)));
    };
    let keys = |segments: &[Segment]| segments.iter().map(|s| s.text.clone()).collect::<Vec<_>>();
    match attribute(&first.text, source) {
        Some(Attribute::Properties) => Ok(properties(rest, keys)),
        Some(_) if source == Source::Jobs && !rest.is_empty() => Err(not_a_job_field(name)),
        Some(attribute) => {
            let mut keys = keys(rest);
            canonicalise(attribute, &mut keys);
            Ok(Path::new(attribute, keys))
        }
        None if source == Source::Jobs => Err(not_a_job_field(name)),
        None => Ok(Path::new(Attribute::Unknown, keys(segments))),
    }
}

/// The segments after a leading collection name, which must be the one that is
/// queried: there are no joins.
fn without_collection(name: &Name, source: Source) -> Result<&[Segment], Fault> {
    let after = |n: usize| name.segments.get(n..).unwrap_or_default();
    let is = |index: usize, part| name.segments.get(index).is_some_and(|s| s.is_collection(part));
    if is(0, "c") && source == Source::Devices {
        return Ok(after(1));
    }
    if !is(0, "devices") {
        return Ok(after(0));
    }
    let named = match () {
        () if is(1, "modules") => Source::Modules,
        () if is(1, "jobs") => Source::Jobs,
        () => return Ok(after(1)),
    };
    if named == source {
        return Ok(after(2));
    }
    let hint = format!("the query is over {}", source.as_str());
    Err(Fault::unexpected(name.at, &spelled(&name.segments), Some(&hint)))
}

/// Finds an attribute by its name in any case, or by the other name that
/// official samples give it.
fn attribute(name: &str, source: Source) -> Option<Attribute> {
    let (attributes, synonym) = match source {
        Source::Devices | Source::Modules => (TWIN_ATTRIBUTES, ("id", Attribute::DeviceId)),
        Source::Jobs => (JOB_ATTRIBUTES, ("createdTimeUtc", Attribute::CreatedDateTimeUtc)),
    };
    let named = attributes.iter().map(|attribute| (attribute.name(), *attribute));
    named
        .chain([synonym])
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, attribute)| attribute)
}

/// The path for what follows `properties`.
fn properties(rest: &[Segment], keys: impl Fn(&[Segment]) -> Vec<Box<str>>) -> Path {
    let Some((section, below)) = rest.split_first() else {
        return Path::new(Attribute::Properties, []);
    };
    [Attribute::Desired, Attribute::Reported]
        .into_iter()
        .find(|attribute| attribute.name().eq_ignore_ascii_case(&section.text))
        .map_or_else(
            || Path::new(Attribute::Unknown, keys(rest)),
            |attribute| Path::new(attribute, keys(below)),
        )
}

/// Gives the service's own names below an attribute their proper spelling.
fn canonicalise(attribute: Attribute, keys: &mut [Box<str>]) {
    let (key, known): (_, &[&str]) = match attribute {
        Attribute::Capabilities => (keys.get_mut(0), &["iotEdge"]),
        Attribute::X509Thumbprint => (keys.get_mut(0), &["primaryThumbprint", "secondaryThumbprint"]),
        // The key before it is the configuration's id.
        Attribute::Configurations => (keys.get_mut(1), &["status"]),
        _ => return,
    };
    let Some(key) = key else { return };
    if let Some(proper) = known.iter().find(|name| name.eq_ignore_ascii_case(key)) {
        *key = (*proper).into();
    }
}

fn not_a_job_field(name: &Name) -> Fault {
    let hint = "not a field that devices.jobs can be queried by";
    Fault::unexpected(name.at, &spelled(&name.segments), Some(hint))
}

fn spelled(segments: &[Segment]) -> String {
    let parts: Vec<&str> = segments.iter().map(|segment| &*segment.text).collect();
    shorten(&parts.join("."))
}
