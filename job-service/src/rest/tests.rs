//! The client against a stub that answers by rule and remembers what it was asked.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hub_core::error::ErrorCode;
use hub_core::ids::{DeviceId, JobId, ModuleId, Target};
use hub_core::job::{JobRequest, JobStatus, TwinUpdate};
use hub_core::method::MethodCall;
use hub_core::sas::{Key, Token};
use serde_json::{Value, json};

use super::*;
use crate::{Clock, EngineSettings, JobEngine};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Debug, Clone)]
struct Asked {
    method: HttpMethod,
    path: String,
    headers: HeaderMap,
    body: Value,
}

type Answer = (u16, Vec<(&'static str, String)>, Value);

struct Stub {
    client: ServiceClient,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    async fn serving(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, answer) = (asked.clone(), Arc::new(answer));
        let handler = async move |method: HttpMethod, uri: Uri, headers: HeaderMap, body: Bytes| {
            let question = Asked {
                method,
                path: uri.to_string(),
                headers,
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            };
            log.lock().unwrap().push(question.clone());
            respond(answer(&question))
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
        let options = ClientOptions {
            endpoint: Some(endpoint),
            ca_pem: None,
        };
        Self {
            client: ServiceClient::new(&connection_string(), &options).unwrap(),
            asked,
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn last(&self) -> Asked {
        self.asked().pop().unwrap()
    }
}

fn respond((status, headers, body): Answer) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response();
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).unwrap();
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    response
}

fn connection_string() -> String {
    format!("HostName=hub1.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey={KEY}")
}

fn ok(body: Value) -> Answer {
    (200, vec![], body)
}

fn refusal(status: u16, name: &str, message: &str) -> Answer {
    let body = json!({"Message": message, "ExceptionMessage": ""});
    (status, vec![("iothub-errorcode", name.to_owned())], body)
}

fn device(id: &str) -> Target {
    DeviceId::parse(id).unwrap().into()
}

fn job(id: &str, condition: &str) -> JobRequest {
    let body = json!({"type":"scheduleDeviceMethod","queryCondition":condition,
        "cloudToDeviceMethod":{"methodName":"lockDoor","payload":{"lockTime":"10m"}}});
    JobRequest::from_json(id, &body, Clock::system().now()).unwrap()
}

#[tokio::test]
async fn a_call_is_signed_and_versioned() {
    let stub = Stub::serving(|_| ok(json!([]))).await;
    let reply = stub
        .client
        .request(Method::GET, "/devices/?top=10", None)
        .await
        .unwrap();
    assert_eq!((reply.status, reply.body), (200, json!([])));
    let asked = stub.last();
    assert_eq!(asked.path, "/devices/?top=10&api-version=2021-04-12");
    let text = asked.headers["authorization"].to_str().unwrap();
    let token = Token::parse(text).unwrap();
    assert!(token.verify(&Key::from_base64(KEY).unwrap()));
    assert_eq!(token.policy(), Some("service"));
    assert_eq!(token.resource(), "hub1.azure-devices.net");
    assert!(token.expires_at() > Clock::system().now());
    let query = "/x?api-version=2020-03-13";
    stub.client.request(Method::GET, query, None).await.unwrap();
    assert_eq!(stub.last().path, query);
    assert_eq!(
        stub.last().headers["authorization"].to_str().unwrap(),
        text,
        "one token, many calls"
    );
}

#[tokio::test]
async fn a_query_is_read_to_its_last_page() {
    let stub = Stub::serving(|asked| {
        let rows = json!([{"deviceId":"d1","moduleId":"m"}, {"deviceId":"d2","moduleId":"m"}]);
        match asked.headers.get("x-ms-continuation").map(HeaderValue::as_bytes) {
            None => (200, vec![("x-ms-continuation", "p2".into())], rows),
            Some(b"p2") => (200, vec![("x-ms-continuation", "p3".into())], json!([])),
            _ => ok(json!([{"deviceId":"d3","moduleId":"m"}])),
        }
    })
    .await;
    let module = |id: &str| Target {
        device: DeviceId::parse(id).unwrap(),
        module: Some(ModuleId::parse("m").unwrap()),
    };
    let condition = "FROM devices.modules WHERE moduleId = 'm'";
    let targets = stub.client.query_devices(condition).await.unwrap();
    assert_eq!(targets, ["d1", "d2", "d3"].map(module));
    assert_eq!(
        stub.last().body["query"],
        format!("SELECT deviceId, moduleId {condition}")
    );
    assert_eq!(stub.asked().len(), 3);
}

#[tokio::test]
async fn refusals_are_read_back_as_the_services_errors() {
    let nested = r#"{"errorCode":404103,"message":"Timed out waiting for device to connect.","info":{}}"#;
    for (answer, code, text) in [
        (
            refusal(404, "DeviceNotFound", "ErrorCode:DeviceNotFound;d1"),
            ErrorCode::DeviceNotFound,
            "d1",
        ),
        (
            refusal(404, "DeviceNotOnline", nested),
            ErrorCode::DeviceNotOnline,
            "Timed out waiting for device to connect.",
        ),
        (
            (
                400,
                vec![],
                json!({"Message":"ErrorCode:ArgumentInvalid;BadRequest"}),
            ),
            ErrorCode::ArgumentInvalid,
            "BadRequest",
        ),
    ] {
        let stub = Stub::serving(move |_| answer.clone()).await;
        let call = MethodCall::from_json(&json!({"methodName":"m"})).unwrap();
        let error = stub.client.invoke_method(&device("d1"), &call).await.unwrap_err();
        let error = error.into_service_error();
        assert_eq!((error.code, error.message.as_str()), (code, text));
    }
    let stub = Stub::serving(|_| (418, vec![], json!("teapot"))).await;
    let error = stub.client.query("SELECT * FROM devices").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unexpected { status: 418, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn methods_and_twins_go_to_their_paths() {
    let stub = Stub::serving(|_| ok(json!({"status":-1,"payload":{"a":[1]}}))).await;
    let call = MethodCall::from_json(&json!({"methodName":"lockDoor","payload":1})).unwrap();
    let answer = stub.client.invoke_method(&device("a?b%c"), &call).await.unwrap();
    assert_eq!((answer.status, answer.payload.to_value()), (-1, json!({"a":[1]})));
    let asked = stub.last();
    assert_eq!(asked.method, HttpMethod::POST);
    assert_eq!(asked.path, "/twins/a%3Fb%25c/methods?api-version=2021-04-12");
    assert_eq!(asked.body, call.to_json());

    let update = TwinUpdate::from_json(&json!({"etag":"*","tags":{"site":"x"}})).unwrap();
    let module = Target {
        device: DeviceId::parse("d").unwrap(),
        module: Some(ModuleId::parse("$edgeHub").unwrap()),
    };
    stub.client.update_twin(&module, &update).await.unwrap();
    let asked = stub.last();
    assert_eq!(asked.method, HttpMethod::PATCH);
    assert_eq!(asked.path, "/twins/d/modules/%24edgeHub?api-version=2021-04-12");
    assert_eq!(asked.headers["if-match"], "*");
    assert_eq!(asked.body, json!({"tags":{"site":"x"}}));
}

#[tokio::test]
async fn bulk_registration_is_split_and_collects_errors() {
    let stub = Stub::serving(|asked| {
        let entries = asked.body.as_array().unwrap();
        assert!(entries.iter().all(|entry| entry["importMode"] == "create"));
        if entries.len() == 100 {
            return ok(json!({"isSuccessful":true,"errors":[],"warnings":[]}));
        }
        let error = json!({"deviceId":"d200","errorCode":"DeviceAlreadyExists"});
        (400, vec![], json!({"isSuccessful":false,"errors":[error]}))
    })
    .await;
    let devices: Vec<Value> = (0..201).map(|n| json!({"id": format!("d{n}")})).collect();
    let errors = stub.client.create_devices(&devices).await.unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["deviceId"], "d200");
    assert_eq!(stub.asked().len(), 3);

    let stub = Stub::serving(|_| refusal(413, "TooManyDevices", "ErrorCode:TooManyDevices;101")).await;
    assert!(stub.client.create_devices(&devices).await.is_err());
}

#[tokio::test]
async fn jobs_are_created_read_listed_and_cancelled() {
    let stub = Stub::serving(|asked| match asked.path.split('?').next() {
        Some("/jobs/v2/nope") => ok(json!({"jobId":"nope","type":"unknown","status":"unknown"})),
        Some("/jobs/v2/query" | "/devices/query") => ok(json!([{"jobId":"j"}])),
        _ => ok(json!({"jobId":"j","type":"scheduleDeviceMethod","status":"queued"})),
    })
    .await;
    let id = JobId::parse("j").unwrap();
    let request = job("j", "*");
    assert_eq!(
        stub.client.create_job(&request).await.unwrap()["status"],
        "queued"
    );
    assert_eq!(stub.last().body, request.to_json());
    assert!(stub.client.job(&id).await.unwrap().is_some());
    assert_eq!(
        stub.client.job(&JobId::parse("nope").unwrap()).await.unwrap(),
        None
    );
    stub.client.cancel_job(&id).await.unwrap();
    assert_eq!(
        (stub.last().method, stub.last().path.as_str()),
        (HttpMethod::POST, "/jobs/v2/j/cancel?api-version=2021-04-12")
    );
    let page = stub.client.jobs_page(None, Some("running"), None).await.unwrap();
    assert_eq!((page.rows.len(), page.continuation), (1, None));
    assert_eq!(
        stub.last().path,
        "/jobs/v2/query?jobStatus=running&api-version=2021-04-12"
    );
    stub.client.jobs_page(None, None, None).await.unwrap();
    assert_eq!(stub.last().path, "/jobs/v2/query?api-version=2021-04-12");
    stub.client.job_records(&id, Some("failed")).await.unwrap();
    assert_eq!(
        stub.last().body["query"],
        "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'j' AND devices.jobs.status = 'failed'"
    );
}

#[tokio::test]
async fn a_throttled_call_is_repeated() {
    let tries = Mutex::new(0);
    let stub = Stub::serving(move |_| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        match *tries {
            1 => refusal(
                429,
                "ThrottlingException",
                "ErrorCode:ThrottlingException;slow down",
            ),
            2 => ok(json!([])),
            _ => refusal(
                429,
                "ThrottlingMaxActiveJobCountExceeded",
                "ErrorCode:ThrottlingMaxActiveJobCountExceeded;10",
            ),
        }
    })
    .await;
    assert!(stub.client.query("SELECT * FROM devices").await.is_ok());
    assert_eq!(stub.asked().len(), 2);
    // Waiting does not help against a cap.
    assert!(stub.client.create_job(&job("j", "*")).await.is_err());
    assert_eq!(stub.asked().len(), 3);
}

#[tokio::test]
async fn an_engine_runs_a_job_over_any_hub() {
    let stub = Stub::serving(|asked| match asked.path.split('?').next().unwrap() {
        "/devices/query" => ok(json!([{"deviceId":"d1"}, {"deviceId":"d2"}])),
        "/twins/d1/methods" => ok(json!({"status":200,"payload":null})),
        _ => refusal(404, "DeviceNotOnline", "ErrorCode:DeviceNotOnline;offline"),
    })
    .await;
    let fleet = RestFleet::new(Arc::new(stub.client));
    let engine = JobEngine::new(Arc::new(fleet), Clock::system(), EngineSettings::default());
    engine.create(job("j", "*")).unwrap();
    let mut progress = engine.watch(&JobId::parse("j").unwrap()).unwrap();
    let wait = progress.wait_for(|p| p.status.is_final());
    let end = *tokio::time::timeout(std::time::Duration::from_secs(20), wait)
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(end.status, JobStatus::Completed);
    assert_eq!(
        (end.statistics.succeeded_count, end.statistics.failed_count),
        (1, 1)
    );
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_an_error_with_a_cause() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options = ClientOptions {
        endpoint: Some(endpoint),
        ca_pem: None,
    };
    let client = ServiceClient::new(&connection_string(), &options).unwrap();
    let error = client.query("SELECT * FROM devices").await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(_)), "{error:?}");
    let error = error.into_service_error();
    assert_eq!(error.code, ErrorCode::ServiceUnavailable);
    assert!(
        error.message.starts_with("the hub cannot be reached: "),
        "{}",
        error.message
    );
}

#[test]
fn a_client_needs_a_service_connection_string_and_sound_options() {
    let plain = ClientOptions {
        endpoint: Some("http://localhost:8080".into()),
        ca_pem: None,
    };
    let device_string = format!("HostName=h;DeviceId=d;SharedAccessKey={KEY}");
    assert!(matches!(
        ServiceClient::new(&device_string, &plain),
        Err(ClientError::NotForServices)
    ));
    assert!(matches!(
        ServiceClient::new("x", &plain),
        Err(ClientError::ConnectionString(_))
    ));
    for endpoint in ["", "localhost:8080", "ftp://h", "http://"] {
        let options = ClientOptions {
            endpoint: Some(endpoint.into()),
            ca_pem: None,
        };
        let result = ServiceClient::new(&connection_string(), &options);
        assert!(
            matches!(result, Err(ClientError::Endpoint { .. })),
            "{endpoint:?}"
        );
    }
    for pem in ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        let options = ClientOptions {
            endpoint: None,
            ca_pem: Some(pem.into()),
        };
        assert!(matches!(
            ServiceClient::new(&connection_string(), &options),
            Err(ClientError::CaFile)
        ));
    }
    let debug = format!("{:?}", ServiceClient::new(&connection_string(), &plain).unwrap());
    assert!(!debug.contains(KEY), "{debug}");
}
