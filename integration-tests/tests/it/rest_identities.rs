//! Device identities: documents, preconditions, listings, statistics.

use hub_core::error::ErrorCode;
use hub_core::topic::Filter;
use job_service::rest::{ClientOptions, ServiceClient};
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::rest::{Reply, Rest, start};
use crate::support::start_hub;

const STALE: &str = "PreconditionFailed, ETag may be invalid.";
const NEVER: &str = "0001-01-01T00:00:00Z";

/// PUT with an optional `If-Match`.
async fn put(rest: &Rest, path: &str, if_match: Option<&str>, body: &Value) -> Reply {
    let call = rest.call("PUT", path).json(body);
    match if_match {
        None => call.send().await,
        Some(value) => call.if_match(value).send().await,
    }
}

#[tokio::test]
async fn a_fresh_device_reads_as_the_service_prints_it() {
    let (_hub, rest) = start().await;
    let created = rest.put("/devices/dev1", &json!({"deviceId": "dev1"})).await;
    let device = created.ok();
    let etag = device["etag"].as_str().unwrap();
    assert_eq!(created.header("etag"), Some(&*format!("\"{etag}\"")));
    assert!(!etag.contains('"'));
    let generation = device["generationId"].as_str().unwrap();
    assert_eq!(generation.len(), 18, "{generation}");
    assert!(generation.bytes().all(|b| b.is_ascii_digit()));
    let keys = &device["authentication"]["symmetricKey"];
    for key in ["primaryKey", "secondaryKey"] {
        assert_eq!(keys[key].as_str().unwrap().len(), 44);
    }
    assert_ne!(keys["primaryKey"], keys["secondaryKey"]);
    assert_eq!(
        device,
        json!({
            "deviceId": "dev1",
            "generationId": generation,
            "etag": etag,
            "connectionState": "Disconnected",
            "status": "enabled",
            "statusReason": null,
            "connectionStateUpdatedTime": NEVER,
            "statusUpdatedTime": NEVER,
            "lastActivityTime": NEVER,
            "cloudToDeviceMessageCount": 0,
            "authentication": {
                "symmetricKey": keys,
                "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
                "type": "sas",
            },
            "capabilities": {"iotEdge": false},
        })
    );
    let read = rest.get("/devices/dev1").await;
    assert_eq!(read.ok(), device);
    assert_eq!(read.header("etag"), created.header("etag"));
    // The order of members is the service's, too.
    let head = format!("{{\"deviceId\":\"dev1\",\"generationId\":\"{generation}\",\"etag\":\"{etag}\",");
    assert!(read.text().starts_with(&head), "{}", read.text());
}

#[tokio::test]
async fn put_follows_the_table_of_preconditions() {
    let (_hub, rest) = start().await;
    let body = json!({});
    for if_match in ["*", "\"*\"", "MA==", "\"MA==\""] {
        let reply = put(&rest, "/devices/d", Some(if_match), &body).await;
        assert_eq!(reply.refused(ErrorCode::DeviceNotFound), "d", "{if_match}");
    }
    let first = put(&rest, "/devices/d", None, &body).await.ok();

    // The right ETag in the body is no precondition.
    for body in [&body, &first] {
        let text = put(&rest, "/devices/d", None, body)
            .await
            .refused(ErrorCode::DeviceAlreadyExists);
        assert_eq!(text, "A device with ID 'd' is already registered.");
    }
    for stale in ["nonsense", "\"nonsense\"", "\"\""] {
        let reply = put(&rest, "/devices/d", Some(stale), &body).await;
        assert_eq!(reply.refused(ErrorCode::PreconditionFailed), STALE, "{stale}");
    }
    assert_eq!(
        rest.get("/devices/d").await.ok(),
        first,
        "a refusal changes nothing"
    );

    let mut last = first["etag"].as_str().unwrap().to_owned();
    for form in ["*", "\"*\"", "bare", "quoted"] {
        let if_match = match form {
            "bare" => last.clone(),
            "quoted" => format!("\"{last}\""),
            any => any.to_owned(),
        };
        let reply = put(&rest, "/devices/d", Some(&if_match), &body).await;
        let device = reply.ok();
        let etag = device["etag"].as_str().unwrap().to_owned();
        assert_ne!(etag, last, "{form}");
        assert_eq!(reply.header("etag"), Some(&*format!("\"{etag}\"")), "{form}");
        assert_eq!(device["generationId"], first["generationId"]);
        let stale = put(&rest, "/devices/d", Some(&last), &body).await;
        assert_eq!(stale.refused(ErrorCode::PreconditionFailed), STALE, "{form}");
        last = etag;
    }
}

#[tokio::test]
async fn delete_follows_the_table_of_preconditions() {
    let (_hub, rest) = start().await;
    for if_match in [None, Some("*"), Some("MA==")] {
        let mut call = rest.call("DELETE", "/devices/d");
        if let Some(value) = if_match {
            call = call.if_match(value);
        }
        let text = call.send().await.refused(ErrorCode::DeviceNotFound);
        assert_eq!(text, "d", "{if_match:?}");
    }
    for form in ["*", "bare", "quoted"] {
        let device = rest.create("d").await;
        let etag = device["etag"].as_str().unwrap();
        let text = rest
            .call("DELETE", "/devices/d")
            .send()
            .await
            .refused(ErrorCode::PreconditionFailed);
        assert!(text.contains("ETag is missing"), "{text}");
        let stale = rest.call("DELETE", "/devices/d").if_match("\"nonsense\"");
        assert_eq!(stale.send().await.refused(ErrorCode::PreconditionFailed), STALE);
        rest.get("/devices/d").await.ok();

        let if_match = match form {
            "bare" => etag.to_owned(),
            "quoted" => format!("\"{etag}\""),
            any => any.to_owned(),
        };
        let call = rest.call("DELETE", "/devices/d").if_match(&if_match);
        call.send().await.no_content();
        for path in ["/devices/d", "/twins/d", "/devices/d/modules"] {
            assert_eq!(
                rest.get(path).await.refused(ErrorCode::DeviceNotFound),
                "d",
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn a_device_created_again_is_a_new_one() {
    let (_hub, rest) = start().await;
    let before = rest.create("d").await;
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    rest.delete("/devices/d").await.no_content();
    let after = rest.create("d").await;
    assert_ne!(after["generationId"], before["generationId"]);
    assert_ne!(
        after["authentication"]["symmetricKey"],
        before["authentication"]["symmetricKey"]
    );
    let twin = rest.get("/twins/d").await.ok();
    assert_eq!(twin["version"], 2);
    assert_eq!(twin["etag"], "AAAAAAAAAAE=");
    assert_eq!(twin["tags"], json!({}));
    assert_eq!(rest.get("/devices/d/modules").await.ok(), json!([]));
}

#[tokio::test]
async fn an_update_replaces_what_it_does_not_name() {
    let (_hub, rest) = start().await;
    let key = |byte: char| byte.to_string().repeat(43) + "=";
    let body = json!({
        "status": "disabled",
        "statusReason": "in the cellar",
        "capabilities": {"iotEdge": true},
        "authentication": {"symmetricKey": {"primaryKey": key('A'), "secondaryKey": key('Q')}},
        "etag": "mine", "generationId": "mine", "connectionState": "Connected",
        "cloudToDeviceMessageCount": 9, "lastActivityTime": "2020-01-01T00:00:00Z",
    });
    let first = rest.put("/devices/d", &body).await.ok();
    assert_eq!(first["status"], "disabled");
    assert_eq!(first["statusReason"], "in the cellar");
    // The status is as created.
    assert_eq!(first["statusUpdatedTime"], NEVER);
    assert_eq!(first["capabilities"], json!({"iotEdge": true}));
    assert_eq!(
        first["authentication"]["symmetricKey"],
        body["authentication"]["symmetricKey"]
    );
    assert_ne!(first["etag"], "mine");
    assert_ne!(first["generationId"], "mine");
    assert_eq!(first["connectionState"], "Disconnected");
    assert_eq!(first["cloudToDeviceMessageCount"], 0);
    assert_eq!(first["lastActivityTime"], NEVER);

    let second = put(&rest, "/devices/d", Some("*"), &json!({})).await.ok();
    assert_eq!(second["status"], "enabled");
    assert_eq!(second["statusReason"], Value::Null);
    assert_ne!(second["statusUpdatedTime"], NEVER);
    assert_eq!(second["capabilities"], json!({"iotEdge": false}));
    assert_ne!(
        second["authentication"]["symmetricKey"],
        first["authentication"]["symmetricKey"]
    );
    // Sending back what was read keeps the keys.
    let third = put(&rest, "/devices/d", Some("*"), &second).await.ok();
    assert_eq!(third["authentication"], second["authentication"]);
    assert_eq!(third["statusUpdatedTime"], second["statusUpdatedTime"]);
}

#[tokio::test]
async fn credentials_follow_their_rules() {
    let (_hub, rest) = start().await;
    let sha1 = "0123456789abcdefABCDEF012345678901234567";
    let sha256 = "0".repeat(64);
    let no_keys = json!({"primaryKey": null, "secondaryKey": null});
    let thumbprints = |p: Value, s: Value| json!({"primaryThumbprint": p, "secondaryThumbprint": s});
    for (given, kind, expected) in [
        (
            json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": sha1}}),
            "selfSigned",
            thumbprints(json!(sha1), Value::Null),
        ),
        (
            json!({"x509Thumbprint": {"primaryThumbprint": sha1, "secondaryThumbprint": sha256}}),
            "selfSigned",
            thumbprints(json!(sha1), json!(sha256)),
        ),
        (
            json!({"type": "selfSigned"}),
            "selfSigned",
            thumbprints(Value::Null, Value::Null),
        ),
        (
            json!({"type": "certificateAuthority"}),
            "certificateAuthority",
            thumbprints(Value::Null, Value::Null),
        ),
    ] {
        let device = rest
            .put("/devices/x", &json!({ "authentication": given }))
            .await
            .ok();
        assert_eq!(
            device["authentication"],
            json!({"type": kind, "symmetricKey": no_keys, "x509Thumbprint": expected})
        );
        assert_eq!(rest.get("/twins/x").await.ok()["authenticationType"], kind);
        rest.delete("/devices/x").await.no_content();
    }
    for absent in [
        json!(null),
        json!({}),
        json!({"type": "sas"}),
        json!({"symmetricKey": {"primaryKey": "", "secondaryKey": ""}}),
    ] {
        let device = rest
            .put("/devices/x", &json!({ "authentication": absent }))
            .await
            .ok();
        assert_eq!(device["authentication"]["type"], "sas", "{absent}");
        rest.delete("/devices/x").await.no_content();
    }
    let key = "A".repeat(43) + "=";
    for (bad, text) in [
        (
            json!({"symmetricKey": {"primaryKey": key}}),
            "either both symmetric keys or none must be given",
        ),
        (
            json!({"symmetricKey": {"primaryKey": key, "secondaryKey": "***"}}),
            "symmetric key must be base64 text",
        ),
        (
            json!({"symmetricKey": {"primaryKey": "AAAA", "secondaryKey": key}}),
            "symmetric key has 3 bytes, its length must be within [16; 64]",
        ),
        (
            json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "12:34"}}),
            "thumbprint must be 40 (SHA-1) or 64 (SHA-256) hexadecimal digits",
        ),
        (
            json!({"type": "none"}),
            "authentication type none is not allowed for devices",
        ),
        (
            json!({"type": "password"}),
            "authentication type must be sas, selfSigned, certificateAuthority or none",
        ),
        (json!("sas"), "authentication must be a JSON object"),
    ] {
        let reply = rest.put("/devices/x", &json!({ "authentication": bad })).await;
        assert_eq!(reply.refused(ErrorCode::ArgumentInvalid), text, "{bad}");
    }
    rest.get("/devices/x").await.refused(ErrorCode::DeviceNotFound);
}

#[tokio::test]
async fn bad_members_are_refused_by_name() {
    let (_hub, rest) = start().await;
    for (body, text) in [
        (json!([]), "the device must be a JSON object"),
        (
            json!({"deviceId": "other"}),
            "deviceId in the body does not match the id d",
        ),
        (json!({"deviceId": 5}), "deviceId must be a string"),
        (
            json!({"status": "sleeping"}),
            "status must be enabled or disabled",
        ),
        (
            json!({"statusReason": "x".repeat(129)}),
            "statusReason must not be longer than 128 characters",
        ),
        (
            json!({"capabilities": {"iotEdge": "yes"}}),
            "iotEdge must be true or false",
        ),
        (json!({"parentScopes": "x"}), "parentScopes must be an array"),
    ] {
        let reply = rest.put("/devices/d", &body).await;
        assert_eq!(reply.refused(ErrorCode::ArgumentInvalid), text, "{body}");
    }
    rest.get("/devices/d").await.refused(ErrorCode::DeviceNotFound);
    let longest = json!({"deviceId": "d", "status": "Disabled", "statusReason": "ü".repeat(128)});
    assert_eq!(rest.put("/devices/d", &longest).await.ok()["status"], "disabled");
}

#[tokio::test]
async fn a_listing_gives_up_to_a_thousand_devices() {
    let (hub, rest) = start().await;
    assert_eq!(rest.get("/devices").await.text(), "[]");
    let lines: Vec<String> = (0..1003)
        .map(|n| format!("{{\"deviceId\":\"d{n:04}\"}}"))
        .collect();
    hub.import(&lines.join("\n")).unwrap();
    for (query, expected) in [
        ("", 1000),
        ("?top=10", 10),
        ("?Top=1", 1),
        ("?top=%31%32", 12),
        ("?top=1000", 1000),
        ("?top=1001", 1000),
        ("?top=0", 1000),
        ("?top=-1", 1000),
        ("?top=many", 1000),
    ] {
        let reply = rest.get(&format!("/devices/{query}")).await;
        assert_eq!(reply.ok().as_array().unwrap().len(), expected, "{query}");
        assert_eq!(reply.header("x-ms-continuation"), None);
    }
    let listed = rest.get("/devices?top=1").await.ok();
    assert_eq!(listed[0], rest.get("/devices/d0000").await.ok());
}

#[tokio::test]
async fn statistics_count_devices_by_state() {
    let (hub, rest) = start().await;
    let registry = |total: u32, enabled: u32| json!({"totalDeviceCount": total, "enabledDeviceCount": enabled, "disabledDeviceCount": total - enabled});
    assert_eq!(rest.get("/statistics/devices").await.ok(), registry(0, 0));
    assert_eq!(
        rest.get("/statistics/service").await.ok(),
        json!({"connectedDeviceCount": 0})
    );
    for id in ["a", "b", "c"] {
        rest.create(id).await;
    }
    rest.put("/devices/off", &json!({"status": "disabled"}))
        .await
        .ok();
    rest.put("/devices/a/modules/m", &json!({})).await.ok();
    let _a = AnsweringDevice::connect(&hub, "a", Answer::Nothing).await;
    let _module = AnsweringDevice::connect(&hub, "a/m", Answer::Nothing).await;
    let _b = AnsweringDevice::connect(&hub, "b", Answer::Nothing).await;
    assert_eq!(rest.get("/statistics/devices").await.ok(), registry(4, 3));
    // Modules are no devices.
    assert_eq!(
        rest.get("/statistics/service").await.ok(),
        json!({"connectedDeviceCount": 2})
    );
    assert_eq!(hub.connected_count(), 3);
}

#[tokio::test]
async fn a_connection_shows_in_the_identity_and_leaves_its_etag_alone() {
    let (hub, rest) = start().await;
    let before = rest.create("d").await;
    let started = hub.now().to_string();
    let device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let connected = rest.get("/devices/d").await.ok();
    assert_eq!(connected["connectionState"], "Connected");
    for time in ["connectionStateUpdatedTime", "lastActivityTime"] {
        assert!(connected[time].as_str().unwrap() >= &*started, "{connected}");
    }
    assert_eq!(connected["etag"], before["etag"]);
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    assert_eq!(rest.get("/devices/d").await.ok()["etag"], before["etag"]);

    device.disconnect();
    let gone = crate::support::wait_for("the disconnect", async || {
        let identity = rest.get("/devices/d").await.ok();
        if identity["connectionState"] == "Disconnected" {
            Ok(identity)
        } else {
            Err(identity)
        }
    })
    .await;
    assert_eq!(gone["etag"], before["etag"]);
}

#[tokio::test]
async fn a_device_that_is_disabled_is_cut_off_at_once() {
    let (hub, rest) = start().await;
    let identity = rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    let mut module = AnsweringDevice::connect(&hub, "d/m", Answer::Nothing).await;
    let mut disabled = identity.clone();
    disabled["status"] = "disabled".into();
    put(&rest, "/devices/d", Some("*"), &disabled).await.ok();
    device.saw("the end of the connection", |seen| seen.closed).await;
    module.saw("the end of the connection", |seen| seen.closed).await;
    for target in ["d", "d/m"] {
        let refused = AnsweringDevice::try_connect(&hub, target, Answer::Nothing, &[]).await;
        assert_eq!(refused.unwrap_err(), mqtt_wire::ConnectAckReason::NotAuthorized);
    }
    // Its twin is as accessible as before.
    rest.patch("/twins/d", &json!({"tags": {"a": 1}})).await.ok();
    assert_eq!(rest.get("/twins/d").await.ok()["status"], "disabled");
    let rows = rest
        .query("SELECT deviceId FROM devices WHERE status = 'disabled'")
        .await;
    assert_eq!(rows.ok(), json!([{"deviceId": "d"}]));

    put(&rest, "/devices/d", Some("*"), &identity).await.ok();
    AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
}

#[tokio::test]
async fn a_key_roll_keeps_the_connection_and_refuses_new_ones() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(1))).await;
    let old = hub.create_device("d").unwrap();
    put(&rest, "/devices/d", Some("*"), &json!({})).await.ok();
    assert_ne!(hub.create_device("d").unwrap(), old);
    let call = json!({"methodName": "still there"});
    let reply = rest.post("/twins/d/methods", &call).await;
    assert_eq!(reply.ok(), json!({"status": 200, "payload": 1}));
    drop(device);
    // The new key opens the hub again.
    let again = AnsweringDevice::try_connect(&hub, "d", Answer::Nothing, &[Filter::Methods]).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_deleted_device_is_cut_off_at_once() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let mut device = AnsweringDevice::connect(&hub, "d", Answer::Nothing).await;
    rest.delete("/devices/d").await.no_content();
    device.saw("the end of the connection", |seen| seen.closed).await;
    assert_eq!(hub.connected_count(), 0);
}

/// The same front behind TLS, with a client that trusts only the hub's CA.
#[tokio::test]
async fn the_api_is_served_over_tls() {
    let hub = start_hub().await;
    let options = ClientOptions {
        endpoint: Some(format!(
            "https://localhost:{}",
            hub.https_address().unwrap().port()
        )),
        ca_pem: Some(hub.ca_pem().as_bytes().to_vec()),
    };
    let client = ServiceClient::new(&hub.service_connection_string(), &options).unwrap();
    let entries: Vec<Value> = (0..150).map(|n| json!({ "id": format!("d{n}") })).collect();
    assert_eq!(
        client.create_devices(&entries).await.unwrap(),
        Vec::<Value>::new()
    );
    assert_eq!(
        client.query("SELECT deviceId FROM devices").await.unwrap().len(),
        150
    );
    assert_eq!(
        client.create_devices(&entries[..1]).await.unwrap(),
        [json!({
            "deviceId": "d0",
            "moduleId": null,
            "errorCode": "DeviceAlreadyExists",
            "errorStatus": "A device with ID 'd0' is already registered.",
            "operation": "create",
        })]
    );
}
