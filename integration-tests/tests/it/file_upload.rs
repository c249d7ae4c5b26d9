//! File uploads of devices: a place, the file, the notification.

use std::time::Duration;

use emulator::Hub;
use hub_core::error::ErrorCode;
use serde_json::{Value, json};

use crate::support::rest::{Rest, start};
use crate::support::storage::{get, upload, write};

const FILES: &str = "/devices/d/files";
const NOTIFICATIONS: &str = "/devices/d/files/notifications";

async fn hub() -> (Hub, Rest) {
    let (hub, rest) = start().await;
    rest.create("d").await;
    (hub, rest)
}

fn done(id: &str) -> Value {
    json!({"correlationId": id, "isSuccess": true, "statusCode": 200, "statusDescription": "ok"})
}

#[tokio::test]
async fn a_file_arrives_and_back_ends_are_notified() {
    let (hub, rest) = hub().await;
    let (id, path) = upload(&hub, "logs/today.txt").await;
    assert!(path.starts_with("/device-uploads/d/logs/today.txt?sv="), "{path}");
    write(&rest, &path, "some text").await;
    rest.post(NOTIFICATIONS, &done(&id)).await.no_content();

    let notifications = hub.file_notifications_after(0);
    let [notification] = &notifications[..] else {
        panic!("{notifications:?}");
    };
    assert_eq!(notification.device_id.as_str(), "d");
    assert_eq!(notification.blob_name, "d/logs/today.txt");
    assert_eq!(
        notification.blob_uri,
        "https://localhost/device-uploads/d/logs/today.txt"
    );
    assert_eq!(notification.blob_size_in_bytes, 9);
    assert!(notification.enqueued_time_utc >= notification.last_updated_time);
    let shown = rest
        .exactly("GET", "/_emulator/file-notifications")
        .send()
        .await
        .ok();
    assert_eq!(shown["notifications"][0]["sequence"], 1);
    assert_eq!(shown["notifications"][0]["blobSizeInBytes"], 9);
    assert_eq!(shown["notifications"][0]["deviceId"], "d");
    let later = rest
        .exactly("GET", "/_emulator/file-notifications?after=1")
        .send()
        .await
        .ok();
    assert_eq!(later["notifications"], json!([]));
    rest.exactly("GET", "/_emulator/file-notifications?after=x")
        .send()
        .await
        .refused(ErrorCode::ArgumentInvalid);

    // The older form has the id in the path.
    let (id, path) = upload(&hub, "second").await;
    write(&rest, &path, "").await;
    rest.post(
        &format!("{NOTIFICATIONS}/{id}"),
        &json!({"isSuccess": true, "statusCode": 201, "statusDescription": "created"}),
    )
    .await
    .no_content();
    assert_eq!(hub.file_notifications_after(1)[0].blob_size_in_bytes, 0);
    assert_eq!(get(&rest, &path).await.status, 200);
    hub.reset();
    assert_eq!(hub.file_notifications_after(0), []);
}

#[tokio::test]
async fn a_failed_upload_frees_its_slot_and_tells_nobody() {
    let (hub, rest) = hub().await;
    let (id, _) = upload(&hub, "x").await;
    let failed =
        json!({"correlationId": id, "isSuccess": false, "statusCode": 500, "statusDescription": "no"});
    rest.post(NOTIFICATIONS, &failed).await.no_content();
    rest.post(NOTIFICATIONS, &failed)
        .await
        .refused(ErrorCode::InvalidFileUploadCorrelationId);
    assert_eq!(hub.file_notifications_after(0), []);
}

#[tokio::test]
async fn ten_uploads_may_be_in_flight() {
    let (hub, rest) = hub().await;
    let mut uploads = Vec::new();
    for n in 0..10 {
        uploads.push(upload(&hub, &n.to_string()).await.0);
    }
    let one_more = async || rest.post(FILES, &json!({"blobName": "x"})).await;
    let text = one_more()
        .await
        .refused(ErrorCode::DeviceMaximumActiveFileUploadLimitExceeded);
    assert_eq!(text, "Number of active file upload requests cannot exceed 10");
    // Another device has slots of its own.
    rest.create("e").await;
    rest.post("/devices/e/files", &json!({"blobName": "x"}))
        .await
        .ok();
    let failed = json!({"correlationId": uploads[3], "isSuccess": false});
    rest.post(NOTIFICATIONS, &failed).await.no_content();
    one_more().await.ok();
    one_more()
        .await
        .refused(ErrorCode::DeviceMaximumActiveFileUploadLimitExceeded);
    // Slots that nobody frees come back when the tokens expire.
    hub.advance_clock(Duration::from_secs(3600));
    rest.post(NOTIFICATIONS, &done(&uploads[0]))
        .await
        .refused(ErrorCode::ExpiredFileUploadCorrelationId);
    for _ in 0..10 {
        one_more().await.ok();
    }
}

#[tokio::test]
async fn notifications_that_are_not_true_or_not_readable_are_refused() {
    let (hub, rest) = hub().await;
    let (id, _) = upload(&hub, "x").await;
    // Nothing was written.
    rest.post(NOTIFICATIONS, &done(&id))
        .await
        .refused(ErrorCode::InvalidStorageEndpointOrBlob);
    for (body, code) in [
        (done("other"), ErrorCode::InvalidFileUploadCorrelationId),
        (
            json!({"isSuccess": true}),
            ErrorCode::InvalidFileUploadCorrelationId,
        ),
        (
            json!({"correlationId": id}),
            ErrorCode::InvalidFileUploadCompletionStatus,
        ),
        (
            json!({"correlationId": id, "isSuccess": "yes"}),
            ErrorCode::InvalidFileUploadCompletionStatus,
        ),
        (
            json!({"correlationId": id, "isSuccess": true, "statusCode": "200"}),
            ErrorCode::InvalidFileUploadCompletionStatus,
        ),
        (json!([]), ErrorCode::InvalidFileUploadCompletionStatus),
    ] {
        rest.post(NOTIFICATIONS, &body).await.refused(code);
    }
    rest.call("POST", NOTIFICATIONS)
        .send()
        .await
        .refused(ErrorCode::ArgumentNull);
    // Of another device.
    rest.create("e").await;
    rest.post("/devices/e/files/notifications", &done(&id))
        .await
        .refused(ErrorCode::InvalidFileUploadCorrelationId);
    // None of this has freed the slot.
    let failed = json!({"correlationId": id, "isSuccess": false});
    rest.post(NOTIFICATIONS, &failed).await.no_content();
}

#[tokio::test]
async fn requests_without_a_usable_name_are_refused() {
    let (hub, rest) = hub().await;
    for (body, code) in [
        (json!({}), ErrorCode::ArgumentNull),
        (json!([]), ErrorCode::ArgumentInvalid),
        (json!({"blobName": ""}), ErrorCode::ArgumentNull),
        (json!({"blobName": 1}), ErrorCode::ArgumentInvalid),
        (json!({"blobName": "a\u{0}"}), ErrorCode::ArgumentInvalid),
        (json!({"blobName": "x".repeat(2000)}), ErrorCode::ArgumentInvalid),
    ] {
        rest.post(FILES, &body).await.refused(code);
    }
    rest.post("/devices/unknown/files", &json!({"blobName": "x"}))
        .await
        .refused(ErrorCode::IotHubUnauthorizedAccess);
    rest.get(FILES).await.refused(ErrorCode::GenericMethodNotAllowed);
    // A name that tries to leave its device stays a name.
    let (_, path) = upload(&hub, "../../e/x").await;
    write(&rest, &path, "x").await;
}

#[tokio::test]
async fn deleting_a_device_ends_its_uploads() {
    let (hub, rest) = hub().await;
    let (id, path) = upload(&hub, "x").await;
    write(&rest, &path, "x").await;
    rest.delete("/devices/d").await.no_content();
    rest.create("d").await;
    rest.post(NOTIFICATIONS, &done(&id))
        .await
        .refused(ErrorCode::InvalidFileUploadCorrelationId);
    assert_eq!(hub.file_notifications_after(0), []);
}
