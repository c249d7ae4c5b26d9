//! A hub with some of everything, and the proof that what it refused has left
//! no trace.

use emulator::Hub;
use hub_core::error::ErrorCode;
use serde_json::{Map, Value, json};

use super::rest::{Call, Rest, start};

/// What is read to see the hub's state: listings, and queries over twins.
const LISTINGS: [&str; 8] = [
    "/devices",
    "/devices/d/modules",
    "/jobs",
    "/jobs/v2/query",
    "/configurations",
    "/_emulator/telemetry",
    "/_emulator/events",
    "/_emulator/file-notifications",
];
const QUERIES: [&str; 2] = ["SELECT * FROM devices", "SELECT * FROM devices.modules"];

/// A hub with the devices `d` and `edge`, the module `d/m`, the configuration
/// `c`, the job `j` far in the future, and a message that waits for `d`.
pub struct Witness {
    _hub: Hub,
    pub rest: Rest,
    state: Value,
}

impl Witness {
    pub async fn start() -> Self {
        let (hub, rest) = start().await;
        rest.create("d").await;
        let edge = json!({"capabilities": {"iotEdge": true}});
        rest.put("/devices/edge", &edge).await.ok();
        rest.put("/devices/d/modules/m", &json!({})).await.ok();
        let twin = json!({"tags": {"a": 1}, "properties": {"desired": {"a": 1}}});
        rest.patch("/twins/d", &twin).await.ok();
        let configuration = json!({"content": {"deviceContent": {"properties.desired.b": 1}}});
        rest.put("/configurations/c", &configuration).await.ok();
        let job = json!({"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {}},
                         "queryCondition": "*", "startTime": "2100-01-01T00:00:00Z"});
        rest.put("/jobs/v2/j", &job).await.ok();
        let message = rest.call("POST", "/devices/d/messages/devicebound");
        message.body("hello").send().await.no_content();
        let state = state(&rest).await;
        Self {
            _hub: hub,
            rest,
            state,
        }
    }

    /// Sends a call that must be refused, in whatever envelope.
    #[track_caller]
    pub fn refuses(&self, call: Call, code: ErrorCode) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let reply = call.send().await;
            let (found, text) = reply.refusal();
            assert_eq!(found, code, "{caller}: {}: {text}", reply.line());
            text
        }
    }

    /// Checks that the hub is as it was.
    pub async fn check(&self, what: &str) {
        let found = state(&self.rest).await;
        for (part, before) in self.state.as_object().unwrap() {
            assert_eq!(found[part], *before, "{what} has left a trace in {part}");
        }
    }
}

/// Everything of the hub that callers can see, but for the time and how often
/// they have called.
async fn state(rest: &Rest) -> Value {
    let mut state = Map::new();
    for path in LISTINGS {
        state.insert(path.into(), rest.get(path).await.ok());
    }
    for query in QUERIES {
        state.insert(query.into(), rest.query(query).await.ok());
    }
    let mut counters = rest.get("/_emulator/counters").await.ok();
    for of_requests in ["httpRequests", "httpErrors"] {
        counters.as_object_mut().unwrap().remove(of_requests).unwrap();
    }
    state.insert("counters".into(), counters);
    Value::Object(state)
}
