//! Module identities, Edge devices and their scopes.

use emulator::Hub;
use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::rest::Rest;
use crate::support::start_hub;

const NEVER: &str = "0001-01-01T00:00:00Z";

async fn start() -> (Hub, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    (hub, rest)
}

#[tokio::test]
async fn a_fresh_module_reads_as_the_service_prints_it() {
    let (_hub, rest) = start().await;
    let created = rest
        .put(
            "/devices/d/modules/m",
            &json!({"moduleId": "m", "deviceId": "d", "managedBy": "me"}),
        )
        .await;
    let module = created.ok();
    let etag = module["etag"].as_str().unwrap();
    assert_eq!(created.header("etag"), Some(&*format!("\"{etag}\"")));
    assert_eq!(
        module,
        json!({
            "moduleId": "m",
            "managedBy": "me",
            "deviceId": "d",
            "generationId": module["generationId"],
            "etag": etag,
            "connectionState": "Disconnected",
            "connectionStateUpdatedTime": NEVER,
            "lastActivityTime": NEVER,
            "cloudToDeviceMessageCount": 0,
            "authentication": {
                "symmetricKey": module["authentication"]["symmetricKey"],
                "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
                "type": "sas",
            },
        })
    );
    let read = rest.get("/devices/d/modules/m").await;
    assert_eq!(read.ok(), module);
    assert_eq!(read.header("etag"), created.header("etag"));
    assert_eq!(rest.get("/devices/d/modules").await.ok(), json!([module]));
    // For modules, no credentials means keys.
    let body = json!({"authentication": {"type": "none"}});
    let other = rest.put("/devices/d/modules/n", &body).await.ok();
    assert_eq!(other["authentication"]["type"], "sas");
}

#[tokio::test]
async fn modules_follow_the_table_of_preconditions() {
    let (_hub, rest) = start().await;
    let path = "/devices/d/modules/m";
    let unknown = "Module m on device d not found.";
    for if_match in ["*", "\"MA==\""] {
        for method in ["PUT", "DELETE"] {
            let reply = rest
                .call(method, path)
                .if_match(if_match)
                .json(&json!({}))
                .send()
                .await;
            assert_eq!(
                reply.refused_in_detail(ErrorCode::ModuleNotFound).message,
                unknown
            );
        }
    }
    assert_eq!(
        rest.get(path)
            .await
            .refused_in_detail(ErrorCode::ModuleNotFound)
            .message,
        unknown
    );
    let module = rest.put(path, &json!({})).await.ok();
    let text = rest
        .put(path, &json!({}))
        .await
        .refused(ErrorCode::ModuleAlreadyExistsOnDevice);
    assert_eq!(text, "A module with ID 'm' is already registered on device 'd'.");

    let etag = module["etag"].as_str().unwrap();
    let quoted = format!("\"{etag}\"");
    let replaced = rest
        .call("PUT", path)
        .if_match(&quoted)
        .json(&json!({"managedBy": "x"}))
        .send()
        .await
        .ok();
    assert_ne!(replaced["etag"], module["etag"]);
    assert_eq!(replaced["generationId"], module["generationId"]);
    assert_eq!(replaced["managedBy"], "x");
    for method in ["PUT", "DELETE"] {
        let stale = rest.call(method, path).if_match(etag).json(&json!({}));
        stale.send().await.refused(ErrorCode::PreconditionFailed);
    }
    rest.call("DELETE", path)
        .send()
        .await
        .refused(ErrorCode::PreconditionFailed);
    rest.call("DELETE", path)
        .if_match(replaced["etag"].as_str().unwrap())
        .send()
        .await
        .no_content();
    rest.get(path).await.refused_in_detail(ErrorCode::ModuleNotFound);
    // The module's twin is reported in other words than its identity.
    let text = rest
        .get("/twins/d/modules/m")
        .await
        .refused(ErrorCode::DeviceNotFound);
    assert_eq!(text, "d/m");
}

#[tokio::test]
async fn modules_of_an_unknown_device_are_not_found() {
    let (_hub, rest) = start().await;
    for (method, path) in [
        ("GET", "/devices/x/modules"),
        ("GET", "/devices/x/modules/m"),
        ("PUT", "/devices/x/modules/m"),
        ("DELETE", "/devices/x/modules/m"),
        ("GET", "/twins/x/modules/m"),
        ("PATCH", "/twins/x/modules/m"),
    ] {
        let reply = rest.call(method, path).json(&json!({})).send().await;
        assert_eq!(reply.refused(ErrorCode::DeviceNotFound), "x", "{method} {path}");
    }
}

#[tokio::test]
async fn bad_modules_are_refused() {
    let (_hub, rest) = start().await;
    for (body, text) in [
        (json!("m"), "the module must be a JSON object"),
        (
            json!({"moduleId": "n"}),
            "moduleId in the body does not match the id m",
        ),
        (
            json!({"deviceId": "e"}),
            "deviceId in the body does not match the id d",
        ),
        (json!({"managedBy": {}}), "managedBy must be a string"),
    ] {
        let reply = rest.put("/devices/d/modules/m", &body).await;
        assert_eq!(reply.refused(ErrorCode::ArgumentInvalid), text, "{body}");
    }
    let text = rest
        .get("/devices/d/modules/a%20b")
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert!(text.starts_with("bad module id: "), "{text}");
    let text = rest
        .put("/devices/d/modules/$edgeAgent", &json!({}))
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert_eq!(text, "module ids that start with $ are reserved for the hub");
    assert_eq!(rest.get("/devices/d/modules").await.ok(), json!([]));
}

#[tokio::test]
async fn a_device_has_fifty_modules_at_most() {
    let (_hub, rest) = start().await;
    rest.create("e").await;
    for n in 0..50 {
        rest.put(&format!("/devices/d/modules/m{n:02}"), &json!({}))
            .await
            .ok();
    }
    let text = rest
        .put("/devices/d/modules/m50", &json!({}))
        .await
        .refused(ErrorCode::TooManyModulesOnDevice);
    assert_eq!(text, "device d has 50 modules already");
    // Replacing one is no addition, another device has its own fifty, and a
    // removal makes room.
    rest.call("PUT", "/devices/d/modules/m00")
        .if_match("*")
        .json(&json!({}))
        .send()
        .await
        .ok();
    rest.put("/devices/e/modules/m50", &json!({})).await.ok();
    rest.delete("/devices/d/modules/m07").await.no_content();
    rest.put("/devices/d/modules/m50", &json!({})).await.ok();
    let modules = rest.get("/devices/d/modules").await.ok();
    assert_eq!(modules.as_array().unwrap().len(), 50);
}

fn edge() -> Value {
    json!({"capabilities": {"iotEdge": true}})
}

#[tokio::test]
async fn an_edge_device_brings_its_system_modules() {
    let (_hub, rest) = start().await;
    let device = rest.put("/devices/edge", &edge()).await.ok();
    let scope = device["deviceScope"].as_str().unwrap();
    let ticks = scope.strip_prefix("ms-azure-iot-edge://edge-").unwrap();
    assert!(ticks.bytes().all(|b| b.is_ascii_digit()), "{scope}");
    assert!(device.get("parentScopes").is_none());

    let modules = rest.get("/devices/edge/modules").await.ok();
    let modules = modules.as_array().unwrap();
    let ids: Vec<&Value> = modules.iter().map(|m| &m["moduleId"]).collect();
    assert_eq!(ids, ["$edgeAgent", "$edgeHub"]);
    for module in modules {
        assert_eq!(module["managedBy"], "iotEdge");
        assert_eq!(module["authentication"]["type"], "none");
        assert_eq!(
            module["authentication"]["symmetricKey"],
            json!({"primaryKey": null, "secondaryKey": null})
        );
    }
    let twin = rest.get("/twins/edge/modules/$edgeAgent").await.ok();
    assert_eq!(twin["moduleId"], "$edgeAgent");
    assert_eq!(rest.get("/twins/edge").await.ok()["deviceScope"], scope);
    // They can be replaced, as deployments do, but not created a second time.
    rest.put("/devices/edge/modules/$edgeHub", &json!({}))
        .await
        .refused(ErrorCode::ModuleAlreadyExistsOnDevice);
    rest.call("PUT", "/devices/edge/modules/$edgeHub")
        .if_match("*")
        .json(&json!({}))
        .send()
        .await
        .ok();
}

#[tokio::test]
async fn a_device_may_become_an_edge_device_and_back() {
    let (_hub, rest) = start().await;
    let update = async |body: &Value| {
        let call = rest.call("PUT", "/devices/d").if_match("*").json(body);
        call.send().await.ok()
    };
    let plain = rest.get("/devices/d").await.ok();
    assert!(plain.get("deviceScope").is_none());
    let promoted = update(&edge()).await;
    let scope = promoted["deviceScope"].clone();
    assert!(scope.is_string());
    assert_eq!(
        rest.get("/devices/d/modules")
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // The scope is immutable.
    let mut changed = edge();
    changed["deviceScope"] = "ms-azure-iot-edge://other-1".into();
    assert_eq!(update(&changed).await["deviceScope"], scope);
    let demoted = update(&json!({"deviceScope": scope})).await;
    assert_eq!(demoted["capabilities"], json!({"iotEdge": false}));
    assert!(demoted.get("deviceScope").is_none(), "{demoted}");
}

#[tokio::test]
async fn children_name_the_scope_of_an_edge_device() {
    let (_hub, rest) = start().await;
    let parent = rest.put("/devices/parent", &edge()).await.ok();
    let scope = parent["deviceScope"].as_str().unwrap();

    let leaf = rest
        .put("/devices/leaf", &json!({"deviceScope": scope}))
        .await
        .ok();
    assert_eq!(leaf["deviceScope"], scope);
    assert_eq!(leaf["parentScopes"], json!([scope]));
    let twin = rest.get("/twins/leaf").await.ok();
    assert_eq!(twin["deviceScope"], scope);
    assert_eq!(twin["parentScopes"], json!([scope]));

    let mut nested = edge();
    nested["parentScopes"] = json!([scope]);
    let nested = rest.put("/devices/nested", &nested).await.ok();
    assert_eq!(nested["parentScopes"], json!([scope]));
    assert_ne!(nested["deviceScope"], scope);

    // A leaf that sends only parentScopes is left without a parent.
    let orphan = rest
        .put("/devices/orphan", &json!({"parentScopes": [scope]}))
        .await
        .ok();
    assert!(orphan.get("parentScopes").is_none(), "{orphan}");

    let query = format!(
        "SELECT deviceId FROM devices WHERE ARRAY_CONTAINS(parentScopes, '{scope}') AND capabilities.iotEdge = true"
    );
    assert_eq!(rest.query(&query).await.ok(), json!([{"deviceId": "nested"}]));
}

#[tokio::test]
async fn a_scope_that_no_edge_device_has_is_refused() {
    let (_hub, rest) = start().await;
    let before = rest.put("/devices/parent", &edge()).await.ok();
    rest.delete("/devices/parent").await.no_content();
    let parent = rest.put("/devices/parent", &edge()).await.ok();
    let old = before["deviceScope"].as_str().unwrap();
    assert_ne!(old, parent["deviceScope"]);
    for scope in [
        old,
        "ms-azure-iot-edge://unknown-1",
        "ms-azure-iot-edge://d-1",
        "ms-azure-iot-edge://",
        "nonsense",
    ] {
        let leaf = json!({ "deviceScope": scope });
        let text = rest
            .put("/devices/leaf", &leaf)
            .await
            .refused(ErrorCode::InvalidDeviceScope);
        assert_eq!(text, format!("no Edge device has the scope {scope:?}"));
        let reply = rest
            .call("PUT", "/devices/d")
            .if_match("*")
            .json(&leaf)
            .send()
            .await;
        reply.refused(ErrorCode::InvalidDeviceScope);
    }
    rest.get("/devices/leaf").await.refused(ErrorCode::DeviceNotFound);
    let two = json!({"capabilities": {"iotEdge": true}, "parentScopes": [old, old]});
    let text = rest
        .put("/devices/leaf", &two)
        .await
        .refused(ErrorCode::ArgumentInvalid);
    assert_eq!(text, "parentScopes must hold one scope at most");
}
