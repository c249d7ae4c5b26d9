//! POST /devices/keys/regenerate: one key of many identities made anew.

use hub_core::error::ErrorCode;
use mqtt_wire::ConnectAckReason;
use serde_json::json;

use crate::support::device::{Device, Identity};
use crate::support::rest::start;

#[tokio::test]
async fn one_key_is_made_anew_and_the_other_stays() {
    let (_hub, rest) = start().await;
    let before = rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    let request = json!({"policyKey": "primaryKey", "devices": [{"id": "d"}, {"id": "d", "moduleId": "m"}]});
    let result = rest.post("/devices/keys/regenerate", &request).await.ok();
    assert_eq!(result["policyKey"], "primaryKey");
    assert_eq!(result["errors"], json!([]));
    let rotated = result["rotatedKeys"].as_array().unwrap();
    assert_eq!(rotated.len(), 2);
    for (path, rotated) in [("/devices/d", &rotated[0]), ("/devices/d/modules/m", &rotated[1])] {
        let keys = &rest.get(path).await.ok()["authentication"]["symmetricKey"];
        for key in ["primaryKey", "secondaryKey"] {
            assert_eq!(keys[key], rotated[key], "{path}");
        }
    }
    let after = rest.get("/devices/d").await.ok();
    let key =
        |document: &serde_json::Value, name: &str| document["authentication"]["symmetricKey"][name].clone();
    assert_ne!(key(&before, "primaryKey"), key(&after, "primaryKey"));
    assert_eq!(key(&before, "secondaryKey"), key(&after, "secondaryKey"));
    assert_ne!(before["etag"], after["etag"]);
}

#[tokio::test]
async fn a_live_connection_stays_and_the_old_key_opens_nothing_more() {
    let (hub, rest) = start().await;
    let identity = Identity::create(&hub, "d");
    let (mut device, _) = Device::connected(&hub, identity.connect()).await;
    let request = json!({"policyKey": "primaryKey", "devices": [{"id": "d"}]});
    rest.post("/devices/keys/regenerate", &request).await.ok();
    assert!(device.is_alive().await);
    let ack = Device::in_memory(&hub).connect(identity.connect()).await;
    assert_eq!(ack.return_code, ConnectAckReason::NotAuthorized);
}

#[tokio::test]
async fn entries_fail_one_by_one_and_requests_as_a_whole() {
    let (_hub, rest) = start().await;
    rest.create("d").await;
    let x509 = json!({"authentication": {"type": "selfSigned"}});
    rest.put("/devices/x", &x509).await.ok();
    let devices =
        json!([{"id": "x"}, {"id": "no"}, {"id": "d", "moduleId": "no"}, {"id": "a/b"}, {"id": "d"}]);
    let request = json!({"policyKey": "secondaryKey", "devices": devices});
    let result = rest.post("/devices/keys/regenerate", &request).await.ok();
    let codes: Vec<_> = result["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["errorCode"].as_str().unwrap())
        .collect();
    let expected = [
        "InvalidOperation",
        "DeviceNotFound",
        "ModuleNotFound",
        "ArgumentInvalid",
    ];
    assert_eq!(codes, expected);
    assert_eq!(result["rotatedKeys"][0]["id"], "d");

    let before = rest.get("/devices/d").await.ok();
    for (request, code) in [
        (json!({"devices": [{"id": "d"}]}), ErrorCode::InvalidPolicyKey),
        (
            json!({"policyKey": "primaryKey", "devices": [{"id": "d"}, 1]}),
            ErrorCode::ArgumentInvalid,
        ),
        (
            json!({"policyKey": "primaryKey", "devices": vec![json!({"id": "d"}); 101]}),
            ErrorCode::TooManyDevices,
        ),
    ] {
        rest.post("/devices/keys/regenerate", &request)
            .await
            .refused(code);
    }
    assert_eq!(rest.get("/devices/d").await.ok(), before);
}
