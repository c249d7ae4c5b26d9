//! Bodies that no route takes: every route that reads JSON against text that is
//! none, and each member that it knows against values of other types; and what
//! was refused has left no trace.

use hub_core::error::ErrorCode::{self, *};
use hub_core::limits;
use serde_json::{Value, json};

use crate::support::rest::Call;
use crate::support::routes::ROUTES;
use crate::support::unchanged::Witness;

/// A route that reads JSON.
struct Route {
    method: &'static str,
    /// Its path in the route table.
    template: &'static str,
    /// A path of it.
    path: &'static str,
    /// A body that it takes.
    good: Value,
    /// Members by their place in `good` (`""` is the body itself), what they
    /// must not be, see [`bad`], and what the refusal is.
    members: &'static [(&'static str, &'static str, ErrorCode)],
}

/// A value by its letter.
fn bad(letter: char) -> Value {
    match letter {
        'n' => Value::Null,
        'b' => json!(true),
        'i' => json!(7),
        'f' => json!(-0.5),
        't' => json!("?"),
        'l' => json!("x".repeat(300_000)),
        'a' => json!([]),
        'o' => json!({}),
        _ => panic!("{letter} stands for no value"),
    }
}

/// `body` with another value at `place`, which need not be there.
fn with(body: &Value, place: &str, value: Value) -> Value {
    let Some((first, rest)) = place
        .split_once('/')
        .or((!place.is_empty()).then_some((place, "")))
    else {
        return value;
    };
    let mut body = body.clone();
    let member = match &mut body {
        Value::Array(items) => &mut items[first.parse::<usize>().unwrap()],
        object => &mut object[first],
    };
    *member = with(member, rest, value);
    body
}

#[rustfmt::skip]
fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "PUT", template: "/devices/{device}", path: "/devices/new", good: json!({}),
            members: &[
                ("", "nbifta", ArgumentInvalid),
                ("deviceId", "biftlao", ArgumentInvalid),
                ("status", "biftlao", ArgumentInvalid),
                ("statusReason", "biflao", ArgumentInvalid),
                ("authentication", "biftla", ArgumentInvalid),
                ("authentication/type", "biftlao", ArgumentInvalid),
                ("authentication/symmetricKey", "biftla", ArgumentInvalid),
                ("authentication/symmetricKey/primaryKey", "biftlao", ArgumentInvalid),
                ("authentication/symmetricKey/secondaryKey", "biftlao", ArgumentInvalid),
                ("authentication/x509Thumbprint", "biftla", ArgumentInvalid),
                ("authentication/x509Thumbprint/primaryThumbprint", "biftlao", ArgumentInvalid),
                ("capabilities", "biftla", ArgumentInvalid),
                ("capabilities/iotEdge", "iftlao", ArgumentInvalid),
                ("deviceScope", "bifao", ArgumentInvalid),
                ("deviceScope", "tl", InvalidDeviceScope),
                ("parentScopes", "biftlo", ArgumentInvalid),
            ],
        },
        Route {
            method: "PUT", template: "/devices/{device}/modules/{module}", path: "/devices/d/modules/new",
            good: json!({}),
            members: &[
                ("", "nbifta", ArgumentInvalid),
                ("deviceId", "biftlao", ArgumentInvalid),
                ("moduleId", "biftlao", ArgumentInvalid),
                ("managedBy", "biflao", ArgumentInvalid),
                ("authentication", "biftla", ArgumentInvalid),
                ("authentication/type", "biftlao", ArgumentInvalid),
                ("authentication/symmetricKey/primaryKey", "biftlao", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/devices", path: "/devices", good: json!([{"id": "bulk", "importMode": "create"}]),
            members: &[
                ("", "nbiftlao", ArgumentInvalid),
                ("0", "nbiftlao", ArgumentInvalid),
                ("0/id", "nbifao", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/devices/keys/regenerate", path: "/devices/keys/regenerate",
            good: json!({"policyKey": "primaryKey", "devices": [{"id": "d"}]}),
            members: &[
                ("", "nbiftla", ArgumentInvalid),
                ("policyKey", "ntl", InvalidPolicyKey),
                ("policyKey", "bifao", ArgumentInvalid),
                ("devices", "nbiftlao", ArgumentInvalid),
                ("devices/0", "nbiftlao", ArgumentInvalid),
                ("devices/0/id", "nbifao", ArgumentInvalid),
                ("devices/0/moduleId", "bifao", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/devices/query", path: "/devices/query",
            good: json!({"query": "SELECT * FROM devices"}),
            members: &[
                ("", "nbiftlao", ArgumentNull),
                ("query", "n", ArgumentNull),
                ("query", "biftlao", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/_emulator/query/explain", path: "/_emulator/query/explain",
            good: json!({"query": "SELECT * FROM devices"}),
            members: &[
                ("", "nbiftlao", ArgumentNull),
                ("query", "n", ArgumentNull),
                ("query", "biftlao", ArgumentInvalid),
            ],
        },
        twin("PATCH", "/twins/{device}", "/twins/d"),
        twin("PUT", "/twins/{device}", "/twins/d"),
        twin("PATCH", "/twins/{device}/modules/{module}", "/twins/d/modules/m"),
        twin("PUT", "/twins/{device}/modules/{module}", "/twins/d/modules/m"),
        method_call("/twins/{device}/methods", "/twins/d/methods"),
        method_call("/twins/{device}/modules/{module}/methods", "/twins/d/modules/m/methods"),
        Route {
            method: "PUT", template: "/jobs/v2/{job}", path: "/jobs/v2/new",
            good: json!({"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {}},
                         "queryCondition": "*", "startTime": "2100-01-01T00:00:00Z"}),
            members: &[
                ("", "nbiftlao", GenericBadRequest),
                ("jobId", "biftlao", ArgumentInvalid),
                ("type", "nbiftlao", GenericBadRequest),
                ("queryCondition", "n", ArgumentNull),
                ("queryCondition", "biflao", ArgumentInvalid),
                ("startTime", "nbiftlao", ArgumentInvalid),
                ("maxExecutionTimeInSeconds", "nbftlao", ArgumentInvalid),
                ("updateTwin", "n", ArgumentNull),
                ("updateTwin", "biftlao", ArgumentInvalid),
                ("updateTwin/etag", "biftlao", ArgumentInvalid),
                ("updateTwin/tags", "nbiftla", ArgumentInvalid),
                ("updateTwin/tags/a", "l", ArgumentInvalid),
                ("updateTwin/tags/$a", "nbiftlao", ArgumentInvalid),
                ("updateTwin/properties", "biftla", ArgumentInvalid),
            ],
        },
        Route {
            method: "PUT", template: "/jobs/v2/{job}", path: "/jobs/v2/other",
            good: json!({"type": "scheduleDeviceMethod", "cloudToDeviceMethod": {"methodName": "x"},
                         "queryCondition": "*", "startTime": "2100-01-01T00:00:00Z"}),
            members: &[
                ("cloudToDeviceMethod", "no", ArgumentNull),
                ("cloudToDeviceMethod", "biftla", ArgumentInvalid),
                ("cloudToDeviceMethod/methodName", "n", ArgumentNull),
                ("cloudToDeviceMethod/methodName", "biftlao", ArgumentInvalid),
                ("cloudToDeviceMethod/payload", "l", MessageTooLarge),
            ],
        },
        Route {
            method: "PUT", template: "/configurations/{configuration}", path: "/configurations/new",
            good: json!({"content": {"deviceContent": {"properties.desired.b": 1}}}),
            members: &[
                ("", "nbiftla", ArgumentInvalid),
                ("", "o", InvalidConfigurationContent),
                ("id", "biftlao", ArgumentInvalid),
                ("schemaVersion", "biflao", ArgumentInvalid),
                ("content", "nbiftlao", InvalidConfigurationContent),
                ("content/deviceContent", "nbiftla", InvalidConfigurationContent),
                ("content/deviceContent/properties.desired.b", "l", InvalidConfigurationContent),
                ("content/deviceContent/properties.reported.b", "nbiftlao", InvalidConfigurationContent),
                ("content/moduleContent", "biftla", InvalidConfigurationContent),
                ("content/modulesContent", "biftla", InvalidConfigurationContent),
                ("targetCondition", "bifao", ArgumentInvalid),
                ("targetCondition", "tl", InvalidConfigurationTargetCondition),
                ("priority", "bftlao", ArgumentInvalid),
                ("labels", "biftla", ArgumentInvalid),
                ("labels/a", "nbiflao", ArgumentInvalid),
                ("metrics", "biftla", ArgumentInvalid),
                ("metrics/queries", "biftla", ArgumentInvalid),
                ("metrics/queries/a", "nbiftlao", InvalidConfigurationCustomMetricsQuery),
            ],
        },
        Route {
            method: "POST", template: "/configurations/testqueries", path: "/configurations/testQueries",
            good: json!({}),
            members: &[
                ("", "nbiftla", ArgumentInvalid),
                ("targetCondition", "bifao", ArgumentInvalid),
                ("customMetricQueries", "biftla", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/devices/{device}/applyconfigurationcontent",
            path: "/devices/edge/applyConfigurationContent",
            good: json!({"modulesContent": {"new": {"properties.desired.a": 1}}}),
            members: &[
                ("", "nbiftlao", InvalidConfigurationContent),
                ("modulesContent", "nbiftla", InvalidConfigurationContent),
                ("modulesContent/new", "nbiftla", InvalidConfigurationContent),
                ("modulesContent/new/properties.desired.a", "l", InvalidConfigurationContent),
                ("modulesContent/a b", "nbiftlao", InvalidConfigurationContent),
                ("modulesContent/$edgeHub/properties.desired.$a", "i", InvalidConfigurationContent),
            ],
        },
        Route {
            method: "PATCH", template: "/digitaltwins/{device}", path: "/digitaltwins/d",
            good: json!([{"op": "add", "path": "/a", "value": 1}]),
            members: &[
                ("", "nbiftlo", InvalidDigitalTwinJsonPatch),
                ("0", "nbiftlao", InvalidDigitalTwinJsonPatch),
                ("0/op", "nbiftlao", InvalidDigitalTwinJsonPatch),
                ("0/path", "nbifao", InvalidDigitalTwinJsonPatch),
                ("0/path", "tl", InvalidDigitalTwinPatchPath),
                ("0/value", "nla", InvalidDigitalTwinPayload),
            ],
        },
        command("/digitaltwins/{device}/commands/{command}", "/digitaltwins/d/commands/x"),
        command(
            "/digitaltwins/{device}/components/{component}/commands/{command}",
            "/digitaltwins/d/components/k/commands/x",
        ),
        Route {
            method: "POST", template: "/devices/{device}/files", path: "/devices/d/files",
            good: json!({"blobName": "f"}),
            members: &[
                ("", "nbiftla", ArgumentInvalid),
                ("blobName", "n", ArgumentNull),
                ("blobName", "biflao", ArgumentInvalid),
            ],
        },
        upload_end("/devices/{device}/files/notifications", "/devices/d/files/notifications"),
        upload_end("/devices/{device}/files/notifications/{upload}", "/devices/d/files/notifications/u"),
        Route {
            method: "POST", template: "/jobs/create", path: "/jobs/create",
            good: json!({"type": "export", "outputBlobContainerUri": "https://localhost/none"}),
            members: &[
                ("", "nbiftlao", ArgumentInvalid),
                ("type", "nbiftlao", ArgumentInvalid),
                ("outputBlobContainerUri", "n", ArgumentNull),
                ("outputBlobContainerUri", "bifao", ArgumentInvalid),
                ("outputBlobContainerUri", "tl", BlobContainerValidationError),
                ("outputBlobName", "biflao", ArgumentInvalid),
                ("excludeKeysInExport", "iftlao", ArgumentInvalid),
                ("storageAuthenticationType", "biftlao", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/_emulator/c2d", path: "/_emulator/c2d", good: json!({"deviceId": "d"}),
            members: &[
                ("", "nbiftlao", ArgumentInvalid),
                ("deviceId", "nbiflao", ArgumentInvalid),
                ("deviceId", "t", DeviceNotFound),
                ("moduleId", "biflao", ArgumentInvalid),
                ("moduleId", "t", ModuleNotFound),
                ("body", "bifao", ArgumentInvalid),
                ("body", "l", MessageTooLarge),
                ("bodyBase64", "biftao", ArgumentInvalid),
                ("bodyBase64", "l", MessageTooLarge),
                ("messageId", "biflao", ArgumentInvalid),
                ("correlationId", "bifao", ArgumentInvalid),
                ("expiryTimeUtc", "biftlao", ArgumentInvalid),
                ("ack", "biftlao", ArgumentInvalid),
                ("properties", "nbiftla", ArgumentInvalid),
                ("properties/a", "nbifao", ArgumentInvalid),
                ("properties/a", "l", MessageTooLarge),
                ("unknown", "nbiftlao", ArgumentInvalid),
            ],
        },
        Route {
            method: "PUT", template: "/_emulator/routing", path: "/_emulator/routing",
            good: json!({
                "endpoints": {"streams": [{"name": "s"}]},
                "routes": [{"name": "r", "source": "DeviceMessages", "condition": "true",
                    "endpointNames": ["s"], "isEnabled": true}],
                "fallbackRoute": {"isEnabled": true},
                "enrichments": [{"key": "k", "value": "v", "endpointNames": ["s"]}],
            }),
            members: &[
                ("", "nbifta", ArgumentInvalid),
                ("endpoints", "bifta", ArgumentInvalid),
                ("endpoints/streams", "bifto", ArgumentInvalid),
                ("endpoints/streams/0/name", "nbiftlao", ArgumentInvalid),
                ("routes", "bifto", ArgumentInvalid),
                ("routes/0/name", "nbiftlao", ArgumentInvalid),
                ("routes/0/source", "nbiftlao", ArgumentInvalid),
                ("routes/0/condition", "biftlao", ArgumentInvalid),
                ("routes/0/endpointNames", "nbiftao", ArgumentInvalid),
                ("routes/0/isEnabled", "iftlao", ArgumentInvalid),
                ("fallbackRoute", "bifta", ArgumentInvalid),
                ("enrichments", "bifto", ArgumentInvalid),
                ("enrichments/0/key", "nbiftlao", ArgumentInvalid),
                ("enrichments/0/value", "nbifao", ArgumentInvalid),
                ("enrichments/0/endpointNames", "nbifto", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/_emulator/routing/test", path: "/_emulator/routing/test",
            good: json!({"routingSource": "DeviceMessages",
                "message": {"body": {}, "appProperties": {"a": "b"}, "systemProperties": {}}}),
            members: &[
                ("", "nbifta", ArgumentInvalid),
                ("routingSource", "biftlao", ArgumentInvalid),
                ("message", "bifta", ArgumentInvalid),
                ("message/appProperties", "bifta", ArgumentInvalid),
                ("message/systemProperties", "bifta", ArgumentInvalid),
                ("deviceId", "biflao", ArgumentInvalid),
            ],
        },
        Route {
            method: "POST", template: "/_emulator/clock/advance", path: "/_emulator/clock/advance",
            good: json!({"seconds": 1}),
            members: &[
                ("", "nbiftlao", ArgumentInvalid),
                ("seconds", "nbftlao", ArgumentInvalid),
                ("to", "nbiftlao", ArgumentInvalid),
            ],
        },
    ]
}

#[rustfmt::skip]
fn twin(method: &'static str, template: &'static str, path: &'static str) -> Route {
    Route {
        method, template, path, good: json!({"tags": {"a": 2}, "properties": {"desired": {"a": 2}}}),
        members: &[
            ("", "nbifta", ArgumentInvalid),
            ("tags", "bifta", ArgumentInvalid),
            ("tags/a", "l", ArgumentInvalid),
            ("tags/$a", "nbiftao", ArgumentInvalid),
            ("tags/a b", "nbiftao", ArgumentInvalid),
            ("properties", "bifta", ArgumentInvalid),
            ("properties/desired", "bifta", ArgumentInvalid),
            ("properties/desired/a", "l", ArgumentInvalid),
            ("properties/desired/a.b", "nbiftao", ArgumentInvalid),
        ],
    }
}

#[rustfmt::skip]
fn method_call(template: &'static str, path: &'static str) -> Route {
    Route {
        method: "POST", template, path, good: json!({"methodName": "x"}),
        members: &[
            ("", "nbifta", ArgumentInvalid),
            ("", "o", ArgumentNull),
            ("methodName", "n", ArgumentNull),
            ("methodName", "biftlao", ArgumentInvalid),
            ("payload", "l", MessageTooLarge),
            ("responseTimeoutInSeconds", "bftao", ArgumentInvalid),
            ("connectTimeoutInSeconds", "bftao", ArgumentInvalid),
        ],
    }
}

#[rustfmt::skip]
fn command(template: &'static str, path: &'static str) -> Route {
    Route { method: "POST", template, path, good: json!(1), members: &[("", "l", MessageTooLarge)] }
}

#[rustfmt::skip]
fn upload_end(template: &'static str, path: &'static str) -> Route {
    Route {
        method: "POST", template, path,
        good: json!({"correlationId": "u", "isSuccess": false, "statusCode": 1, "statusDescription": "s"}),
        members: &[
            ("", "nbifta", InvalidFileUploadCompletionStatus),
            ("isSuccess", "niftlao", InvalidFileUploadCompletionStatus),
            ("statusCode", "bftlao", InvalidFileUploadCompletionStatus),
            ("statusDescription", "bifao", InvalidFileUploadCompletionStatus),
        ],
    }
}

impl Route {
    fn call(&self, hub: &Witness) -> Call {
        let call = hub.rest.call(self.method, self.path);
        if self.path.ends_with("/new") {
            call
        } else {
            call.if_match("*")
        }
    }

    /// Whether no body at all is a body as well.
    fn is_body_optional(&self) -> bool {
        self.template.contains("{command}")
    }
}

/// Routes that write, but take no JSON.
const WITHOUT_JSON: [&str; 4] = ["messages", "cancel", "/_emulator/device-cas", "{group}"];

#[test]
fn the_table_has_every_route_that_reads_json() {
    for (method, template, _) in ROUTES {
        let may_have_body = ["PUT", "POST", "PATCH"].contains(method);
        let has_other =
            WITHOUT_JSON.iter().any(|part| template.contains(part)) || template.contains("{container}");
        let is_there = routes()
            .iter()
            .any(|route| (route.method, route.template) == (*method, *template));
        assert_eq!(is_there, may_have_body && !has_other, "{method} {template}");
    }
}

#[tokio::test]
async fn members_of_another_type_are_refused() {
    let hub = Witness::start().await;
    for route in routes() {
        for (place, letters, code) in route.members {
            for letter in letters.chars() {
                let body = with(&route.good, place, bad(letter));
                hub.refuses(route.call(&hub).json(&body), *code).await;
            }
            hub.check(&format!("{} {}: {place}", route.method, route.path))
                .await;
        }
    }
}

/// What is damaged above is sound: refused at most for what the hub lacks.
#[tokio::test]
async fn undamaged_bodies_are_taken() {
    let hub = Witness::start().await;
    for route in routes() {
        let reply = route.call(&hub).json(&route.good).send().await;
        if reply.status >= 300 {
            let lacking = [
                DeviceNotOnline,
                InvalidFileUploadCorrelationId,
                BlobContainerValidationError,
            ];
            let (code, text) = reply.refusal();
            assert!(lacking.contains(&code), "{}: {code:?} {text}", reply.line());
        }
    }
}

#[tokio::test]
async fn text_that_is_not_json_is_refused() {
    let hub = Witness::start().await;
    let nested = |depth: usize, inner: &str| [&"[".repeat(depth), inner, &"]".repeat(depth)].concat();
    for route in routes() {
        let call = || route.call(&hub);
        if !route.is_body_optional() {
            let text = hub.refuses(call(), ArgumentNull).await;
            assert_eq!(text, "the request has no body", "{}", route.path);
        }
        for body in [
            "{",
            "{}{}",
            "nonsense",
            "{\"a\":}",
            "\u{feff}{}",
            "[1,]",
            "'a'",
            "NaN",
            "1e999",
            " ",
        ] {
            // What it is called is of no matter.
            let call = call().header("Content-Type", "text/html; charset=utf-16");
            let text = hub.refuses(call.body(body), ArgumentInvalid).await;
            assert!(
                text.starts_with("the body is not valid JSON: "),
                "{} {body}: {text}",
                route.path
            );
        }
        for body in [&b"{\"a\":\"\xff\"}"[..], b"\"\\ud800\"", b"\0", b"\xfe\xff\0{\0}"] {
            hub.refuses(call().body(body), ArgumentInvalid).await;
        }
        for depth in [limits::JSON_DEPTH + 1, 100_000] {
            for body in ["[".repeat(depth), nested(depth, ""), "{\"a\":".repeat(depth)] {
                let text = hub.refuses(call().body(body), ArgumentInvalid).await;
                assert_eq!(text, "JSON is nested deeper than 100 levels", "{}", route.path);
            }
        }
        let text = hub.refuses(
            call().body(vec![b' '; limits::HTTP_BODY_BYTES + 1]),
            GenericRequestEntityTooLarge,
        );
        assert_eq!(text.await, "the request body exceeds the limit", "{}", route.path);
        hub.check(&format!("{} {}", route.method, route.path)).await;
    }
}

/// Routes whose body is bytes, and what too many of them are.
#[tokio::test]
async fn too_many_bytes_are_refused() {
    let hub = Witness::start().await;
    for (path, limit, code) in [
        (
            "/_emulator/device-cas",
            limits::HTTP_BODY_BYTES,
            GenericRequestEntityTooLarge,
        ),
        (
            "/devices/d/messages/devicebound",
            limits::HTTP_BODY_BYTES,
            GenericRequestEntityTooLarge,
        ),
        (
            "/devices/d/messages/devicebound",
            limits::C2D_MESSAGE_BYTES,
            MessageTooLarge,
        ),
        (
            "/devices/d/modules/m/messages/devicebound",
            limits::C2D_MESSAGE_BYTES,
            MessageTooLarge,
        ),
        (
            "/devices/d/messages/events",
            limits::D2C_MESSAGE_BYTES,
            MessageTooLarge,
        ),
        (
            "/devices/d/modules/m/messages/events",
            limits::D2C_MESSAGE_BYTES,
            MessageTooLarge,
        ),
    ] {
        let call = hub.rest.call("POST", path).body(vec![b' '; limit + 1]);
        hub.refuses(call, code).await;
        hub.check(path).await;
    }
}
