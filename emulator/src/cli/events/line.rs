//! An event as a line for people: time, device, kind, and what it says in short.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

/// Characters of an event's text.
const TEXT_CHARS: usize = 160;

/// Whether kinds are told apart by colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Coloured,
}

/// The line of an event.
pub(super) fn of(event: &Value, style: Style) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let kind = text("kind");
    if kind == "gap" {
        let missing = match event["missed"].as_u64() {
            Some(missed) => {
                format!("-- up to {missed} events are not shown: they came faster than they could be read")
            }
            None => "-- events may be missing here: nobody watched for a while".into(),
        };
        return painted(&missing, "33", style);
    }
    let mut who = text("deviceId").to_owned();
    if let Some(module) = event["moduleId"].as_str() {
        who = format!("{who}/{module}");
    }
    // The time of day in UTC: 2026-01-02T03:04:05.678Z.
    let time = text("time").get(11..23).unwrap_or_else(|| text("time"));
    let mut what = shortened(&what(event, kind));
    if let Some(routes) = event["routes"].as_array().filter(|routes| !routes.is_empty()) {
        let names: Vec<&str> = routes.iter().filter_map(Value::as_str).collect();
        let _ = write!(what, " [to {}]", shortened(&names.join(", ")));
    }
    let colour = match kind {
        "telemetry" => "36",
        "method" => "35",
        "c2d" => "34",
        "connection" | "lifecycle" => "32",
        _ => "33",
    };
    let kind = painted(&format!("{kind:<12}"), colour, style);
    format!("{time}  {:<16}  {kind}  {what}", shortened(&who))
}

/// What an event says.
fn what(event: &Value, kind: &str) -> String {
    let operation = event["operation"].as_str().unwrap_or_default();
    let body = match (event["body"].as_str(), event["bodyBase64"].as_str()) {
        (Some(body), _) => body.to_owned(),
        (None, Some(base64)) => format!("base64 {base64}"),
        _ => String::new(),
    };
    match kind {
        "telemetry" => {
            let properties = event["applicationProperties"].as_object();
            let pairs = properties.into_iter().flatten().map(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                format!("  {name}={value}")
            });
            body + &pairs.collect::<String>()
        }
        "connection" => operation.trim_start_matches("device").to_ascii_lowercase(),
        "lifecycle" => match operation {
            "createDeviceIdentity" => "created".into(),
            "deleteDeviceIdentity" => "deleted".into(),
            other => other.into(),
        },
        "method" => method(&body, operation).unwrap_or(body),
        "twin" => format!("{operation}  {}", without_metadata(&body).unwrap_or(body)),
        _ if body.is_empty() => operation.into(),
        _ => format!("{operation}  {body}"),
    }
}

/// A method call: its name, what it was given, and how it ended.
fn method(body: &str, operation: &str) -> Option<String> {
    let call: Value = serde_json::from_str(body).ok()?;
    let name = call["methodName"].as_str()?;
    let outcome = match (call["status"].as_i64(), call["error"].as_str()) {
        (Some(status), _) => format!("{status} {}", call["response"]),
        (None, Some(error)) => error.to_owned(),
        (None, None) if operation == "canceled" => "canceled: the caller has gone".into(),
        _ => return None,
    };
    Some(format!(
        "{name}({}) -> {outcome}, {} ms",
        call["payload"], call["durationMs"]
    ))
}

/// A twin's values without when each was written.
fn without_metadata(body: &str) -> Option<String> {
    let mut twin: Value = serde_json::from_str(body).ok()?;
    for section in ["desired", "reported"] {
        if let Some(section) = twin.pointer_mut(&format!("/properties/{section}")) {
            section.as_object_mut()?.remove("$metadata");
        }
    }
    Some(twin.to_string())
}

/// A text in one line of bounded length, in which nothing can move the cursor.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == TEXT_CHARS {
            short.push('…');
            break;
        }
        if c.is_control() || turns_text(c) {
            short.extend(c.escape_default());
        } else {
            short.push(c);
        }
    }
    short
}

/// JSON of the hub as it is, but for characters that steer terminals and that JSON
/// lets through: they can stand in strings only, and are escaped there.
pub(super) fn json(text: &str) -> Cow<'_, str> {
    let is_harmless = |c: char| !c.is_control() && !turns_text(c);
    if text.chars().all(is_harmless) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmless(c) {
            escaped.push(c);
        } else {
            // All of them have four digits. Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        }
    }
    escaped.into()
}

/// Whether a character changes the direction of the text around it.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn painted(text: &str, colour: &str, style: Style) -> String {
    match style {
        Style::Plain => text.to_owned(),
        Style::Coloured => format!("\x1b[{colour}m{text}\x1b[0m"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_has_its_line() {
        let time = "2026-01-02T03:04:05.678Z";
        let method = json!({"methodName": "lock", "payload": {"t": 1}, "durationMs": 7, "status": 200, "response": true});
        let failed =
            json!({"methodName": "lock", "payload": null, "durationMs": 0, "error": "DeviceNotOnline"});
        for (event, expected) in [
            (
                json!({"kind": "telemetry", "time": time, "deviceId": "d", "moduleId": "m", "body": "{\"t\":1}",
                    "applicationProperties": {"alert": "yes"}, "routes": ["hot", "all"]}),
                "03:04:05.678  d/m               telemetry     {\"t\":1}  alert=yes [to hot, all]",
            ),
            (
                json!({"kind": "telemetry", "time": time, "deviceId": "d", "bodyBase64": "/w=="}),
                "03:04:05.678  d                 telemetry     base64 /w==",
            ),
            (
                json!({"kind": "connection", "time": time, "deviceId": "d", "operation": "deviceConnected", "body": "{}"}),
                "03:04:05.678  d                 connection    connected",
            ),
            (
                json!({"kind": "lifecycle", "time": time, "deviceId": "d", "operation": "deleteDeviceIdentity"}),
                "03:04:05.678  d                 lifecycle     deleted",
            ),
            (
                json!({"kind": "twin", "time": time, "deviceId": "d", "operation": "updateTwin",
                    "body": "{\"version\":2,\"properties\":{\"desired\":{\"a\":1,\"$metadata\":{\"a\":{}}}}}"}),
                "03:04:05.678  d                 twin          updateTwin  {\"properties\":{\"desired\":{\"a\":1}},\"version\":2}",
            ),
            (
                json!({"kind": "method", "time": time, "deviceId": "d", "body": method.to_string()}),
                "03:04:05.678  d                 method        lock({\"t\":1}) -> 200 true, 7 ms",
            ),
            (
                json!({"kind": "method", "time": time, "deviceId": "d", "body": failed.to_string()}),
                "03:04:05.678  d                 method        lock(null) -> DeviceNotOnline, 0 ms",
            ),
            (
                json!({"kind": "c2d", "time": time, "deviceId": "d", "operation": "completed", "body": ""}),
                "03:04:05.678  d                 c2d           completed",
            ),
            (
                json!({"kind": "gap", "missed": 7}),
                "-- up to 7 events are not shown: they came faster than they could be read",
            ),
            (
                json!({"kind": "gap", "missed": null}),
                "-- events may be missing here: nobody watched for a while",
            ),
        ] {
            assert_eq!(of(&event, Style::Plain), expected);
        }
    }

    #[test]
    fn a_device_cannot_write_on_the_terminal() {
        let event =
            json!({"kind": "telemetry", "deviceId": "d", "body": format!("\x1b[2J\r\n{}", "x".repeat(1000))});
        let line = of(&event, Style::Coloured);
        assert!(
            line.contains("\\u{1b}[2J\\r\\nxxx") && line.ends_with('…'),
            "{line}"
        );
        assert_eq!(line.matches('\x1b').count(), 2);
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_printed() {
        let data = "{\"body\":\"a\u{9b}31m\u{7f}\u{202e}ä\"}";
        let shown = json(data);
        assert_eq!(shown, "{\"body\":\"a\\u009b31m\\u007f\\u202eä\"}");
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&shown), value(data));
        assert_eq!(json("{\"a\":1}"), "{\"a\":1}");
        assert_eq!(shortened("a\u{9b}\u{2066}"), "a\\u{9b}\\u{2066}");
    }
}
