//! File uploads of devices: places in the hub's own blob storage, and the
//! notifications of files that arrived.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hub_core::blob::{BlobName, ContainerName};
use hub_core::c2d::{FeedbackSettings, HoldQueue, LockToken};
use hub_core::error::{ErrorCode, ServiceError};
use hub_core::file_upload::{Completion, FileNotification, Upload};
use hub_core::ids::DeviceId;
use hub_core::limits;
use hub_core::sas::blob::{BlobResource, sign};

use tokio::sync::Notify;

use super::c2d::{new_token, sleep_until};
use super::{HubState, internal, random_bytes};
use crate::blobs::StoreError;

/// What a device may do with its place: clients also read back what they wrote.
const PERMISSIONS: &str = "rw";

/// Where a device may write its file.
pub(crate) struct UploadGrant {
    pub(crate) upload: Upload,
    pub(crate) container: ContainerName,
    /// Query string of the address, with its leading `?`.
    pub(crate) sas: String,
}

/// The latest notifications of files that arrived, to be looked at, and those
/// that no back end has completed. Oldest go first when there are too many.
pub(crate) struct FileNotifications {
    kept: Mutex<Kept>,
    /// The call to those who wait for a notification.
    news: Notify,
}

struct Kept {
    notifications: VecDeque<FileNotification>,
    total: u64,
    waiting: HoldQueue<FileNotification>,
}

impl FileNotifications {
    pub(crate) fn new(settings: FeedbackSettings) -> Self {
        Self {
            kept: Mutex::new(Kept {
                notifications: VecDeque::new(),
                total: 0,
                waiting: HoldQueue::new(settings, limits::FILE_NOTIFICATIONS),
            }),
            news: Notify::new(),
        }
    }

    fn push(&self, mut notification: FileNotification) {
        let mut kept = self.lock();
        kept.total += 1;
        notification.sequence = kept.total;
        if kept.notifications.len() >= limits::FILE_NOTIFICATIONS {
            kept.notifications.pop_front();
        }
        kept.waiting
            .push(notification.clone(), notification.enqueued_time_utc);
        kept.notifications.push_back(notification);
        drop(kept);
        self.news.notify_waiters();
    }

    /// The kept notifications after position `sequence`, oldest first.
    pub(crate) fn after(&self, sequence: u64) -> Vec<FileNotification> {
        let kept = self.lock();
        let later = kept.notifications.iter().filter(|n| n.sequence > sequence);
        later.cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let mut kept = self.lock();
        kept.notifications.clear();
        kept.total = 0;
        kept.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubState {
    /// Hands out the oldest notification that nobody holds, as soon as there is
    /// one. None is held when the caller stops waiting.
    pub(crate) async fn next_file_notification(&self) -> (LockToken, FileNotification) {
        let files = &self.file_notifications;
        loop {
            // Listening before looking: nothing can come between the two.
            let mut news = pin!(files.news.notified());
            news.as_mut().enable();
            let next = {
                let mut kept = files.lock();
                let token = new_token();
                if let Some((notification, _)) = kept.waiting.take(token, self.clock.now()) {
                    return (token, notification.clone());
                }
                kept.waiting.next_release()
            };
            tokio::select! {
                () = news => {}
                () = sleep_until(self, next) => {}
            }
        }
    }

    /// Ends a notification.
    ///
    /// # Errors
    /// `DeviceMessageLockLost`.
    pub(crate) fn complete_file_notification(&self, token: LockToken) -> Result<(), ServiceError> {
        self.file_notifications
            .lock()
            .waiting
            .complete(token, self.clock.now())
    }

    /// Gives a notification back.
    ///
    /// # Errors
    /// `DeviceMessageLockLost`.
    pub(crate) fn abandon_file_notification(&self, token: LockToken) -> Result<(), ServiceError> {
        let files = &self.file_notifications;
        files.lock().waiting.abandon(token, self.clock.now())?;
        files.news.notify_waiters();
        Ok(())
    }

    /// Grants a device a place for a file. `host` is what the device reaches
    /// the blob storage by.
    ///
    /// # Errors
    /// `DeviceNotFound`, `DeviceMaximumActiveFileUploadLimitExceeded`.
    pub(crate) fn start_upload(
        &self,
        device: &DeviceId,
        blob: BlobName,
        host: &str,
    ) -> Result<UploadGrant, ServiceError> {
        let now = self.clock.now();
        let upload = Upload {
            correlation_id: URL_SAFE_NO_PAD.encode(random_bytes()).into(),
            blob,
            host: host.into(),
            expires: now.saturating_add(self.settings.upload_ttl),
        };
        let cell = self.registry.cell(device)?;
        let mut state = cell.lock();
        state.endpoint(None)?.connection.last_activity = now;
        state.uploads.start(upload.clone(), now)?;
        drop(state);
        let container = ContainerName::uploads();
        let sas = sign(
            BlobResource::Blob(&container, &upload.blob),
            PERMISSIONS,
            upload.expires,
            &self.settings.blob_key,
        );
        Ok(UploadGrant {
            upload,
            container,
            sas,
        })
    }

    /// Takes a device's word that its upload has ended. If it succeeded, back
    /// ends are notified with what is known of the file.
    ///
    /// # Errors
    /// `DeviceNotFound`, `InvalidFileUploadCorrelationId`,
    /// `ExpiredFileUploadCorrelationId`, and `InvalidStorageEndpointOrBlob`
    /// when a file that should be there is not; the slot stays taken then.
    pub(crate) async fn finish_upload(
        &self,
        device: &DeviceId,
        completion: &Completion,
    ) -> Result<(), ServiceError> {
        let id = &*completion.correlation_id;
        let cell = self.registry.cell(device)?;
        let upload = cell.lock().uploads.find(id, self.clock.now())?.clone();
        let container = ContainerName::uploads();
        let info = if completion.is_success {
            match self.blobs.info(&container, &upload.blob).await {
                Ok(info) => Some(info),
                Err(StoreError::NoBlob) => {
                    return Err(ServiceError::new(
                        ErrorCode::InvalidStorageEndpointOrBlob,
                        format!("there is no blob {}", upload.blob),
                    ));
                }
                Err(error) => return Err(internal(error)),
            }
        } else {
            None
        };
        // Another notification may have come first, or the device gone.
        let now = self.clock.now();
        let mut state = cell.lock();
        state.uploads.finish(id, now)?;
        state.endpoint(None)?.connection.last_activity = now;
        drop(state);
        if let Some(info) = info {
            self.file_notifications.push(FileNotification {
                sequence: 0,
                device_id: device.clone(),
                blob_uri: format!("https://{}/{container}/{}", upload.host, upload.blob.to_path()),
                blob_name: upload.blob.as_str().into(),
                last_updated_time: info.modified,
                blob_size_in_bytes: info.size,
                enqueued_time_utc: now,
            });
        }
        Ok(())
    }
}
