//! Requests of the shape that the Azure CLI's IoT extension makes with
//! `--login`, command by command: its versions, headers and bodies, which
//! differ from the SDKs' in small ways.

use hub_core::sas;
use mqtt_wire::Connect;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::device::{Device, Identity};
use crate::support::rest::{Call, FAR_FUTURE, Rest, development_key, start};
use crate::support::transport::Transport;

/// A call with the version that the CLI asks for.
fn cli(rest: &Rest, method: &str, path: &str) -> Call {
    let separator = if path.contains('?') { '&' } else { '?' };
    rest.exactly(method, &format!("{path}{separator}api-version=2024-03-31"))
}

async fn ok(rest: &Rest, method: &str, path: &str, body: &Value) -> Value {
    cli(rest, method, path).json(body).send().await.ok()
}

async fn get(rest: &Rest, path: &str) -> Value {
    cli(rest, "GET", path).send().await.ok()
}

#[tokio::test]
async fn device_identity_create_show_update_delete() {
    let (_hub, rest) = start().await;
    // An empty object asks for keys of the hub's making.
    let device = json!({
        "deviceId": "d", "status": "enabled", "capabilities": {"iotEdge": false},
        "authentication": {"type": "sas", "symmetricKey": {}},
    });
    let created = ok(&rest, "PUT", "/devices/d", &device).await;
    let key = created["authentication"]["symmetricKey"]["primaryKey"].as_str();
    assert_eq!(key.map(str::len), Some(44));
    // `update` sends back what it read, with `*` for an ETag.
    let mut changed = get(&rest, "/devices/d").await;
    changed["status"] = json!("disabled");
    changed["etag"] = json!("*");
    let updated = cli(&rest, "PUT", "/devices/d")
        .if_match("\"*\"")
        .json(&changed)
        .send()
        .await
        .ok();
    assert_eq!(updated["status"], "disabled");
    assert_eq!(updated["authentication"], created["authentication"]);
    let delete = cli(&rest, "DELETE", "/devices/d").if_match("\"*\"").send().await;
    delete.no_content();
    assert_eq!(cli(&rest, "GET", "/devices/d").send().await.status, 404);
}

#[tokio::test]
async fn device_identity_list_and_renew_key() {
    let (_hub, rest) = start().await;
    rest.create("a").await;
    rest.create("b").await;
    let query = json!({"query": "select * from devices"});
    let rows = ok(&rest, "POST", "/devices/query", &query).await;
    assert_eq!(rows.as_array().unwrap().len(), 2);
    for id in ["a", "b"] {
        assert_eq!(get(&rest, &format!("/devices/{id}")).await["deviceId"], id);
        assert_eq!(get(&rest, &format!("/devices/{id}/modules")).await, json!([]));
    }
    let renew = json!({"policyKey": "primaryKey", "devices": [{"id": "a"}]});
    let renewed = ok(&rest, "POST", "/devices/keys/regenerate", &renew).await;
    assert_eq!(renewed["rotatedKeys"][0]["id"], "a");
}

#[tokio::test]
async fn module_identity_and_twins() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    let module =
        json!({"deviceId": "d", "moduleId": "m", "authentication": {"type": "sas", "symmetricKey": {}}});
    ok(&rest, "PUT", "/devices/d/modules/m", &module).await;
    for path in ["/twins/d", "/twins/d/modules/m"] {
        let patch = json!({"tags": {"place": "roof"}, "properties": {"desired": {"a": 1}}});
        let patched = cli(&rest, "PATCH", path)
            .if_match("\"*\"")
            .json(&patch)
            .send()
            .await;
        assert_eq!(patched.ok()["properties"]["desired"]["a"], 1);
        // `replace` sends a whole twin, read-only members included.
        let mut twin = get(&rest, path).await;
        twin["properties"]["desired"] = json!({"b": 2});
        let replaced = cli(&rest, "PUT", path)
            .if_match("\"*\"")
            .json(&twin)
            .send()
            .await
            .ok();
        let desired = &replaced["properties"]["desired"];
        assert_eq!((&desired["a"], &desired["b"]), (&Value::Null, &json!(2)));
        assert_eq!(replaced["tags"], json!({"place": "roof"}));
    }
}

#[tokio::test]
async fn invoke_device_method_and_jobs() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let _device = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!({"ok": true}))).await;
    // Both time-outs are what `--to` says.
    let call = json!({"methodName": "m", "payload": {}, "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 30});
    let answer = ok(&rest, "POST", "/twins/d/methods", &call).await;
    assert_eq!(answer, json!({"status": 200, "payload": {"ok": true}}));

    // Without a start time the job starts now.
    let job = json!({
        "jobId": "j", "type": "scheduleUpdateTwin", "queryCondition": "*",
        "updateTwin": {"etag": "*", "tags": {"a": 1}}, "maxExecutionTimeInSeconds": 3600,
    });
    ok(&rest, "PUT", "/jobs/v2/j", &job).await;
    let jobs = get(&rest, "/jobs/v2/query").await;
    assert_eq!(jobs[0]["jobId"], "j");
    assert_eq!(get(&rest, "/jobs").await, json!([]));
    assert_eq!(get(&rest, "/jobs/v2/j").await["jobId"], "j");
}

#[tokio::test]
async fn configurations_and_edge_modules() {
    let (_hub, rest) = start().await;
    let configuration = json!({
        "id": "c", "schemaVersion": "2.0", "labels": {}, "priority": 0, "targetCondition": "tags.a=1",
        "content": {"deviceContent": {"properties.desired.x": {"y": 1}}},
        "metrics": {"queries": {"all": "select deviceId from devices"}, "results": {}}, "etag": "*",
    });
    ok(&rest, "PUT", "/configurations/c", &configuration).await;
    let test = json!({"targetCondition": "tags.a=1", "customMetricQueries": {"all": "select deviceId from devices"}});
    let tested = ok(&rest, "POST", "/configurations/testQueries", &test).await;
    assert_eq!(tested["targetConditionError"], Value::Null);
    // `show-metric` runs the metric's own text.
    let shown = get(&rest, "/configurations/c").await;
    for metric in shown["systemMetrics"]["queries"].as_object().unwrap().values() {
        ok(&rest, "POST", "/devices/query", &json!({"query": metric})).await;
    }
    let delete = cli(&rest, "DELETE", "/configurations/c")
        .if_match("\"*\"")
        .send()
        .await;
    delete.no_content();

    let edge = json!({"deviceId": "edge", "capabilities": {"iotEdge": true}});
    ok(&rest, "PUT", "/devices/edge", &edge).await;
    let content = json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1", "runtime": {}, "systemModules": {},
            "modules": {"sensor": {"type": "docker", "status": "running", "restartPolicy": "always",
                "version": "1.0", "settings": {"image": "sensor:1", "createOptions": ""}}}}},
        "$edgeHub": {"properties.desired": {"schemaVersion": "1.1", "routes": {}}},
        "sensor": {"properties.desired": {"rate": 5}},
    }});
    let applied = cli(&rest, "POST", "/devices/edge/applyConfigurationContent")
        .json(&content)
        .send()
        .await;
    applied.no_content();
    let modules = get(&rest, "/devices/edge/modules").await;
    let ids: Vec<&Value> = modules
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["moduleId"])
        .collect();
    assert_eq!(ids, ["$edgeAgent", "$edgeHub", "sensor"]);
}

#[tokio::test]
async fn send_d2c_message_and_simulate() {
    let (hub, _rest) = start().await;
    let identity = Identity::create(&hub, "d");
    // Over WebSockets, with a product info of Python's `None` at the end of the user name.
    let connect = Connect {
        username: Some(
            "localhost/d/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0None"
                .into(),
        ),
        ..identity.connect()
    };
    let mut device = Device::open(&hub, Transport::WebSocketOverTls).await;
    device.connect(connect).await;
    device
        .publish_acknowledged(&identity.events("%24.mid=1&a=b"), "Ping from Azure CLI")
        .await;
    let message = &hub.telemetry_after(0)[0];
    assert_eq!(message.properties.application["a"], "b");
}

#[tokio::test]
async fn c2d_message_receive_settle_and_purge() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let target = hub_core::ids::Target::device(hub_core::ids::DeviceId::parse("d").unwrap());
    for body in ["1", "2", "3"] {
        hub.send_to_device(&target, Default::default(), body).unwrap();
    }
    // Signed with the policy's key for the device's resource.
    let token = sas::sign(
        "localhost%2Fdevices%2Fd",
        &development_key(),
        FAR_FUTURE,
        Some("iothubowner"),
    );
    let device = rest.authorized(Some(&token));
    let receive = async || {
        let reply = cli(&device, "GET", "/devices/d/messages/deviceBound")
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.header("etag").unwrap().trim_matches('"').to_owned()
    };
    let path = |token: &str| format!("/devices/d/messages/deviceBound/{token}");
    let abandoned = receive().await;
    let abandon = cli(&device, "POST", &format!("{}/abandon", path(&abandoned)))
        .send()
        .await;
    abandon.no_content();
    let completed = receive().await;
    cli(&device, "DELETE", &path(&completed))
        .send()
        .await
        .no_content();
    let rejected = receive().await;
    let reject = cli(&device, "DELETE", &format!("{}?reject", path(&rejected)))
        .send()
        .await;
    reject.no_content();
    let purged = cli(&rest, "DELETE", "/devices/d/commands").send().await.ok();
    assert_eq!(
        purged,
        json!({"totalMessagesPurged": 1, "deviceId": "d", "moduleId": null})
    );
}

#[tokio::test]
async fn digital_twin_and_statistics() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    assert_eq!(get(&rest, "/digitaltwins/d").await["$dtId"], "d");
    assert_eq!(
        get(&rest, "/statistics/service").await,
        json!({"connectedDeviceCount": 0})
    );
    assert_eq!(get(&rest, "/statistics/devices").await["totalDeviceCount"], 1);
}
