//! Files that a device uploads: the uploads in flight and what is told of the
//! finished ones.
//!
//! A device asks for a place ([`Uploads::start`]), writes its file there with
//! a storage client, and notifies the hub ([`Completion`]), which frees the
//! slot ([`Uploads::finish`]). Source: the developer guide's page on file
//! uploads. Places, tokens and files belong to the hub.

use serde::Serialize;
use serde_json::Value;

use crate::blob::BlobName;
use crate::error::{ErrorCode, ServiceError};
use crate::ids::DeviceId;
use crate::limits;
use crate::registry::body;
use crate::time::Timestamp;

/// An upload that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Names the upload in the device's notification.
    pub correlation_id: Box<str>,
    /// Where the file goes, the device's id included.
    pub blob: BlobName,
    /// What the device reached the hub by, for the address of the blob.
    pub host: Box<str>,
    /// When its token ends, and with it the upload.
    pub expires: Timestamp,
}

/// The uploads of one device that were not finished: those in flight, and the
/// latest that expired, so that a late notification can be told so.
#[derive(Debug, Clone, Default)]
pub struct Uploads {
    /// In the order in which they began.
    known: Vec<Upload>,
}

impl Uploads {
    /// Takes a slot.
    ///
    /// # Errors
    /// `DeviceMaximumActiveFileUploadLimitExceeded` when
    /// [`limits::UPLOADS_IN_FLIGHT`] are taken.
    pub fn start(&mut self, upload: Upload, now: Timestamp) -> Result<(), ServiceError> {
        let active = self.known.iter().filter(|upload| upload.expires > now).count();
        if active >= limits::UPLOADS_IN_FLIGHT {
            return Err(ServiceError::new(
                ErrorCode::DeviceMaximumActiveFileUploadLimitExceeded,
                format!(
                    "Number of active file upload requests cannot exceed {}",
                    limits::UPLOADS_IN_FLIGHT
                ),
            ));
        }
        if self.known.len() >= 2 * limits::UPLOADS_IN_FLIGHT
            && let Some(oldest) = self.known.iter().position(|upload| upload.expires <= now)
        {
            self.known.remove(oldest);
        }
        self.known.push(upload);
        Ok(())
    }

    /// The upload in flight that `correlation_id` names.
    ///
    /// # Errors
    /// `InvalidFileUploadCorrelationId`, `ExpiredFileUploadCorrelationId`.
    pub fn find(&self, correlation_id: &str, now: Timestamp) -> Result<&Upload, ServiceError> {
        let upload = self
            .known
            .iter()
            .find(|upload| &*upload.correlation_id == correlation_id)
            .ok_or_else(unknown_upload)?;
        if upload.expires <= now {
            return Err(ServiceError::new(
                ErrorCode::ExpiredFileUploadCorrelationId,
                "the file upload has expired",
            ));
        }
        Ok(upload)
    }

    /// Frees the slot of an upload in flight.
    ///
    /// # Errors
    /// As [`Uploads::find`].
    pub fn finish(&mut self, correlation_id: &str, now: Timestamp) -> Result<(), ServiceError> {
        self.find(correlation_id, now)?;
        self.known
            .retain(|upload| &*upload.correlation_id != correlation_id);
        Ok(())
    }
}

fn unknown_upload() -> ServiceError {
    ServiceError::new(
        ErrorCode::InvalidFileUploadCorrelationId,
        "the correlation id names no file upload of this device",
    )
}

/// Reads `{"blobName":"…"}`, the request for a place, into the name of the
/// blob: the device's id, a slash and the name asked for.
///
/// # Errors
/// `ArgumentNull` without a `blobName`, `ArgumentInvalid` for one that a blob
/// cannot have or a body that is no object.
pub fn requested_blob(body: &Value, device: &DeviceId) -> Result<BlobName, ServiceError> {
    let body = body::object(body, "the request")?;
    let name = body::non_empty_str(body, "blobName")?
        .ok_or_else(|| ServiceError::new(ErrorCode::ArgumentNull, "blobName is required"))?;
    BlobName::parse(&format!("{device}/{name}")).map_err(|e| ServiceError::invalid(format!("blobName: {e}")))
}

/// A device's word on how its upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Which upload.
    pub correlation_id: Box<str>,
    /// Whether the file is there.
    pub is_success: bool,
}

impl Completion {
    /// Reads `{"correlationId","isSuccess","statusCode","statusDescription"}`.
    /// Older clients give the correlation id in the path instead.
    ///
    /// # Errors
    /// `InvalidFileUploadCorrelationId` when no correlation id is given,
    /// `InvalidFileUploadCompletionStatus` when the rest is not what it should be.
    pub fn from_json(body: &Value, in_path: Option<&str>) -> Result<Self, ServiceError> {
        let bad_status = |text: &str| ServiceError::new(ErrorCode::InvalidFileUploadCompletionStatus, text);
        let Value::Object(body) = body else {
            return Err(bad_status("the notification must be a JSON object"));
        };
        let correlation_id = in_path
            .or_else(|| body.get("correlationId").and_then(Value::as_str))
            .ok_or_else(unknown_upload)?;
        let Some(Value::Bool(is_success)) = body.get("isSuccess") else {
            return Err(bad_status("isSuccess must be true or false"));
        };
        match body.get("statusCode") {
            None | Some(Value::Null) => {}
            Some(Value::Number(code)) if code.as_i64().is_some_and(|code| i32::try_from(code).is_ok()) => {}
            Some(_) => return Err(bad_status("statusCode must be an integer")),
        }
        match body.get("statusDescription") {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(_) => return Err(bad_status("statusDescription must be a string")),
        }
        Ok(Self {
            correlation_id: correlation_id.into(),
            is_success: *is_success,
        })
    }
}

/// What back ends are told of a file that has arrived; serializes as the body
/// of the service's notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileNotification {
    /// Position in all file notifications since the hub started or was reset,
    /// from 1; not part of the service's body.
    #[serde(skip)]
    pub sequence: u64,
    /// The device that uploaded.
    pub device_id: DeviceId,
    /// Address of the blob, without a token.
    pub blob_uri: String,
    /// Name of the blob, the device's id included.
    pub blob_name: String,
    /// When the file was written, to the second.
    #[serde(serialize_with = "with_offset")]
    pub last_updated_time: Timestamp,
    /// Bytes of the file.
    pub blob_size_in_bytes: u64,
    /// When the hub accepted the device's word.
    pub enqueued_time_utc: Timestamp,
}

/// The one time that the service writes with a numeric offset.
fn with_offset<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let text = Timestamp::from_unix_seconds(time.unix_seconds()).to_string();
    serializer.collect_str(&format_args!("{}+00:00", text.trim_end_matches('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn upload(id: usize, expires: i64) -> Upload {
        Upload {
            correlation_id: id.to_string().into(),
            blob: BlobName::parse("d/x").unwrap(),
            host: "localhost".into(),
            expires: at(expires),
        }
    }

    #[test]
    fn a_slot_is_held_until_the_notification_or_the_expiry() {
        let mut uploads = Uploads::default();
        for id in 0..limits::UPLOADS_IN_FLIGHT {
            uploads.start(upload(id, 100), at(0)).unwrap();
        }
        let error = uploads.start(upload(99, 100), at(99)).unwrap_err();
        assert_eq!(error.code, ErrorCode::DeviceMaximumActiveFileUploadLimitExceeded);
        uploads.finish("3", at(99)).unwrap();
        assert_eq!(
            uploads.finish("3", at(99)).unwrap_err().code,
            ErrorCode::InvalidFileUploadCorrelationId
        );
        uploads.start(upload(99, 200), at(99)).unwrap();
        assert!(uploads.start(upload(100, 200), at(99)).is_err());
        assert_eq!(
            uploads.finish("4", at(100)).unwrap_err().code,
            ErrorCode::ExpiredFileUploadCorrelationId
        );
        uploads.start(upload(100, 200), at(100)).unwrap();
    }

    #[test]
    fn expired_uploads_do_not_pile_up() {
        let mut uploads = Uploads::default();
        let mut now = at(0);
        for id in 0..1000 {
            let mut next = upload(id, 0);
            next.expires = now.saturating_add(Duration::from_secs(1));
            uploads.start(next, now).unwrap();
            now = now.saturating_add(Duration::from_secs(1));
            assert!(uploads.known.len() <= 2 * limits::UPLOADS_IN_FLIGHT);
        }
        assert_eq!(
            uploads.find("999", now).unwrap_err().code,
            ErrorCode::ExpiredFileUploadCorrelationId
        );
        assert_eq!(
            uploads.find("1", now).unwrap_err().code,
            ErrorCode::InvalidFileUploadCorrelationId
        );
    }

    #[test]
    fn a_blob_is_below_its_device() {
        let device = DeviceId::parse("d").unwrap();
        let name = |body: Value| requested_blob(&body, &device).map_err(|e| e.code);
        assert_eq!(name(json!({"blobName": "a/b"})).unwrap().as_str(), "d/a/b");
        for body in [json!({}), json!({"blobName": null}), json!({"blobName": ""})] {
            assert_eq!(name(body), Err(ErrorCode::ArgumentNull));
        }
        for bad in [json!(1), json!("a\0"), json!("x".repeat(2000)), json!(["a"])] {
            assert_eq!(name(json!({"blobName": bad})), Err(ErrorCode::ArgumentInvalid));
        }
        assert_eq!(name(json!([])), Err(ErrorCode::ArgumentInvalid));
    }

    #[test]
    fn completions_are_read_in_both_forms() {
        let read = |body: Value, path| Completion::from_json(&body, path).map_err(|e| e.code);
        let full =
            json!({"correlationId": "c", "isSuccess": true, "statusCode": 200, "statusDescription": "ok"});
        assert_eq!(
            read(full.clone(), None),
            Ok(Completion {
                correlation_id: "c".into(),
                is_success: true
            })
        );
        assert_eq!(&*read(full, Some("p")).unwrap().correlation_id, "p");
        assert!(!read(json!({"isSuccess": false}), Some("p")).unwrap().is_success);
        assert_eq!(
            read(json!({"isSuccess": true}), None),
            Err(ErrorCode::InvalidFileUploadCorrelationId)
        );
        for bad in [
            json!([]),
            json!({}),
            json!({"isSuccess": "true"}),
            json!({"isSuccess": true, "statusCode": "200"}),
            json!({"isSuccess": true, "statusCode": 1e300}),
            json!({"isSuccess": true, "statusCode": 1, "statusDescription": {}}),
        ] {
            assert_eq!(
                read(bad.clone(), Some("p")),
                Err(ErrorCode::InvalidFileUploadCompletionStatus),
                "{bad}"
            );
        }
    }

    #[test]
    fn notifications_are_written_as_the_service_does() {
        let notification = FileNotification {
            sequence: 7,
            device_id: DeviceId::parse("dev1").unwrap(),
            blob_uri: "https://localhost/device-uploads/dev1/myfile.txt".into(),
            blob_name: "dev1/myfile.txt".into(),
            last_updated_time: Timestamp::parse("2016-06-01T21:22:41.5Z").unwrap(),
            blob_size_in_bytes: 1234,
            enqueued_time_utc: Timestamp::parse("2016-06-01T21:22:43.7996883Z").unwrap(),
        };
        assert_eq!(
            serde_json::to_string(&notification).unwrap(),
            r#"{"deviceId":"dev1","blobUri":"https://localhost/device-uploads/dev1/myfile.txt","blobName":"dev1/myfile.txt","lastUpdatedTime":"2016-06-01T21:22:41+00:00","blobSizeInBytes":1234,"enqueuedTimeUtc":"2016-06-01T21:22:43.7996883Z"}"#
        );
    }
}
