//! Jobs and their devices as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use hub_core::tier::Tier;
use hub_core::time::Timestamp;
use serde_json::{Value, json};

/// Devices named as examples of one cause of failure.
const EXAMPLES: usize = 3;
/// Causes of failure that a table shows.
const CAUSES: usize = 20;

/// Devices that failed for the same reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure<'a> {
    code: &'a str,
    /// With `<device>` where it names the device itself.
    description: String,
    count: usize,
    examples: Vec<String>,
}

impl Failure<'_> {
    pub(super) fn to_json(&self) -> Value {
        json!({"code": self.code, "description": self.description,
               "count": self.count, "examples": self.examples})
    }
}

/// Groups the records of failed devices by cause, most frequent first.
pub(super) fn failures(records: &[Value]) -> Vec<Failure<'_>> {
    let mut groups: BTreeMap<(&str, String), Failure<'_>> = BTreeMap::new();
    for record in records.iter().filter(|record| record["status"] == "failed") {
        let error = &record["error"];
        let code = error["code"].as_str().unwrap_or("unknown");
        let description = anonymous(text(&error["description"]), text(&record["deviceId"]));
        let group = groups
            .entry((code, description.clone()))
            .or_insert_with(|| Failure {
                code,
                description,
                count: 0,
                examples: Vec::new(),
            });
        group.count += 1;
        if group.examples.len() < EXAMPLES {
            group.examples.push(target(record));
        }
    }
    let mut failures: Vec<_> = groups.into_values().collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    failures
}

/// A description without the name of the device that it is about, so that
/// devices which failed alike are one group.
fn anonymous(description: &str, device: &str) -> String {
    let words = description.split(' ').map(|word| {
        let bare = word.trim_matches(|c: char| c.is_ascii_punctuation() && !device.contains(c));
        if bare == device && !device.is_empty() {
            word.replace(device, "<device>")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Indented JSON and a newline.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// One job at length, with the failures among its devices.
pub(super) fn job(job: &Value, records: &[Value]) -> String {
    let mut lines = vec![["job".to_owned(), text(&job["jobId"]).to_owned()]];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push([name.to_owned(), value]);
        }
    };
    add("does", action(job));
    add("over", text(&job["queryCondition"]).to_owned());
    add("starts", text(&job["startTime"]).to_owned());
    add("ended", text(&job["endTime"]).to_owned());
    add("status", text(&job["status"]).to_owned());
    add("reason", text(&job["failureReason"]).to_owned());
    add("devices", counts(job));
    let mut out = table(&lines);
    out.push_str(&failure_table(records));
    out
}

/// Many jobs, one a line.
pub(super) fn jobs(jobs: &[Value]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".into();
    }
    let mut lines = vec![["JOB", "STATUS", "STARTS", "DOES", "DEVICES"].map(str::to_owned)];
    lines.extend(jobs.iter().map(|job| {
        [
            text(&job["jobId"]).to_owned(),
            text(&job["status"]).to_owned(),
            text(&job["startTime"]).to_owned(),
            action(job),
            counts(job),
        ]
    }));
    table(&lines)
}

/// Every device of a job, one a line, and the failures by cause.
pub(super) fn devices(records: &[Value]) -> String {
    if records.is_empty() {
        return "no devices: the job has not started, or its query selected none\n".into();
    }
    let mut lines = vec![["DEVICE", "STATUS", "TOOK", "RESULT"].map(str::to_owned)];
    lines.extend(records.iter().map(|record| {
        [
            target(record),
            text(&record["status"]).to_owned(),
            took(record),
            result(record),
        ]
    }));
    let mut out = table(&lines);
    out.push_str(&failure_table(records));
    out
}

/// What a tier allows and how long a job over `devices` devices takes on it.
pub(super) fn forecast(tier: Tier, devices: u64) -> String {
    let mut lines = vec![[
        "tier".to_owned(),
        format!("{}, units: {}", tier.sku().name(), tier.units()),
    ]];
    let mut add = |name: String, value: String| lines.push([name, value]);
    match tier.jobs() {
        None => add("jobs at once".into(), "none: a basic tier has no jobs".into()),
        Some(jobs) => {
            add("jobs at once".into(), jobs.concurrent.to_string());
            add("devices a second".into(), jobs.operations_per_second.to_string());
        }
    }
    add(
        "messages a day".into(),
        format!("{} of {} bytes", tier.messages_per_day(), tier.message_block()),
    );
    if let Some(jobs) = tier.jobs() {
        let seconds = jobs.duration(devices).as_secs();
        add(format!("{devices} devices"), format!("at least {seconds} s"));
    }
    table(&lines)
}

/// The same for programs, in the form of the emulator's `/_emulator/tier`: null
/// is what a tier without jobs does not have.
pub(super) fn forecast_json(tier: Tier, devices: u64) -> Value {
    let jobs = tier.jobs();
    json!({
        "sku": tier.sku(),
        "units": tier.units(),
        "concurrentJobs": jobs.map(|jobs| jobs.concurrent),
        "jobDeviceOperationsPerSecond": jobs.map(|jobs| jobs.operations_per_second),
        "messagesPerDay": tier.messages_per_day(),
        "messageBlockBytes": tier.message_block(),
        "forecast": {"devices": devices, "seconds": jobs.map(|jobs| jobs.duration(devices).as_secs())},
    })
}

fn failure_table(records: &[Value]) -> String {
    let failures = failures(records);
    if failures.is_empty() {
        return String::new();
    }
    let mut lines = vec![["FAILED", "CAUSE", "DESCRIPTION", "FOR EXAMPLE"].map(str::to_owned)];
    lines.extend(failures.iter().take(CAUSES).map(|failure| {
        [
            failure.count.to_string(),
            failure.code.to_owned(),
            failure.description.clone(),
            failure.examples.join(", "),
        ]
    }));
    let mut out = format!("\n{}", table(&lines));
    if let Some(more) = failures.get(CAUSES..).filter(|more| !more.is_empty()) {
        let devices: usize = more.iter().map(|failure| failure.count).sum();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "and {} other causes, of {devices} devices", more.len());
    }
    out
}

/// Columns, as wide as their widest cell, two blanks apart.
fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(padded, "{cell:width$}  ");
        }
        out.push_str(padded.trim_end());
        out.push('\n');
    }
    out
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn target(record: &Value) -> String {
    match record["moduleId"].as_str() {
        None => text(&record["deviceId"]).to_owned(),
        Some(module) => format!("{}/{module}", text(&record["deviceId"])),
    }
}

fn action(job: &Value) -> String {
    match text(&job["type"]) {
        "scheduleDeviceMethod" => {
            let name = text(&job["cloudToDeviceMethod"]["methodName"]);
            format!("method {name}").trim_end().to_owned()
        }
        "scheduleUpdateTwin" => "twin update".to_owned(),
        other => other.to_owned(),
    }
}

fn counts(job: &Value) -> String {
    let statistics = &job["deviceJobStatistics"];
    let count = |name: &str| statistics[name].as_u64().unwrap_or(0);
    if statistics.is_null() {
        return String::new();
    }
    let mut out = format!("{} selected", count("deviceCount"));
    for (name, word) in [
        ("succeededCount", "succeeded"),
        ("failedCount", "failed"),
        ("runningCount", "running"),
        ("pendingCount", "pending"),
    ] {
        if count(name) > 0 {
            let _ = write!(out, ", {} {word}", count(name));
        }
    }
    out
}

fn result(record: &Value) -> String {
    let response = &record["outcome"]["deviceMethodResponse"];
    match (&record["error"], response) {
        (Value::Object(error), _) => error.get("code").map(text).unwrap_or_default().to_owned(),
        (_, Value::Object(answer)) => {
            let part = |name: &str| answer.get(name).unwrap_or(&Value::Null);
            format!("{} {}", part("status"), part("payload"))
        }
        _ => String::new(),
    }
}

/// How long the operation on a device took; empty when it never began or has not ended.
fn took(record: &Value) -> String {
    let time = |name: &str| {
        let time = Timestamp::parse(text(&record[name])).ok()?;
        (time != Timestamp::NEVER).then_some(time)
    };
    match (time("startTimeUtc"), time("endTimeUtc")) {
        (Some(start), Some(end)) => format!("{} ms", end.saturating_since(start).as_millis()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Value> {
        let failed = |id: &str, code: &str| {
            json!({"deviceId":id,"status":"failed","error":{"code":code,"description":"why"},
                   "startTimeUtc":"0001-01-01T00:00:00Z","endTimeUtc":"2026-01-02T03:04:05Z"})
        };
        vec![
            json!({"deviceId":"d1","moduleId":"m","status":"completed",
                   "startTimeUtc":"2026-01-02T03:04:05Z","endTimeUtc":"2026-01-02T03:04:05.25Z",
                   "outcome":{"deviceMethodResponse":{"status":200,"payload":{"a":1}}}}),
            failed("d2", "GatewayTimeout"),
            failed("d3", "DeviceNotOnline"),
            failed("d4", "DeviceNotOnline"),
            json!({"deviceId":"d5","status":"running","startTimeUtc":"2026-01-02T03:04:05Z",
                   "endTimeUtc":"0001-01-01T00:00:00Z"}),
        ]
    }

    #[test]
    fn devices_are_listed_and_failures_grouped() {
        assert_eq!(
            devices(&records()),
            "DEVICE  STATUS     TOOK    RESULT\n\
             d1/m    completed  250 ms  200 {\"a\":1}\n\
             d2      failed             GatewayTimeout\n\
             d3      failed             DeviceNotOnline\n\
             d4      failed             DeviceNotOnline\n\
             d5      running\n\
             \n\
             FAILED  CAUSE            DESCRIPTION  FOR EXAMPLE\n\
             2       DeviceNotOnline  why          d3, d4\n\
             1       GatewayTimeout   why          d2\n"
        );
        assert!(devices(&[]).starts_with("no devices"));
    }

    #[test]
    fn a_forecast_tells_limits_and_time() {
        let tier = Tier::new(hub_core::tier::Sku::S1, 1).unwrap();
        assert_eq!(
            forecast(tier, 10_000),
            "tier              S1, units: 1\n\
             jobs at once      1\n\
             devices a second  10\n\
             messages a day    400000 of 4096 bytes\n\
             10000 devices     at least 1000 s\n"
        );
        assert_eq!(
            forecast_json(tier, 10_000)["forecast"],
            json!({"devices": 10_000, "seconds": 1_000})
        );
        // A tier without jobs has an answer as well.
        let tier = Tier::new(hub_core::tier::Sku::B1, 2).unwrap();
        assert_eq!(
            forecast(tier, 10),
            "tier            B1, units: 2\n\
             jobs at once    none: a basic tier has no jobs\n\
             messages a day  800000 of 4096 bytes\n"
        );
        let json = forecast_json(tier, 10);
        assert_eq!(
            (&json["concurrentJobs"], &json["forecast"]),
            (&Value::Null, &json!({"devices": 10, "seconds": null}))
        );
    }

    #[test]
    fn examples_are_few_and_counts_complete() {
        let many: Vec<Value> = (0..10)
            .map(|n| json!({"deviceId":format!("d{n}"),"status":"failed"}))
            .collect();
        let groups = failures(&many);
        assert_eq!(groups.len(), 1);
        assert_eq!((groups[0].count, groups[0].examples.len()), (10, EXAMPLES));
        assert_eq!(groups[0].to_json()["code"], "unknown");
    }

    #[test]
    fn failures_that_name_their_device_are_one_group() {
        let failed = |id: &str, description: &str| {
            json!({"deviceId":id,"status":"failed",
                   "error":{"code":"DeviceNotFound","description":description}})
        };
        let records = [
            failed("a", "Device a is disabled"),
            failed("b-1", "Device b-1 is disabled"),
            failed("a", "'a'."),
            failed("is", "Device a is disabled"),
        ];
        let groups = failures(&records);
        let found: Vec<(usize, &str)> = groups.iter().map(|g| (g.count, &*g.description)).collect();
        assert_eq!(
            found,
            [
                (2, "Device <device> is disabled"),
                (1, "'<device>'."),
                (1, "Device a <device> disabled")
            ]
        );
    }

    #[test]
    fn a_table_has_few_causes() {
        let many: Vec<Value> = (0..CAUSES + 5)
            .map(|n| json!({"deviceId":"d","status":"failed","error":{"code":format!("C{n:02}")}}))
            .collect();
        let text = failure_table(&many);
        assert_eq!(text.lines().count(), CAUSES + 3);
        assert!(text.ends_with("and 5 other causes, of 5 devices\n"), "{text}");
    }

    #[test]
    fn a_job_is_told_in_lines() {
        let full = json!({"jobId":"j","type":"scheduleDeviceMethod","status":"completed",
            "cloudToDeviceMethod":{"methodName":"lockDoor"},"queryCondition":"*",
            "startTime":"2026-01-02T03:04:05Z","endTime":"2026-01-02T03:04:06Z",
            "deviceJobStatistics":{"deviceCount":2,"succeededCount":2,"failedCount":0,
                                   "runningCount":0,"pendingCount":0}});
        assert_eq!(
            job(&full, &[]),
            "job      j\n\
             does     method lockDoor\n\
             over     *\n\
             starts   2026-01-02T03:04:05Z\n\
             ended    2026-01-02T03:04:06Z\n\
             status   completed\n\
             devices  2 selected, 2 succeeded\n"
        );
        assert_eq!(
            jobs(std::slice::from_ref(&full)).lines().nth(1).unwrap(),
            "j    completed  2026-01-02T03:04:05Z  method lockDoor  2 selected, 2 succeeded"
        );
        assert_eq!(jobs(&[]), "no jobs\n");
        let created = json!({"jobId":"j","type":"scheduleUpdateTwin","status":"queued"});
        assert_eq!(
            job(&created, &[]),
            "job     j\ndoes    twin update\nstatus  queued\n"
        );
    }
}
