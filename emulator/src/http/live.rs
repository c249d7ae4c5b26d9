//! `/_emulator/events` with `Accept: text/event-stream`: what happens in the hub,
//! as it happens, as server-sent events.
//!
//! Each entry of the journal is one event: `id` its id, `event` its kind, `data`
//! one JSON object. Where entries are missing there is an event `gap`. Comments
//! keep the connection alive and carry the id up to which was looked, so that
//! who comes back with `Last-Event-ID` goes on there. A client that does not
//! read is not read for: it holds some entries at most and finds a gap.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::DeviceId;
use serde_json::json;

use super::App;
use super::request::{query_pairs, text};
use crate::hub::events::journal::{FILTER_NAMES, Filter, Gap, Kind, Seen, Watcher};

/// Silence after which a comment is sent; below the idle times of proxies and
/// browsers.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Whether the client asks for events as they happen.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted.filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|kind| {
            let kind = kind.split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case("text/event-stream")
        })
    })
}

/// Shows what happens from now on, or since the entry that `Last-Event-ID` or
/// `?after=` names; of `?device=`, of `?kind=`, by `?route=`, where they are given.
///
/// # Errors
/// `ArgumentInvalid` for a parameter that is none or cannot be read;
/// `ThrottlingException` when as many watch as may.
pub(super) fn watch(app: &App, headers: &HeaderMap, query: Option<&str>) -> Result<Response, ServiceError> {
    let wanted = Wanted::parse(headers, query)?;
    let watcher = app
        .hub
        .events
        .journal
        .watch(wanted.after, wanted.filter)
        .map_err(|error| ServiceError::new(ErrorCode::ThrottlingException, error.to_string()))?;
    let stream = stream::unfold((watcher, true), |(mut watcher, is_first)| async move {
        let event = if is_first {
            // The client knows by it that nothing is missed from now on.
            comment("watching", &watcher)
        } else {
            match tokio::time::timeout(KEEP_ALIVE, watcher.next()).await {
                Ok(seen) => event(&seen?),
                Err(_) => comment("keep-alive", &watcher),
            }
        };
        Some((Ok::<_, Infallible>(event), (watcher, false)))
    });
    Ok(Sse::new(stream).into_response())
}

fn event(seen: &Seen) -> Event {
    match seen {
        Seen::Entry(id, entry) => Event::default()
            .id(id.to_string())
            .event(entry.kind.name())
            .data(entry.json(*id).to_string()),
        Seen::Gap(Gap { missed, last }) => Event::default()
            .id(last.to_string())
            .event("gap")
            .data(json!({ "id": last, "kind": "gap", "missed": missed }).to_string()),
    }
}

fn comment(text: &str, watcher: &Watcher) -> Event {
    Event::default().comment(text).id(watcher.position().to_string())
}

/// What a client wants to watch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    after: Option<u64>,
    filter: Filter,
}

impl Wanted {
    fn parse(headers: &HeaderMap, query: Option<&str>) -> Result<Self, ServiceError> {
        let mut wanted = Self::default();
        for (name, value) in query_pairs(query) {
            match &*name.to_ascii_lowercase() {
                "device" => {
                    // A `*` is legal in an id.
                    DeviceId::parse(&value).map_err(|e| {
                        ServiceError::invalid(format!(
                            "device={value:?} is no device id or beginning of one: {e}"
                        ))
                    })?;
                    check_count("device", wanted.filter.devices.len())?;
                    wanted.filter.devices.push(value.into());
                }
                "kind" => {
                    for kind in value.split(',') {
                        let kind = parse_kind(kind)?;
                        if !wanted.filter.kinds.contains(&kind) {
                            wanted.filter.kinds.push(kind);
                        }
                    }
                }
                "route" => {
                    check_count("route", wanted.filter.routes.len())?;
                    wanted.filter.routes.push(value.into());
                }
                "after" => wanted.after = Some(parse_id("after", &value)?),
                // Some clients add it to every request.
                "api-version" => {}
                _ => {
                    return Err(ServiceError::invalid(format!(
                        "{name:?} is no parameter here; there are device, kind, route and after"
                    )));
                }
            }
        }
        // A browser that connects again says there what it has seen since.
        if let Some(id) = text(headers, "last-event-id").filter(|id| !id.is_empty()) {
            wanted.after = Some(parse_id("Last-Event-ID", &id)?);
        }
        Ok(wanted)
    }
}

/// Whether one more may be named.
fn check_count(name: &str, count: usize) -> Result<(), ServiceError> {
    if count < FILTER_NAMES {
        return Ok(());
    }
    Err(ServiceError::invalid(format!(
        "{name} may be given {FILTER_NAMES} times at most"
    )))
}

fn parse_kind(name: &str) -> Result<Kind, ServiceError> {
    Kind::from_name(name).ok_or_else(|| {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        ServiceError::invalid(format!("kind={name:?} is none of {}", kinds.join(", ")))
    })
}

fn parse_id(name: &str, text: &str) -> Result<u64, ServiceError> {
    text.parse()
        .map_err(|_| ServiceError::invalid(format!("{name}={text:?} is no id of an event")))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn parse(query: &str, last_event_id: Option<&'static str>) -> Result<Wanted, String> {
        let mut headers = HeaderMap::new();
        if let Some(id) = last_event_id {
            headers.insert("Last-Event-ID", HeaderValue::from_static(id));
        }
        Wanted::parse(&headers, Some(query)).map_err(|error| error.message)
    }

    #[test]
    fn what_is_wanted_is_read() {
        let wanted = parse(
            "device=a&Device=room%2D*&kind=twin,method&kind=digital-twin&route=r%201",
            None,
        );
        let filter = Filter {
            devices: vec!["a".into(), "room-*".into()],
            kinds: vec![Kind::Twin, Kind::Method, Kind::DigitalTwin],
            routes: vec!["r 1".into()],
        };
        assert_eq!(wanted, Ok(Wanted { after: None, filter }));
        assert_eq!(parse("after=7", None).unwrap().after, Some(7));
        assert_eq!(parse("after=7", Some("9")).unwrap().after, Some(9));
        assert_eq!(parse("", Some("")).unwrap(), Wanted::default());
    }

    #[test]
    fn what_is_wanted_is_bounded() {
        for name in ["device", "route"] {
            let many = |count| vec![format!("{name}=a"); count].join("&");
            assert!(parse(&many(FILTER_NAMES), None).is_ok());
            let error = parse(&many(FILTER_NAMES + 1), None).unwrap_err();
            assert_eq!(error, format!("{name} may be given 100 times at most"));
        }
        let kinds = parse(&["kind=twin,c2d,twin"; 1000].join("&"), None).unwrap();
        assert_eq!(kinds.filter.kinds, [Kind::Twin, Kind::C2d]);
    }

    #[test]
    fn what_is_no_wish_is_refused() {
        for (query, id, expected) in [
            (
                "kind=twins",
                None,
                "kind=\"twins\" is none of telemetry, twin, lifecycle",
            ),
            ("kind=", None, "kind=\"\" is none of"),
            ("device=", None, "device=\"\" is no device id"),
            ("device=a%20b", None, "device=\"a b\" is no device id"),
            ("partition=0", None, "\"partition\" is no parameter here"),
            ("after=-1", None, "after=\"-1\" is no id"),
            ("after=1", Some("x"), "Last-Event-ID=\"x\" is no id"),
        ] {
            let error = parse(query, id).unwrap_err();
            assert!(error.starts_with(expected), "{query}: {error}");
        }
    }

    #[test]
    fn clients_ask_for_a_stream_by_its_type() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(is_wanted(&headers), expected, "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
