//! The hub's own blob storage: a directory with a directory for each container
//! and a file for each blob.
//!
//! Content goes to a file beside the containers first ([`staging`]) and is
//! moved to its place when it is complete, so that a blob is there as a whole
//! or not at all. Who may do what is checked by the HTTP front; here is no
//! token. Files are read and written on threads that may block, never on those
//! that serve connections.

mod staging;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::UNIX_EPOCH;

use hub_core::blob::{BlobName, ContainerName, UPLOADS_CONTAINER};
use hub_core::limits;
use hub_core::time::Timestamp;
use uuid::Uuid;

use self::staging::Blocks;
pub(crate) use self::staging::{BlockError, Staged};

/// Where content waits to become a blob. No container can have this name.
const STAGING: &str = ".staging";

/// The storage of one hub.
pub(crate) struct BlobStore {
    root: Root,
    blocks: Mutex<Blocks>,
    /// Held while files change their places, so that no directory goes while
    /// a file is about to enter it.
    places: Arc<Mutex<()>>,
}

/// The directory, made when it is needed first.
struct Root {
    place: Place,
    made: OnceLock<PathBuf>,
    /// Held while it is made.
    making: Mutex<()>,
}

enum Place {
    /// Stays when the hub ends.
    Given(PathBuf),
    /// Of the hub's own; goes with it.
    Temporary,
}

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobInfo {
    /// Bytes.
    pub(crate) size: u64,
    /// When it was written, by the system's clock.
    pub(crate) modified: Timestamp,
    /// Changes with the content; without quotes.
    pub(crate) etag: String,
}

/// Why something cannot be done with a blob.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the blob does not exist")]
    NoBlob,
    /// As in `a/b` where `a` is a blob: a file cannot be a directory as well.
    #[error("the blob's name and another one's cannot both exist here")]
    NameTaken,
    /// A part of the path, or all of it, has more bytes than the file system
    /// takes.
    #[error("the blob's name is too long for the file system of this hub")]
    NameTooLong,
    #[error("the blob exists already")]
    BlobExists,
    #[error("the condition of the request's headers is not met")]
    ConditionNotMet,
    #[error("the storage has as many containers as it may")]
    TooManyContainers,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What has to hold of a blob for a request to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    Absent,
    Present,
    /// It has this ETag.
    Unchanged(String),
}

impl Condition {
    /// Whether it holds of the blob, of which `info` is known if it exists.
    ///
    /// # Errors
    /// `BlobExists`, `ConditionNotMet`.
    pub(crate) fn check(&self, info: Option<&BlobInfo>) -> Result<(), StoreError> {
        match (self, info) {
            (Self::Always, _) | (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::Unchanged(etag), Some(info)) if info.etag == *etag => Ok(()),
            (Self::Absent, Some(_)) => Err(StoreError::BlobExists),
            _ => Err(StoreError::ConditionNotMet),
        }
    }
}

/// Up to a page of a container's blobs.
pub(crate) struct Listing {
    pub(crate) blobs: Vec<(BlobName, BlobInfo)>,
    /// The name to go on after, when there are more.
    pub(crate) next: Option<BlobName>,
}

impl BlobStore {
    /// A storage in `directory`, or in one that goes with the hub. Nothing is
    /// made on disk before the first use.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            root: Root {
                place: directory.map_or(Place::Temporary, Place::Given),
                made: OnceLock::new(),
                making: Mutex::default(),
            },
            blocks: Mutex::default(),
            places: Arc::default(),
        }
    }

    /// Forgets blocks that were not committed. Blobs stay: they are files of
    /// the user's.
    pub(crate) fn forget_blocks(&self) {
        let forgotten = std::mem::take(&mut *self.lock_blocks());
        drop(forgotten);
    }

    /// Whether there is such a container.
    pub(crate) async fn has_container(self: &Arc<Self>, container: &ContainerName) -> bool {
        if container.as_str() == UPLOADS_CONTAINER {
            return true;
        }
        // A storage that nothing has touched has no container worth a look.
        let Some(path) = self.root.existing().map(|root| root.join(container.as_str())) else {
            return false;
        };
        blocking(move || Ok(path.is_dir())).await.unwrap_or(false)
    }

    /// Makes a container that may be there already.
    ///
    /// # Errors
    /// `TooManyContainers`; those of the file system.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        container: &ContainerName,
    ) -> Result<(), StoreError> {
        let (store, container) = (self.clone(), container.clone());
        blocking(move || {
            let root = store.root.make()?;
            let path = root.join(container.as_str());
            if path.is_dir() {
                return Ok(());
            }
            if fs::read_dir(&root)?.count() > limits::BLOB_CONTAINERS {
                return Err(StoreError::TooManyContainers);
            }
            Ok(fs::create_dir_all(path)?)
        })
        .await
    }

    /// A new file for content that is yet to come.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn stage(self: &Arc<Self>) -> Result<Staged, StoreError> {
        let store = self.clone();
        let (path, file) = blocking(move || {
            let directory = store.root.make()?.join(STAGING);
            fs::create_dir_all(&directory)?;
            let path = directory.join(Uuid::new_v4().simple().to_string());
            let file = fs::File::create_new(&path)?;
            Ok((path, file))
        })
        .await?;
        Ok(Staged::new(path, file))
    }

    /// Makes complete content the blob, if `condition` holds at that moment.
    ///
    /// # Errors
    /// Those of [`Condition::check`], `NameTaken`, `NameTooLong`; those of the
    /// file system.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        content: Staged,
        container: &ContainerName,
        blob: &BlobName,
        condition: Condition,
    ) -> Result<BlobInfo, StoreError> {
        let content = content.finish().await?;
        let store = self.clone();
        let (directory, blob) = (container.as_str().to_owned(), blob.clone());
        blocking(move || {
            let to = store.root.make()?.join(directory).join(blob.file());
            let _held = store.places.lock().unwrap_or_else(PoisonError::into_inner);
            if to.is_dir() {
                return Err(StoreError::NameTaken);
            }
            condition.check(info(&to).ok().as_ref())?;
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(bad_name)?;
            }
            content.move_to(&to).map_err(bad_name)?;
            info(&to)
        })
        .await
    }

    /// Keeps a block until its blob's blocks are committed.
    ///
    /// # Errors
    /// When the blob would become too large or have too many blocks; those of
    /// the file system.
    pub(crate) async fn put_block(
        self: &Arc<Self>,
        content: Staged,
        container: &ContainerName,
        blob: &BlobName,
        id: String,
    ) -> Result<(), BlockError> {
        let content = content.finish().await?;
        self.lock_blocks()
            .put((container.clone(), blob.clone()), id, content)
    }

    /// Makes the blob out of blocks, in the order given; all blocks that it
    /// had are forgotten.
    ///
    /// # Errors
    /// `UnknownBlock`, `TooLarge`; as [`BlobStore::commit`].
    pub(crate) async fn commit_blocks(
        self: &Arc<Self>,
        container: &ContainerName,
        blob: &BlobName,
        ids: &[String],
        condition: Condition,
    ) -> Result<BlobInfo, BlockError> {
        let key = (container.clone(), blob.clone());
        let blocks = self.lock_blocks().pick(&key, ids)?;
        let content = self.stage().await?.append(blocks).await?;
        let info = self.commit(content, container, blob, condition).await?;
        let done = self.lock_blocks().forget(&key);
        drop(done);
        Ok(info)
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// `NoBlob`; those of the file system.
    pub(crate) async fn info(
        self: &Arc<Self>,
        container: &ContainerName,
        blob: &BlobName,
    ) -> Result<BlobInfo, StoreError> {
        let path = self.path(container, blob)?;
        blocking(move || info(&path)).await
    }

    /// A blob for reading. Replacing or deleting it meanwhile does not touch
    /// what is read.
    ///
    /// # Errors
    /// As [`BlobStore::info`].
    pub(crate) async fn open(
        self: &Arc<Self>,
        container: &ContainerName,
        blob: &BlobName,
    ) -> Result<(tokio::fs::File, BlobInfo), StoreError> {
        let path = self.path(container, blob)?;
        let (file, info) = blocking(move || {
            // Neither follows a link out of the directory nor waits at a pipe.
            info(&path)?;
            let file = fs::File::open(&path).map_err(no_blob)?;
            let info = info_of(&file.metadata()?)?;
            Ok((file, info))
        })
        .await?;
        Ok((tokio::fs::File::from_std(file), info))
    }

    /// Removes a blob, if `condition` holds at that moment, and the directories
    /// that are empty without it.
    ///
    /// # Errors
    /// As [`BlobStore::info`]; `ConditionNotMet`.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        container: &ContainerName,
        blob: &BlobName,
        condition: Condition,
    ) -> Result<(), StoreError> {
        let path = self.path(container, blob)?;
        let (places, depth) = (self.places.clone(), blob.file().iter().count());
        blocking(move || {
            let _held = places.lock().unwrap_or_else(PoisonError::into_inner);
            condition.check(Some(&info(&path)?))?;
            fs::remove_file(&path).map_err(no_blob)?;
            for parent in path.ancestors().skip(1).take(depth - 1) {
                if fs::remove_dir(parent).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    /// Up to `count` blobs whose names begin with `prefix`, by name, starting
    /// after `after`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn list(
        self: &Arc<Self>,
        container: &ContainerName,
        prefix: &str,
        after: Option<String>,
        count: usize,
    ) -> Result<Listing, StoreError> {
        let root = self.root.existing().map(|root| root.join(container.as_str()));
        let prefix = prefix.to_owned();
        blocking(move || {
            let mut names = Vec::new();
            if let Some(root) = root {
                names_below(&root, &prefix, &mut names)?;
                names.retain(|name| after.as_deref().is_none_or(|after| name.as_str() > after));
                names.sort_unstable();
                let next = (names.len() > count).then(|| names[count.max(1) - 1].clone());
                names.truncate(count);
                let known = |name: BlobName| info(&root.join(name.file())).ok().map(|info| (name, info));
                let blobs = names.into_iter().filter_map(known).collect();
                return Ok(Listing { blobs, next });
            }
            Ok(Listing {
                blobs: Vec::new(),
                next: None,
            })
        })
        .await
    }

    fn path(&self, container: &ContainerName, blob: &BlobName) -> Result<PathBuf, StoreError> {
        let root = self.root.existing().ok_or(StoreError::NoBlob)?;
        Ok(root.join(container.as_str()).join(blob.file()))
    }

    fn lock_blocks(&self) -> std::sync::MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// The directory, if there can be anything in it.
    fn existing(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Given(path) => Some(path.clone()),
            Place::Temporary => self.made.get().cloned(),
        }
    }

    /// The directory, made if it is not there. Blocks to the file system.
    fn make(&self) -> io::Result<PathBuf> {
        let _held = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = self.made.get() {
            return Ok(path.clone());
        }
        let path = match &self.place {
            Place::Given(path) => {
                fs::create_dir_all(path)?;
                // Left over from a hub that ended in the middle of an upload.
                let _ = fs::remove_dir_all(path.join(STAGING));
                path.clone()
            }
            Place::Temporary => {
                let path = std::env::temp_dir().join(format!("iothub-emulator-{}", Uuid::new_v4().simple()));
                create_private_dir(&path)?;
                path
            }
        };
        Ok(self.made.get_or_init(|| path).clone())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(path) = self.made.get() {
            let _ = match self.place {
                Place::Given(_) => fs::remove_dir_all(path.join(STAGING)),
                Place::Temporary => fs::remove_dir_all(path),
            };
        }
    }
}

/// A directory that only its owner may look into: the place for temporary
/// files is often everybody's.
fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn info(path: &Path) -> Result<BlobInfo, StoreError> {
    info_of(&fs::symlink_metadata(path).map_err(no_blob)?)
}

fn info_of(metadata: &fs::Metadata) -> Result<BlobInfo, StoreError> {
    if !metadata.is_file() {
        return Err(StoreError::NoBlob);
    }
    let since_1970 = metadata
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(BlobInfo {
        size: metadata.len(),
        modified: Timestamp::from_unix_seconds(0).saturating_add(since_1970),
        etag: format!("0x{:X}-{:X}", since_1970.as_nanos(), metadata.len()),
    })
}

fn names_below(root: &Path, prefix: &str, names: &mut Vec<BlobName>) -> Result<(), StoreError> {
    // A list instead of recursion: names may nest deeply.
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file()
                && let Ok(path) = entry.path().strip_prefix(root)
                && let Some(name) = BlobName::from_file(path)
                && name.as_str().starts_with(prefix)
            {
                names.push(name);
            }
        }
    }
    Ok(())
}

fn no_blob(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            StoreError::NoBlob
        }
        _ => error.into(),
    }
}

/// Why a file cannot have its blob's name.
fn bad_name(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::InvalidFilename => StoreError::NameTooLong,
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::DirectoryNotEmpty => StoreError::NameTaken,
        _ => error.into(),
    }
}

/// Runs work on files where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Io(io::Error::other(error)))?
}
