//! What tests of direct methods start from.

use emulator::Hub;
use serde_json::{Value, json};

use super::rest::{Pending, Reply, Rest};
use super::start_hub;

/// A hub with a device `d` that has a module `m`.
pub async fn start() -> (Hub, Rest) {
    let hub = start_hub().await;
    let rest = Rest::of(&hub);
    rest.create("d").await;
    rest.put("/devices/d/modules/m", &json!({})).await.ok();
    (hub, rest)
}

/// Calls a method of the device.
pub async fn invoke(rest: &Rest, body: &Value) -> Reply {
    rest.post("/twins/d/methods", body).await
}

/// Calls a method of the device and leaves the reply for later.
pub async fn begin(rest: &Rest, body: &Value) -> Pending {
    rest.call("POST", "/twins/d/methods").json(body).start().await
}

/// The body of a call with nothing but a name.
pub fn call(name: &str) -> Value {
    json!({ "methodName": name })
}
