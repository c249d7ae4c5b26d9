//! A storage client of one hub: raw requests of blobs, with whatever token.

use emulator::Hub;
use serde_json::json;

use super::rest::{Reply, Rest};

/// Makes a container; gives its address's path and token, `/{name}` and `?…`.
pub async fn container(rest: &Rest, name: &str) -> (String, String) {
    let uri = container_uri(rest, name).await;
    let path = uri.strip_prefix("https://localhost").unwrap();
    let (path, sas) = path.split_once('?').unwrap();
    assert_eq!(path, format!("/{name}"));
    (path.to_owned(), format!("?{sas}"))
}

pub async fn container_uri(rest: &Rest, name: &str) -> String {
    let made = rest
        .exactly("PUT", &format!("/_emulator/containers/{name}"))
        .send()
        .await
        .ok();
    made["containerUri"].as_str().unwrap().to_owned()
}

/// A place for a file of the device `d`: its correlation id and the path and
/// query of its address.
pub async fn upload(hub: &Hub, name: &str) -> (String, String) {
    let granted = Rest::of(hub)
        .post("/devices/d/files", &json!({ "blobName": name }))
        .await
        .ok();
    let text = |name: &str| granted[name].as_str().unwrap().to_owned();
    assert_eq!(text("hostName"), "localhost");
    let path = format!("/{}/{}", text("containerName"), text("blobName"));
    (text("correlationId"), path + &text("sasToken"))
}

/// Asks to write a whole blob.
pub async fn put(rest: &Rest, path: &str, content: impl Into<Vec<u8>>) -> Reply {
    rest.exactly("PUT", path)
        .header("x-ms-blob-type", "BlockBlob")
        .body(content)
        .send()
        .await
}

/// Writes a whole blob, which must succeed.
pub async fn write(rest: &Rest, path: &str, content: impl Into<Vec<u8>>) {
    let reply = put(rest, path, content).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
}

pub async fn get(rest: &Rest, path: &str) -> Reply {
    rest.exactly("GET", path).send().await
}

/// The error code of a refusal in the storage service's form.
#[track_caller]
pub fn refused(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/xml"));
    let code = reply.header("x-ms-error-code").unwrap();
    let body = format!("<Error><Code>{code}</Code><Message>");
    assert!(reply.text().contains(&body), "{}", reply.text());
    code.to_owned()
}
