//! Import and export jobs over the hub's own blob storage.

use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::rest::{Rest, start};
use crate::support::storage::{container, container_uri, get, write};
use crate::support::wait_for;

/// Starts a job and waits for its end.
async fn run(rest: &Rest, job: &Value) -> Value {
    let created = rest.post("/jobs/create", job).await.ok();
    assert!(["enqueued", "running", "completed"].contains(&created["status"].as_str().unwrap()));
    let path = format!("/jobs/{}", created["jobId"].as_str().unwrap());
    wait_for("the end of the job", async || {
        let job = rest.get(&path).await.ok();
        match job["status"].as_str() {
            Some("enqueued" | "running") => Err(job),
            _ => Ok(job),
        }
    })
    .await
}

async fn text(rest: &Rest, blob: &str) -> String {
    let (files, sas) = container(rest, "files").await;
    let reply = get(rest, &format!("{files}/{blob}{sas}")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().to_owned()
}

async fn lines(rest: &Rest, blob: &str) -> Vec<Value> {
    let text = text(rest, blob).await;
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn write_input(rest: &Rest, blob: &str, text: String) {
    let (files, sas) = container(rest, "files").await;
    write(rest, &format!("{files}/{blob}{sas}"), text).await;
}

#[tokio::test]
async fn an_exported_registry_can_be_imported_again() {
    let (hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    let mut devices: Vec<Value> = (0..150)
        .map(|n| json!({"id": format!("d{n:03}"), "importMode": "create", "tags": {"n": n}}))
        .collect();
    devices[7]["status"] = "disabled".into();
    devices[7]["statusReason"] = "broken".into();
    devices[8]["properties"] = json!({"desired": {"x": {"y": 1}}});
    devices[9]["capabilities"] = json!({"iotEdge": true});
    for some in devices.chunks(100) {
        rest.post("/devices", &json!(some)).await.ok();
    }
    rest.put("/devices/d005/modules/m", &json!({"managedBy": "me"}))
        .await
        .ok();
    let key = rest.get("/devices/d008").await.ok()["authentication"].clone();

    let job = run(&rest, &json!({"type": "export", "outputBlobContainerUri": uri})).await;
    assert_eq!(job["status"], "completed", "{job}");
    assert_eq!(job["progress"], 100);
    assert_eq!(job["outputBlobName"], "devices.txt");
    assert_eq!(job["failureReason"], Value::Null);
    assert!(job.get("outputBlobContainerUri").is_none());
    let exported = lines(&rest, "devices.txt").await;
    assert_eq!(exported.len(), 151);
    assert_eq!(exported[6]["moduleId"], "m");
    assert_eq!(exported[9]["properties"]["desired"]["x"], json!({"y": 1}));

    hub.reset();
    let import = json!({"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri});
    let job = run(&rest, &import).await;
    assert_eq!(
        (&job["status"], &job["type"]),
        (&json!("completed"), &json!("import")),
        "{job}"
    );
    assert_eq!(text(&rest, "importErrors.log").await, "");
    assert_eq!(
        rest.get("/statistics/devices").await.ok()["totalDeviceCount"],
        150
    );
    assert_eq!(rest.get("/devices/d008").await.ok()["authentication"], key);
    let disabled = rest.get("/devices/d007").await.ok();
    assert_eq!(
        (&disabled["status"], &disabled["statusReason"]),
        (&json!("disabled"), &json!("broken"))
    );
    let twin = rest.get("/twins/d008").await.ok();
    assert_eq!(twin["properties"]["desired"]["x"], json!({"y": 1}));
    assert_eq!(twin["tags"], json!({"n": 8}));
    assert_eq!(rest.get("/devices/d005/modules/m").await.ok()["managedBy"], "me");
    assert_eq!(
        rest.get("/devices/d009/modules")
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // Again: everything exists and is updated.
    assert_eq!(run(&rest, &import).await["status"], "completed");
    assert_eq!(text(&rest, "importErrors.log").await, "");
}

#[tokio::test]
async fn keys_are_left_out_on_request() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    let key = rest.create("d").await["authentication"]["symmetricKey"]["primaryKey"].clone();
    let job = json!({
        "type": "export", "outputBlobContainerUri": uri, "excludeKeysInExport": true, "outputBlobName": "a/b.txt",
    });
    let job = run(&rest, &job).await;
    assert_eq!(job["excludeKeysInExport"], true);
    let exported = text(&rest, "a/b.txt").await;
    let (notice, line) = exported.split_once('\n').unwrap();
    assert!(!notice.starts_with('{'));
    assert!(!exported.contains(key.as_str().unwrap()));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        line["authentication"]["symmetricKey"],
        json!({"primaryKey": null, "secondaryKey": null})
    );
    // An import of it makes new keys.
    let import = json!({
        "type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri, "inputBlobName": "a/b.txt",
    });
    assert_eq!(run(&rest, &import).await["status"], "completed");
    assert_eq!(text(&rest, "importErrors.log").await, "");
    let now = rest.get("/devices/d").await.ok()["authentication"]["symmetricKey"]["primaryKey"].clone();
    assert!(now.is_string() && now != key);
}

#[tokio::test]
async fn failed_lines_are_logged_and_the_others_stay_done() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    for id in ["old", "gone", "twin", "taken"] {
        rest.create(id).await;
    }
    let input = [
        json!({"id": "new", "status": "enabled", "tags": {"a": 1}}).to_string(),
        "nonsense".into(),
        String::new(),
        json!({"id": "taken", "status": "enabled", "importMode": "create"}).to_string(),
        json!({"id": "gone", "importMode": "delete"}).to_string(),
        json!({"id": "no-status"}).to_string(),
        json!({"id": "old", "status": "disabled", "tags": {"b": 2}}).to_string(),
        json!({"id": "twin", "importMode": "updateTwin", "tags": {"c": 3}}).to_string(),
        json!({"id": "old", "status": "enabled", "importMode": "createOrUpdateIfMatchETag", "eTag": "no"})
            .to_string(),
        "[".repeat(5000),
    ];
    write_input(&rest, "in.txt", input.join("\r\n")).await;
    let job = json!({
        "type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri, "inputBlobName": "in.txt",
    });
    let job = run(&rest, &job).await;
    assert_eq!(
        (&job["status"], &job["failureReason"]),
        (&json!("completed"), &Value::Null)
    );
    let errors: Vec<_> = lines(&rest, "importErrors.log")
        .await
        .iter()
        .map(|e| {
            (
                e["deviceId"].as_str().unwrap().to_owned(),
                e["errorCode"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("", "ArgumentInvalid"),
        ("taken", "DeviceAlreadyExists"),
        ("no-status", "ArgumentNull"),
        ("old", "PreconditionFailed"),
        ("", "ArgumentInvalid"),
    ];
    assert_eq!(
        errors,
        expected.map(|(id, code)| (id.to_owned(), code.to_owned()))
    );
    assert_eq!(rest.get("/twins/new").await.ok()["tags"], json!({"a": 1}));
    assert_eq!(rest.get("/twins/old").await.ok()["tags"], json!({"b": 2}));
    assert_eq!(rest.get("/devices/old").await.ok()["status"], "disabled");
    assert_eq!(rest.get("/twins/twin").await.ok()["tags"], json!({"c": 3}));
    rest.get("/devices/gone").await.refused(ErrorCode::DeviceNotFound);
}

#[tokio::test]
async fn a_byte_order_mark_hides_no_device() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    let line = json!({"id": "first", "status": "enabled"});
    write_input(&rest, "devices.txt", format!("\u{feff}{line}\r\n")).await;
    let job = json!({"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri});
    assert_eq!(run(&rest, &job).await["status"], "completed");
    assert_eq!(text(&rest, "importErrors.log").await, "");
    rest.get("/devices/first").await.ok();
}

#[tokio::test]
async fn an_import_without_its_input_fails_and_says_why() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    let job = run(
        &rest,
        &json!({"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri}),
    )
    .await;
    assert_eq!(job["status"], "failed");
    assert_eq!(job["failureReason"], "there is no blob devices.txt");
    assert!(job["endTimeUtc"].is_string());
}

#[tokio::test]
async fn jobs_are_listed_and_cancelled() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    assert_eq!(rest.get("/jobs").await.ok(), json!([]));
    let first = run(&rest, &json!({"type": "export", "outputBlobContainerUri": uri})).await;
    let second = run(&rest, &json!({"type": "export", "outputBlobContainerUri": uri})).await;
    assert_eq!(rest.get("/jobs/").await.ok(), json!([second, first]));
    // A job that has ended stays as it is.
    let path = format!("/jobs/{}", first["jobId"].as_str().unwrap());
    rest.delete(&path).await.no_content();
    assert_eq!(rest.get(&path).await.ok(), first);
    for method in ["GET", "DELETE"] {
        rest.call(method, "/jobs/unknown")
            .send()
            .await
            .refused(ErrorCode::JobNotFound);
    }
}

/// An import that is under way, of which there can be only one.
#[tokio::test]
async fn one_job_is_active_at_a_time() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    let many: String = (0..30_000)
        .map(|n| format!("{{\"id\":\"d{}\",\"status\":\"enabled\"}}\n", n % 50))
        .collect();
    write_input(&rest, "devices.txt", many).await;
    let import = json!({"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri});
    let export = json!({"type": "export", "outputBlobContainerUri": uri});
    let created = rest.post("/jobs/create", &import).await.ok();
    rest.post("/jobs/create", &export)
        .await
        .refused(ErrorCode::JobQuotaExceeded);
    let path = format!("/jobs/{}", created["jobId"].as_str().unwrap());
    rest.delete(&path).await.no_content();
    assert_eq!(rest.get(&path).await.ok()["status"], "cancelled");
    // Which leaves no log, and room for another job.
    let (files, sas) = container(&rest, "files").await;
    assert_eq!(
        get(&rest, &format!("{files}/importErrors.log{sas}")).await.status,
        404
    );
    assert_eq!(run(&rest, &export).await["status"], "completed");
    assert_eq!(rest.get(&path).await.ok()["status"], "cancelled");
}

#[tokio::test]
async fn containers_must_be_the_hubs_own_and_open() {
    let (_hub, rest) = start().await;
    let uri = container_uri(&rest, "files").await;
    let other = container_uri(&rest, "other").await;
    let (_, sas_of_other) = other.split_once('?').unwrap();
    for bad in [
        "https://acct.blob.core.windows.net/files?sv=1".to_owned(),
        "file:///tmp".to_owned(),
        "https://localhost/missing".to_owned(),
        "https://localhost/files/sub".to_owned(),
        format!("https://localhost/files?{sas_of_other}"),
        uri.replace("sp=rwdl", "sp=rwdlx"),
        "nonsense".to_owned(),
    ] {
        for job in [
            json!({"type": "export", "outputBlobContainerUri": bad}),
            json!({"type": "import", "inputBlobContainerUri": bad, "outputBlobContainerUri": uri}),
        ] {
            rest.post("/jobs/create", &job)
                .await
                .refused(ErrorCode::BlobContainerValidationError);
        }
    }
    for (job, code) in [
        (json!({}), ErrorCode::ArgumentInvalid),
        (json!([]), ErrorCode::ArgumentInvalid),
        (
            json!({"type": "move", "outputBlobContainerUri": uri}),
            ErrorCode::ArgumentInvalid,
        ),
        (json!({"type": "export"}), ErrorCode::ArgumentNull),
        (
            json!({"type": "import", "outputBlobContainerUri": uri}),
            ErrorCode::ArgumentNull,
        ),
        (
            json!({"type": "export", "outputBlobContainerUri": uri, "excludeKeysInExport": "yes"}),
            ErrorCode::ArgumentInvalid,
        ),
    ] {
        rest.post("/jobs/create", &job).await.refused(code);
    }
    // Without a token: the caller may write the whole registry anyway.
    let plain = json!({"type": "export", "outputBlobContainerUri": "https://127.0.0.1:8443/files"});
    assert_eq!(run(&rest, &plain).await["status"], "completed");
}
