//! Input that no route takes: every route against versions, verbs, ids,
//! preconditions and tokens that it must refuse, and what was refused has left
//! no trace. Bodies are in `rest_bad_bodies`.

use hub_core::error::ErrorCode;
use hub_core::limits;
use serde_json::{Value, json};

use crate::support::rest::{Reply, Rest, start};
use crate::support::routes::{ROUTES, Right, path};
use crate::support::unchanged::Witness;

use ErrorCode::{ArgumentInvalid, GenericMethodNotAllowed, IotHubUnauthorizedAccess, PreconditionFailed};

/// Whether a route is one of the service's REST API.
fn is_service(template: &str) -> bool {
    !template.starts_with("/_emulator") && !template.starts_with("/$")
}

#[tokio::test]
async fn every_service_route_wants_an_api_version() {
    let hub = Witness::start().await;
    for (query, text) in [
        ("", "the query parameter api-version is missing"),
        ("?", "the query parameter api-version is missing"),
        ("?top=1", "the query parameter api-version is missing"),
        ("?api-version", "the query parameter api-version is missing"),
        ("?api-version=", "the api-version \"\" is not a date"),
        ("?api-version=latest", "the api-version \"latest\" is not a date"),
        (
            "?api-version=2021-4-12",
            "the api-version \"2021-4-12\" is not a date",
        ),
        (
            "?api-version=2021-04-12-beta",
            "the api-version \"2021-04-12-beta\" is not a date",
        ),
        (
            "?api-version=%FF&api-version=2021-04-12",
            "the api-version \"%FF\" is not a date",
        ),
    ] {
        for (method, template, _) in ROUTES.iter().filter(|(_, template, _)| is_service(template)) {
            let call = hub.rest.exactly(method, &format!("{}{query}", path(template)));
            let found = hub.refuses(call.if_match("*"), ErrorCode::InvalidProtocolVersion);
            assert_eq!(found.await, text, "{method} {template}{query}");
        }
        hub.check(query).await;
    }
}

#[tokio::test]
async fn versions_are_dates_of_any_release() {
    let (_hub, rest) = start().await;
    for query in [
        "api-version=2016-11-14",
        "api-version=2018-06-30",
        "api-version=2020-05-31-preview",
        "api-version=2021-04-12",
        "api-version=2024-03-31",
        "top=1&API-Version=2021-04-12",
    ] {
        rest.exactly("GET", &format!("/devices?{query}"))
            .send()
            .await
            .ok();
    }
}

#[tokio::test]
async fn every_route_knows_its_methods_only() {
    let hub = Witness::start().await;
    for (_, template, _) in ROUTES {
        let path = path(template);
        for method in [
            "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW",
        ] {
            let is_known = |method| ROUTES.iter().any(|(m, t, _)| (*m, t) == (method, template));
            // Probes of the admin endpoints may ask for the head alone.
            if is_known(method) || (method == "HEAD" && is_known("GET") && !is_service(template)) {
                continue;
            }
            let call = hub.rest.call(method, &path).if_match("*").json(&json!({}));
            let reply = call.send().await;
            assert_eq!(reply.status, 405, "{method} {template}");
            if method != "HEAD" {
                let text = reply.refused(GenericMethodNotAllowed);
                assert_eq!(text, format!("{method} is not supported at {path}"));
            }
        }
        hub.check(template).await;
    }
}

/// What stands in a path, and texts that name no such thing. Whatever it is,
/// bytes that are no text name nothing.
const ILLEGAL: [(&str, &[&str]); 10] = [
    (
        "{device}",
        &[
            "a%2Fb", "a%20b", "a+b", "%2B", "%23", "%00", "%0A", "%7F", "%C3%A9", "%FF", "a%80", "%22",
            "%5C", "%7B%7D", "~", "^",
        ],
    ),
    ("{module}", &["a%2Fb", "%20", "+", "%23", "%1B", "%C3%A9", "%FF"]),
    ("{job}", &["a%2Fb", "%20", "_", ".", "%C3%A9", "%FF", "%00"]),
    (
        "{configuration}",
        &["a%2Fb", "%20", "A", ".", "%24", "%C3%A9", "%FF", "%00"],
    ),
    ("{command}", &["a%2Fb", "%23", "a+b", "%3F", "%00", "%FF"]),
    ("{component}", &["a%2Fb", "%FF"]),
    ("{token}", &["%FF"]),
    ("{upload}", &["%FF"]),
    ("{container}", &["%FF", "A", "a%2Fb", "%00"]),
    ("{thumbprint}", &["%FF", "A", "%00"]),
];

#[tokio::test]
async fn no_route_takes_an_illegal_name() {
    let hub = Witness::start().await;
    let too_long = |place| match place {
        "{job}" => Some("j".repeat(limits::JOB_ID_CHARS + 1)),
        "{configuration}" => Some("c".repeat(limits::CONFIGURATION_ID_CHARS + 1)),
        "{device}" | "{module}" => Some("d".repeat(limits::IDENTITY_ID_CHARS + 1)),
        _ => None,
    };
    for (method, template, right) in ROUTES {
        // Callers that act as a device are not told what is wrong with its name.
        let code = match right {
            Right::Device | Right::Module => IotHubUnauthorizedAccess,
            _ => ArgumentInvalid,
        };
        for (place, names) in ILLEGAL.iter().filter(|(place, _)| template.contains(place)) {
            let long = too_long(place).map(|long| [long, "x".repeat(60_000)]);
            let mut names: Vec<&str> = names
                .iter()
                .copied()
                .chain(long.iter().flatten().map(String::as_str))
                .collect();
            // The ids of import and export jobs are of the hub's making.
            if template.starts_with("/jobs/{job}") {
                names = vec!["%FF"];
            }
            for name in names {
                let path = path(&template.replace(place, name));
                let call = hub.rest.call(method, &path).if_match("*").json(&json!({}));
                hub.refuses(call, code).await;
            }
        }
        hub.check(&format!("{method} {template}")).await;
    }
}

#[tokio::test]
async fn an_empty_id_names_nothing() {
    let hub = Witness::start().await;
    for (method, template, _) in ROUTES {
        for (place, _) in template.match_indices('{') {
            let end = template[place..].find('}').unwrap() + place + 1;
            let emptied = path(&format!("{}{}", &template[..place], &template[end..]));
            let call = hub.rest.call(method, &emptied).if_match("*").json(&json!({}));
            let reply = call.send().await;
            // What ends in a slash is another route.
            if !emptied.ends_with('/') {
                assert!(reply.status >= 400, "{}", reply.line());
            }
            if reply.status != 200 {
                reply.refusal();
            }
        }
    }
    hub.check("an empty id").await;
}

/// What clients may name things: every legal character by itself, all
/// together, and as long as can be.
fn legal_ids(special: &str, longest: usize) -> Vec<String> {
    let mut ids: Vec<String> = special.chars().map(|c| format!("a{c}")).collect();
    ids.push(format!("aZ09{special}"));
    ids.push("%41".into());
    ids.push("x".repeat(longest));
    ids
}

#[tokio::test]
async fn ids_of_every_legal_character_are_created_read_and_deleted() {
    let (_hub, rest) = start().await;
    let identities = legal_ids("-.%_*?!(),:=@$';", limits::IDENTITY_ID_CHARS);
    let configuration = json!({"content": {"deviceContent": {"properties.desired.a": 1}}});
    let configurations = legal_ids("-+%_*!'", limits::CONFIGURATION_ID_CHARS);
    rest.create("holder").await;
    for id in &identities {
        let device = format!("/devices/{}", encoded(id));
        round_trip(&rest, &device, "deviceId", id, &json!({})).await;
        let module = format!("/devices/holder/modules/{}", encoded(id));
        round_trip(&rest, &module, "moduleId", id, &json!({})).await;
    }
    for id in configurations.iter().map(|id| id.to_lowercase()) {
        let path = format!("/configurations/{}", encoded(&id));
        round_trip(&rest, &path, "id", &id, &configuration).await;
    }
    let job = json!({"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {}},
                     "queryCondition": "*", "startTime": "2100-01-01T00:00:00Z"});
    for id in ["a-Z09".to_owned(), "-".into(), "j".repeat(limits::JOB_ID_CHARS)] {
        let path = format!("/jobs/v2/{id}");
        assert_eq!(rest.put(&path, &job).await.ok()["jobId"], *id);
        assert_eq!(rest.get(&path).await.ok()["jobId"], *id);
        let cancelled = rest.post(&format!("{path}/cancel"), &json!({})).await.ok();
        assert_eq!(cancelled["jobId"], *id);
    }
}

fn encoded(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn round_trip(rest: &Rest, path: &str, member: &str, id: &str, body: &Value) {
    assert_eq!(rest.put(path, body).await.ok()[member], id);
    assert_eq!(rest.get(path).await.ok()[member], id);
    rest.delete(path).await.no_content();
    assert_eq!(rest.get(path).await.status, 404, "{path}");
}

#[tokio::test]
async fn stale_and_garbled_preconditions_hold_nowhere() {
    let hub = Witness::start().await;
    let garbled: &[&str] = &[
        "\"AAAA\"",
        "AAAA",
        "\"",
        "\"*",
        "W/\"AAAA\"",
        "\"AAAA\", \"*\"",
        "é",
        "\"é\"",
    ];
    // An ETag without quotes is none for configurations.
    let quoted: &[&str] = &["\"AAAA\"", "\"AAAA\", \"BBBB\"", "\"é\""];
    let configuration = json!({"content": {"deviceContent": {"properties.desired.b": 2}}});
    for (method, path, body, values) in [
        ("PUT", "/devices/d", json!({"status": "disabled"}), garbled),
        ("DELETE", "/devices/d", json!({}), garbled),
        ("PUT", "/devices/d/modules/m", json!({}), garbled),
        ("DELETE", "/devices/d/modules/m", json!({}), garbled),
        ("PATCH", "/twins/d", json!({"tags": {"a": 2}}), garbled),
        ("PUT", "/twins/d", json!({}), garbled),
        ("PATCH", "/twins/d/modules/m", json!({"tags": {"a": 2}}), garbled),
        ("PUT", "/twins/d/modules/m", json!({}), garbled),
        ("PUT", "/configurations/c", configuration, quoted),
        ("DELETE", "/configurations/c", json!({}), quoted),
        (
            "PATCH",
            "/digitaltwins/d",
            json!([{"op": "add", "path": "/a", "value": 2}]),
            garbled,
        ),
    ] {
        for value in values {
            let call = hub.rest.call(method, path).if_match(value).json(&body);
            hub.refuses(call, PreconditionFailed).await;
        }
        hub.check(&format!("{method} {path}")).await;
    }
    // Where one must be.
    for (method, path, code) in [
        ("PUT", "/devices/d", ErrorCode::DeviceAlreadyExists),
        ("DELETE", "/devices/d", PreconditionFailed),
        (
            "PUT",
            "/devices/d/modules/m",
            ErrorCode::ModuleAlreadyExistsOnDevice,
        ),
        ("DELETE", "/devices/d/modules/m", PreconditionFailed),
    ] {
        for value in [None, Some(""), Some("  ")] {
            let call = hub.rest.call(method, path).json(&json!({}));
            let call = value.into_iter().fold(call, |call, value| call.if_match(value));
            hub.refuses(call, code).await;
        }
    }
    hub.check("no precondition").await;
}

#[tokio::test]
async fn foreign_and_damaged_continuation_tokens_are_refused() {
    let hub = Witness::start().await;
    let page = async |query: &str, headers: &[(&str, &str)]| -> Reply {
        let call = hub
            .rest
            .call("POST", "/devices/query")
            .json(&json!({ "query": query }));
        let call = headers
            .iter()
            .fold(call, |call, (name, value)| call.header(name, value));
        call.send().await
    };
    let query = "SELECT * FROM devices";
    let first = page(query, &[("x-ms-max-item-count", "1")]).await;
    let token = first.header("x-ms-continuation").unwrap().to_owned();
    let second = page(query, &[("x-ms-continuation", &token)]).await;
    assert_eq!(second.ok().as_array().unwrap().len(), 1);
    let long = "A".repeat(20_000);
    let garbled = [
        &token[1..],
        &token[..token.len() / 2],
        &format!("B{}", &token[1..]),
        &format!("{token}!"),
        "é",
        "*",
        "null",
        &long,
    ];
    for token in garbled {
        let reply = page(query, &[("x-ms-continuation", token)]).await;
        assert_eq!(reply.refusal().0, ArgumentInvalid, "{token}");
        let jobs = hub
            .rest
            .call("GET", "/jobs/v2/query")
            .header("x-ms-continuation", token);
        hub.refuses(jobs, ArgumentInvalid).await;
        let jobs = format!("/jobs/v2/query?continuationToken={}", encoded(token));
        hub.refuses(hub.rest.call("GET", &jobs), ArgumentInvalid).await;
    }
    let elsewhere = page("SELECT deviceId FROM devices", &[("x-ms-continuation", &token)]).await;
    assert_eq!(elsewhere.refusal().0, ArgumentInvalid);
    let jobs = hub
        .rest
        .call("GET", "/jobs/v2/query")
        .header("x-ms-continuation", &token);
    hub.refuses(jobs, ArgumentInvalid).await;
    hub.check("a token").await;
}

#[tokio::test]
async fn paths_and_queries_may_be_long_and_damaged() {
    let hub = Witness::start().await;
    // What is no escape stands for itself.
    for id in ["%", "%4", "%ZZ", "%%25"] {
        let device = hub.rest.get(&format!("/devices/{id}")).await;
        assert_eq!(device.refusal().0, ErrorCode::DeviceNotFound, "{id}");
    }
    let long = "x".repeat(60_000);
    for query in ["%", "&&&=&", "=%FF", "top=%FF", "top=-1", "top=1e9", &long] {
        hub.rest.get(&format!("/devices?{query}")).await.ok();
    }
    for path in [
        format!("/{long}"),
        "/a".repeat(30_000),
        "/%2F".repeat(15_000),
        "/".repeat(60_000),
    ] {
        hub.refuses(hub.rest.call("GET", &path), ErrorCode::GenericNotFound)
            .await;
    }
    hub.check("a path").await;
}
