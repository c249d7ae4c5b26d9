//! One spelling for each route.
//!
//! Clients differ: a trailing slash (`/devices/?top=10`), another case of a
//! keyword (`/Twins/d/Methods`), encoded slashes (`/devices%2Fquery`). The
//! service takes them all, so they are brought to the route table's spelling
//! before routing. Ids are left exactly as they are.

use std::borrow::Cow;

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Keywords by the position at which they stand; `*` is an id.
const SHAPES: &[&[&str]] = &[
    &["devices", "query"],
    &["devices", "*", "modules", "*", "messages", "events"],
    &["devices", "*", "modules", "*", "messages", "devicebound"],
    &["devices", "*", "modules", "*", "commands"],
    &["devices", "*", "messages", "events"],
    &["devices", "*", "messages", "devicebound", "*", "abandon"],
    &["devices", "*", "commands"],
    &["messages", "servicebound", "feedback", "*", "abandon"],
    &["devices", "*", "files", "notifications", "*"],
    &["statistics", "devices"],
    &["statistics", "service"],
    &["twins", "*", "methods"],
    &["twins", "*", "modules", "*", "methods"],
    &["jobs", "v2", "query"],
    &["jobs", "v2", "*", "cancel"],
    &["$iothub", "websocket"],
    &["$servicebus", "websocket"],
    &["_emulator", "*", "*"],
    &["configurations", "testqueries"],
    &["configurations", "*"],
    &["devices", "*", "applyconfigurationcontent"],
    &["digitaltwins", "*", "commands", "*"],
    &["digitaltwins", "*", "components", "*", "commands", "*"],
    // Behind the others, or a device whose id is `Keys` would be spelled `keys`.
    &["devices", "keys", "regenerate"],
    &["devices", "*"],
    &["twins", "*", "modules", "*"],
    &["jobs", "v2", "*"],
    &["jobs", "create"],
    &["jobs", "*"],
];

/// Segments of the longest shape.
const LONGEST: usize = 6;

/// The URI with its path in the route table's spelling.
pub(crate) fn canonical_uri(uri: Uri) -> Uri {
    let Cow::Owned(path) = canonical(uri.path()) else {
        return uri;
    };
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    // A path made of the pieces of a valid one is valid; if it were not, the
    // router would answer 404 to the original.
    match PathAndQuery::try_from(path_and_query) {
        Ok(path_and_query) => {
            parts.path_and_query = Some(path_and_query);
            Uri::from_parts(parts).unwrap_or(uri)
        }
        Err(_) => uri,
    }
}

fn canonical(path: &str) -> Cow<'_, str> {
    // Some clients encode their path as if it were one segment.
    let one_segment = path.rfind('/') == Some(0);
    if one_segment && (path.contains("%2F") || path.contains("%2f")) {
        let separated = path.replace("%2F", "/").replace("%2f", "/");
        return Cow::Owned(canonical(&separated).into_owned());
    }
    let trimmed = match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    };
    let mut room = [""; LONGEST];
    let mut count = 0;
    for segment in trimmed.split('/').skip(1) {
        let Some(place) = room.get_mut(count) else {
            // Longer than any route.
            return Cow::Borrowed(path);
        };
        *place = segment;
        count += 1;
    }
    let segments = &room[..count];
    let mut shapes = SHAPES.iter().filter(|shape| count <= shape.len());
    let Some(shape) = shapes.find(|shape| matches(segments, shape, str::eq_ignore_ascii_case)) else {
        // Blobs have names of their own, in which every character counts.
        return Cow::Borrowed(path);
    };
    // Mostly, clients use the route table's spelling.
    if trimmed.len() == path.len() && matches(segments, shape, str::eq) {
        return Cow::Borrowed(path);
    }
    let spelled: String = segments
        .iter()
        .zip(*shape)
        .flat_map(|(segment, keyword)| ["/", if *keyword == "*" { segment } else { keyword }])
        .collect();
    Cow::Owned(spelled)
}

fn matches(segments: &[&str], shape: &[&str], is_keyword: fn(&str, &str) -> bool) -> bool {
    segments
        .iter()
        .zip(shape)
        .all(|(segment, keyword)| *keyword == "*" || is_keyword(segment, keyword))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shape_is_longer_than_the_longest() {
        assert_eq!(SHAPES.iter().map(|shape| shape.len()).max(), Some(LONGEST));
    }

    #[test]
    fn spellings_of_clients_come_to_one() {
        for (given, expected) in [
            ("/devices/?top=10", "/devices?top=10"),
            ("/devices%2Fquery?api-version=x", "/devices/query?api-version=x"),
            ("/Devices/Query", "/devices/query"),
            ("/Twins/Dev1/Methods", "/twins/Dev1/methods"),
            (
                "/twins/Methods/modules/Modules/METHODS",
                "/twins/Methods/modules/Modules/methods",
            ),
            ("/jobs/V2/Job1/Cancel", "/jobs/v2/Job1/cancel"),
            ("/jobs/v2/QUERY?jobType=x", "/jobs/v2/query?jobType=x"),
            ("/statistics/Devices", "/statistics/devices"),
            ("/configurations/?top=20", "/configurations?top=20"),
            ("/configurations/testQueries", "/configurations/testqueries"),
            ("/Configurations/Cfg", "/configurations/Cfg"),
            (
                "/devices/D/applyConfigurationContent",
                "/devices/D/applyconfigurationcontent",
            ),
            ("/digitalTwins/D/", "/digitaltwins/D"),
            (
                "/digitalTwins/D/Components/C/Commands/Do",
                "/digitaltwins/D/components/C/commands/Do",
            ),
            ("/devices/a%2Fb", "/devices/a%2Fb"),
            (
                "/devices%2FD%40x%2Fmessages%2FdeviceBound?a=b",
                "/devices/D%40x/messages/devicebound?a=b",
            ),
            (
                "/devices/D/messages/deviceBound/Token/Abandon",
                "/devices/D/messages/devicebound/Token/abandon",
            ),
            (
                "/devices/D/Modules/M/messages/deviceBound",
                "/devices/D/modules/M/messages/devicebound",
            ),
            ("/devices/Commands/Commands", "/devices/Commands/commands"),
            (
                "/messages/serviceBound/feedback/Token",
                "/messages/servicebound/feedback/Token",
            ),
            ("/%2F", "//"),
            ("/", "/"),
            ("/unknown/", "/unknown/"),
            (
                "/device-uploads/Devices/a%2Fb//c/?sig=x%2F",
                "/device-uploads/Devices/a%2Fb//c/?sig=x%2F",
            ),
            ("/Jobs/Create", "/jobs/create"),
            ("/jobs/J1/", "/jobs/J1"),
            ("/Devices/D/Messages/Events", "/devices/D/messages/events"),
            (
                "/devices/D/Files/Notifications/Files",
                "/devices/D/files/notifications/Files",
            ),
        ] {
            assert_eq!(
                canonical_uri(given.parse().unwrap()).to_string(),
                expected,
                "{given}"
            );
        }
    }
}
