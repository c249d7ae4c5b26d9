//! Who may call what: every route against every kind of credentials.

use emulator::{Hub, OWNER_POLICY};
use hub_core::error::ErrorCode;
use hub_core::sas::{self, Key};
use hub_core::time::Timestamp;
use serde_json::json;

use crate::support::rest::{FAR_FUTURE, Rest, development_key, policy_token};
use crate::support::routes::{ROUTES, Right, path};
use crate::support::start_hub;

use Right::{
    Anyone, ConfigurationWrite, Device, Module, ModuleRead, ModuleWrite, RegistryRead, RegistryWrite, Service,
};

/// The source of the hub's route table.
const ROUTER: &str = include_str!("../../../emulator/src/http/mod.rs");

/// The routes as the source of the router has them: `.route("path", get(a).put(b))`.
fn routes_in_source() -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for call in ROUTER.split(".route(").skip(1) {
        let call: String = call.chars().filter(|c| !c.is_whitespace()).collect();
        let (path, handlers) = call.strip_prefix('"').unwrap().split_once("\",").unwrap();
        let end = end_of_call(handlers);
        for method in ["get", "put", "post", "patch", "delete"] {
            if handlers[..end]
                .split('.')
                .any(|part| part.starts_with(&format!("{method}(")))
            {
                routes.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    routes
}

/// Where the parenthesis that was open before `text` closes.
fn end_of_call(text: &str) -> usize {
    let mut depth = 1;
    let close = text.char_indices().find(|(_, c)| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    close.unwrap().0
}

#[test]
fn the_table_has_every_route() {
    let sorted = |mut routes: Vec<(String, String)>| {
        routes.sort();
        routes
    };
    let tested = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(sorted(routes_in_source()), sorted(tested));
}

/// A hub with a device `d` that has a module `m`, and a job `j`.
async fn hub() -> (Hub, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    (hub, rest)
}

async fn device_key(rest: &Rest, path: &str) -> Key {
    let identity = rest.get(path).await.ok();
    let key = &identity["authentication"]["symmetricKey"]["secondaryKey"];
    Key::from_base64(key.as_str().unwrap()).unwrap()
}

fn seconds_ago(seconds: u64) -> u64 {
    u64::try_from(now().unix_seconds()).unwrap() - seconds
}

fn now() -> Timestamp {
    job_service::Clock::system_now()
}

#[tokio::test]
async fn bad_credentials_are_refused_everywhere_with_the_same_words() {
    let (_hub, rest) = hub().await;
    let key = development_key();
    let other_key = Key::from_bytes(&[7; 32]);
    let device_key = device_key(&rest, "/devices/d").await;
    let owner = policy_token(OWNER_POLICY);
    let tokens = [
        ("no header", None),
        ("another scheme", Some(format!("Bearer {}", &owner[22..]))),
        ("not a token", Some("SharedAccessSignature nonsense".to_owned())),
        ("an empty header", Some(String::new())),
        (
            "a wrong key",
            Some(sas::sign("localhost", &other_key, FAR_FUTURE, Some(OWNER_POLICY))),
        ),
        (
            "another resource than was signed",
            Some(owner.replace("sr=localhost", "sr=localhosT")),
        ),
        (
            "another expiry than was signed",
            Some(owner.replace("se=4000000000", "se=4000000001")),
        ),
        (
            "expired",
            Some(sas::sign("localhost", &key, seconds_ago(400), Some(OWNER_POLICY))),
        ),
        (
            "an unknown policy",
            Some(sas::sign("localhost", &key, FAR_FUTURE, Some("nobody"))),
        ),
        (
            "another spelling of the policy",
            Some(sas::sign("localhost", &key, FAR_FUTURE, Some("IotHubOwner"))),
        ),
        (
            "a policy's key without its name",
            Some(sas::sign("localhost", &key, FAR_FUTURE, None)),
        ),
        (
            "another device's scope",
            Some(sas::sign(
                "localhost%2Fdevices%2Fd2",
                &key,
                FAR_FUTURE,
                Some(OWNER_POLICY),
            )),
        ),
        (
            "a scope that only begins alike",
            Some(sas::sign("localhost%2Fdev", &key, FAR_FUTURE, Some(OWNER_POLICY))),
        ),
        (
            "a device's key and a policy's name",
            Some(sas::sign(
                "localhost",
                &device_key,
                FAR_FUTURE,
                Some(OWNER_POLICY),
            )),
        ),
    ];
    for (what, token) in &tokens {
        let caller = rest.authorized(token.as_deref());
        for (method, template, right) in ROUTES {
            if *right == Anyone {
                continue;
            }
            let reply = caller.call(method, &path(template)).send().await;
            assert_eq!(reply.status, 401, "{what}: {method} {template}");
            let text = reply.refused(ErrorCode::IotHubUnauthorizedAccess);
            // Why exactly is for the hub's log.
            assert_eq!(text, "Unauthorized", "{what}: {method} {template}");
        }
    }
}

#[tokio::test]
async fn a_policy_opens_the_routes_that_it_has_the_right_for_and_no_others() {
    let (_hub, rest) = hub().await;
    let policies: [(&str, &[Right]); 5] = [
        (
            OWNER_POLICY,
            &[
                Service,
                RegistryRead,
                RegistryWrite,
                ConfigurationWrite,
                ModuleRead,
                ModuleWrite,
                Device,
                Module,
            ],
        ),
        // Reading identities needs no more than the right to use them.
        (
            "service",
            &[Service, RegistryRead, ConfigurationWrite, ModuleRead],
        ),
        // May act as any device, and a device may manage its own modules.
        ("device", &[ModuleRead, ModuleWrite, Device, Module]),
        ("registryRead", &[RegistryRead, ModuleRead]),
        (
            "registryReadWrite",
            &[
                RegistryRead,
                RegistryWrite,
                ConfigurationWrite,
                ModuleRead,
                ModuleWrite,
            ],
        ),
    ];
    for (policy, rights) in policies {
        let caller = rest.authorized(Some(&policy_token(policy)));
        for (method, template, right) in ROUTES {
            if *right == Anyone {
                continue;
            }
            // Without body and precondition nothing is changed.
            let reply = caller.call(method, &path(template)).send().await;
            if rights.contains(right) {
                assert_ne!(reply.status, 401, "{policy}: {method} {template}");
                assert_ne!(reply.status, 405, "{policy}: {method} {template}");
            } else {
                let text = reply.refused(ErrorCode::IotHubUnauthorizedAccess);
                assert_eq!(text, "Unauthorized", "{policy}: {method} {template}");
            }
        }
    }
}

#[tokio::test]
async fn the_routes_for_anyone_need_no_header() {
    let (_hub, rest) = hub().await;
    let anybody = rest.authorized(None);
    for (method, template, right) in ROUTES {
        if *right == Anyone {
            let reply = anybody.exactly(method, template).send().await;
            assert_ne!(reply.status, 401, "{method} {template}");
            assert_ne!(reply.status, 404, "{method} {template}");
            assert_ne!(reply.status, 405, "{method} {template}");
        }
    }
}

#[tokio::test]
async fn a_device_reaches_its_own_messages_and_modules_and_nothing_else() {
    let (_hub, rest) = hub().await;
    rest.create("d2").await;
    let token = |resource: &str, key: &Key| sas::sign(resource, key, FAR_FUTURE, None);
    let device_key = device_key(&rest, "/devices/d").await;
    // A token for more than the device opens no more than the device may.
    for resource in ["localhost%2Fdevices%2Fd", "localhost%2Fdevices", "localhost"] {
        let device = rest.authorized(Some(&token(resource, &device_key)));
        for (method, template, right) in ROUTES {
            if *right == Anyone {
                continue;
            }
            let reply = device.call(method, &path(template)).send().await;
            if matches!(right, ModuleRead | ModuleWrite | Device) {
                assert_ne!(reply.status, 401, "{resource}: {method} {template}");
            } else {
                reply.refused(ErrorCode::IotHubUnauthorizedAccess);
            }
        }
    }

    let device = rest.authorized(Some(&token("localhost%2Fdevices%2Fd", &device_key)));
    device.put("/devices/d/modules/own", &json!({})).await.ok();
    let modules = device.get("/devices/d/modules").await.ok();
    let ids: Vec<_> = modules
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["moduleId"])
        .collect();
    assert_eq!(ids, ["m", "own"]);
    device.delete("/devices/d/modules/own").await.no_content();

    for path in [
        "/devices/d2/modules",
        "/devices/d2/modules/m",
        "/devices/d2/messages/devicebound",
    ] {
        device
            .get(path)
            .await
            .refused(ErrorCode::IotHubUnauthorizedAccess);
    }
    // A module's key is not the device's.
    let identity = rest.get("/devices/d/modules/m").await.ok();
    let key = identity["authentication"]["symmetricKey"]["primaryKey"]
        .as_str()
        .unwrap();
    let module_key = Key::from_base64(key).unwrap();
    for resource in ["localhost%2Fdevices%2Fd", "localhost%2Fdevices%2Fd%2Fmodules%2Fm"] {
        let module = rest.authorized(Some(&token(resource, &module_key)));
        for path in ["/devices/d/modules", "/devices/d/messages/devicebound"] {
            module
                .get(path)
                .await
                .refused(ErrorCode::IotHubUnauthorizedAccess);
        }
    }
    // A disabled device is nobody.
    let disabled =
        json!({"status": "disabled", "authentication": rest.get("/devices/d").await.ok()["authentication"]});
    rest.call("PUT", "/devices/d")
        .if_match("*")
        .json(&disabled)
        .send()
        .await
        .ok();
    for path in ["/devices/d/modules", "/devices/d/messages/devicebound"] {
        device
            .get(path)
            .await
            .refused(ErrorCode::IotHubUnauthorizedAccess);
    }
}

#[tokio::test]
async fn the_resource_may_be_written_in_every_way_that_clients_do() {
    let (_hub, rest) = hub().await;
    let key = development_key();
    for resource in [
        "localhost",
        "LOCALHOST",
        "localhost/",
        "localhost%2F",
        "localhost:8443",
        "localhost%3A8443",
        "hub1.azure-devices.net",
        "127.0.0.1",
        "localhost/api-version=2016-11-14",
    ] {
        let caller = rest.authorized(Some(&sas::sign(resource, &key, FAR_FUTURE, Some("service"))));
        for path in ["/twins/d", "/jobs/v2/query", "/devices/d"] {
            let reply = caller.get(path).await;
            assert_eq!(reply.status, 200, "{resource}: {path}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_resource_below_the_hub_opens_what_is_below_it() {
    let (_hub, rest) = hub().await;
    rest.create("d10").await;
    rest.create("a%40b").await;
    let key = development_key();
    let all = [
        "/devices",
        "/devices/d",
        "/devices/d/modules",
        "/devices/d/modules/m",
        "/devices/d10",
        "/devices/a%40b",
        "/statistics/devices",
        "/twins/d",
        "/twins/d/modules/m",
        "/twins/d10",
        "/twins/a%40b",
        "/jobs/v2/query",
        "/jobs/v2/j",
    ];
    let table: [(&str, &[&str]); 9] = [
        ("localhost/devices", &all[..6]),
        ("localhost%2fdevices%2f", &all[..6]),
        ("localhost%2Fdevices%2Fd", &all[1..4]),
        ("localhost%2Ftwins", &all[7..11]),
        ("localhost/twins/d", &all[7..9]),
        // Ids are encoded once or twice.
        ("localhost%2Ftwins%2Fa%40b", &all[10..11]),
        ("localhost%2Ftwins%2Fa%2540b", &all[10..11]),
        ("localhost/jobs/v2", &all[11..]),
        ("localhost/twins/D", &[]),
    ];
    for (resource, covered) in table {
        let caller = rest.authorized(Some(&sas::sign(resource, &key, FAR_FUTURE, Some(OWNER_POLICY))));
        for path in all {
            let reply = caller.get(path).await;
            let expected = if covered.contains(&path) { 200 } else { 401 };
            assert_eq!(reply.status, expected, "{resource}: {path}");
        }
    }
    // The way the path is spelled does not matter.
    let token = sas::sign("localhost/devices/query", &key, FAR_FUTURE, Some("service"));
    let caller = rest.authorized(Some(&token));
    for path in ["/devices/query", "/devices%2Fquery", "/Devices/Query/"] {
        let reply = caller
            .post(path, &json!({"query": "SELECT * FROM devices"}))
            .await;
        assert_eq!(reply.status, 200, "{path}");
    }
}

#[tokio::test]
async fn tokens_follow_real_time_with_some_tolerance() {
    let (hub, rest) = hub().await;
    let token = |expiry| sas::sign("localhost", &development_key(), expiry, Some("service"));
    let status = async |expiry| rest.authorized(Some(&token(expiry))).get("/twins/d").await.status;
    assert_eq!(status(seconds_ago(200)).await, 200);
    assert_eq!(status(seconds_ago(400)).await, 401);
    // The hub's clock is another matter.
    hub.advance_clock(std::time::Duration::from_secs(1_000_000));
    assert_eq!(status(seconds_ago(200)).await, 200);
    assert_eq!(status(u64::MAX).await, 200);
}

#[tokio::test]
async fn fields_of_a_token_may_stand_in_any_order() {
    let (_hub, rest) = hub().await;
    let token = policy_token("service");
    let fields: Vec<&str> = token
        .strip_prefix("SharedAccessSignature ")
        .unwrap()
        .split('&')
        .collect();
    let reversed: Vec<&str> = fields.iter().rev().copied().collect();
    let token = format!("SharedAccessSignature {}", reversed.join("&"));
    rest.authorized(Some(&token)).get("/twins/d").await.ok();
}
