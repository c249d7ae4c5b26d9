//! Content on its way to become a blob, and blocks that wait to be committed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hub_core::blob::{BlobName, ContainerName};
use hub_core::limits;
use md5::{Digest as _, Md5};
use tokio::io::{AsyncWriteExt as _, BufWriter};

use super::{StoreError, blocking};

/// A file that is being written; gone when it is dropped unfinished.
pub(crate) struct Staged {
    file: BufWriter<tokio::fs::File>,
    content: Content,
    md5: Md5,
}

/// A complete file that has no name yet.
#[derive(Debug)]
pub(super) struct Content {
    /// Gone once the file has moved to its place.
    path: Option<PathBuf>,
    pub(super) size: u64,
}

impl Staged {
    pub(super) fn new(path: PathBuf, file: fs::File) -> Self {
        Self {
            file: BufWriter::with_capacity(256 * 1024, tokio::fs::File::from_std(file)),
            content: Content {
                path: Some(path),
                size: 0,
            },
            md5: Md5::new(),
        }
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.content.size
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.size += bytes.len() as u64;
        self.md5.update(bytes);
        self.file.write_all(bytes).await
    }

    /// The MD5 sum of the bytes so far.
    pub(crate) fn md5(&self) -> [u8; 16] {
        self.md5.clone().finalize().into()
    }

    /// Appends whole files.
    pub(super) async fn append(self, parts: Vec<Arc<Content>>) -> Result<Self, StoreError> {
        let Self {
            file,
            mut content,
            md5,
        } = self;
        let mut file = file.into_inner().into_std().await;
        let (file, content) = blocking(move || {
            for part in &parts {
                if let Some(path) = &part.path {
                    content.size += io::copy(&mut fs::File::open(path)?, &mut file)?;
                }
            }
            Ok((file, content))
        })
        .await?;
        Ok(Self {
            file: BufWriter::new(tokio::fs::File::from_std(file)),
            content,
            md5,
        })
    }

    pub(super) async fn finish(mut self) -> io::Result<Content> {
        self.file.flush().await?;
        Ok(self.content)
    }
}

impl Content {
    /// Moves the file to its place, in one step for whoever looks.
    pub(super) fn move_to(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, to)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            remove(vec![path]);
        }
    }
}

/// Removes files where it may block.
fn remove(paths: Vec<PathBuf>) {
    let remove = move || {
        for path in paths {
            let _ = fs::remove_file(path);
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(remove)),
        Err(_) => remove(),
    }
}

/// Why blocks cannot become a blob.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("a block of the list was never put, or was committed already")]
    UnknownBlock,
    #[error("a blob has at most {} blocks", limits::BLOB_BLOCKS)]
    TooMany,
    #[error("a blob has at most {} bytes", limits::BLOB_BYTES)]
    TooLarge,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for BlockError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

type Key = (ContainerName, BlobName);

/// The blocks that were put and not committed yet.
#[derive(Default)]
pub(super) struct Blocks {
    blobs: BTreeMap<Key, OfBlob>,
    /// Counts blobs in the order in which they came.
    count: u64,
}

pub(super) struct OfBlob {
    arrival: u64,
    blocks: BTreeMap<String, Arc<Content>>,
    bytes: u64,
}

impl Drop for OfBlob {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut self.blocks).into_values();
        // All at once: there may be thousands, and a task for each would start
        // hundreds of threads. Blocks that are being committed go with that.
        remove(
            blocks
                .filter_map(Arc::into_inner)
                .filter_map(|mut block| block.path.take())
                .collect(),
        );
    }
}

impl Blocks {
    /// Keeps a block; one of the same id goes.
    pub(super) fn put(&mut self, key: Key, id: String, content: Content) -> Result<(), BlockError> {
        if !self.blobs.contains_key(&key) && self.blobs.len() >= limits::BLOBS_UNCOMMITTED {
            let oldest = self.blobs.iter().min_by_key(|(_, blob)| blob.arrival);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.blobs.remove(&oldest);
            }
        }
        self.count += 1;
        let blob = self.blobs.entry(key).or_insert(OfBlob {
            arrival: self.count,
            blocks: BTreeMap::new(),
            bytes: 0,
        });
        let replaced = blob.blocks.get(&id).map_or(0, |block| block.size);
        let bytes = blob.bytes - replaced + content.size;
        if bytes > limits::BLOB_BYTES {
            return Err(BlockError::TooLarge);
        }
        if blob.blocks.len() >= limits::BLOB_BLOCKS && !blob.blocks.contains_key(&id) {
            return Err(BlockError::TooMany);
        }
        blob.bytes = bytes;
        blob.blocks.insert(id, Arc::new(content));
        Ok(())
    }

    /// The blocks of a list, which may name one more than once.
    pub(super) fn pick(&self, key: &Key, ids: &[String]) -> Result<Vec<Arc<Content>>, BlockError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        if ids.len() > limits::BLOB_BLOCKS {
            return Err(BlockError::TooMany);
        }
        let blob = self.blobs.get(key).ok_or(BlockError::UnknownBlock)?;
        let mut bytes = 0;
        ids.iter()
            .map(|id| {
                let block = blob.blocks.get(id).ok_or(BlockError::UnknownBlock)?;
                bytes += block.size;
                if bytes > limits::BLOB_BYTES {
                    return Err(BlockError::TooLarge);
                }
                Ok(block.clone())
            })
            .collect()
    }

    /// Gives the blocks back, to be dropped when nobody waits.
    pub(super) fn forget(&mut self, key: &Key) -> Option<OfBlob> {
        self.blobs.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(blob: &str) -> Key {
        (
            ContainerName::parse("files").unwrap(),
            BlobName::parse(blob).unwrap(),
        )
    }

    fn block(size: u64) -> Content {
        Content { path: None, size }
    }

    #[test]
    fn blocks_are_picked_in_the_order_of_the_list() {
        let mut blocks = Blocks::default();
        for (id, size) in [("a", 1), ("b", 2), ("a", 3)] {
            blocks.put(key("x"), id.into(), block(size)).unwrap();
        }
        let sizes = |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let picked = blocks.pick(&key("x"), &ids).ok()?;
            Some(picked.iter().map(|block| block.size).collect::<Vec<_>>())
        };
        assert_eq!(sizes(&["b", "a", "b"]), Some(vec![2, 3, 2]));
        assert_eq!(sizes(&["c"]), None);
        assert_eq!(sizes(&[]), Some(vec![]));
        assert!(matches!(
            blocks.pick(&key("y"), &["a".into()]),
            Err(BlockError::UnknownBlock)
        ));
    }

    #[test]
    fn files_of_forgotten_blocks_are_removed_unless_somebody_reads_them() {
        let directory = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&directory).unwrap();
        let mut blocks = Blocks::default();
        for id in ["a", "b", "c"] {
            let path = directory.join(id);
            fs::write(&path, id).unwrap();
            let content = Content {
                path: Some(path),
                size: 1,
            };
            blocks.put(key("x"), id.into(), content).unwrap();
        }
        let files = || fs::read_dir(&directory).unwrap().count();
        let read = blocks.pick(&key("x"), &["b".into()]).unwrap();
        drop(blocks.forget(&key("x")));
        assert_eq!(files(), 1);
        drop(read);
        assert_eq!(files(), 0);
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn blocks_are_bounded() {
        let mut blocks = Blocks::default();
        let half = limits::BLOB_BYTES / 2;
        blocks.put(key("x"), "a".into(), block(half)).unwrap();
        blocks.put(key("x"), "b".into(), block(half)).unwrap();
        let one_more = blocks.put(key("x"), "c".into(), block(1));
        assert!(matches!(one_more, Err(BlockError::TooLarge)));
        blocks.put(key("x"), "b".into(), block(half)).unwrap();
        let thrice = ["a".to_owned(), "b".to_owned(), "a".to_owned()];
        assert!(matches!(
            blocks.pick(&key("x"), &thrice),
            Err(BlockError::TooLarge)
        ));
        for n in 0..limits::BLOBS_UNCOMMITTED {
            blocks.put(key(&n.to_string()), "a".into(), block(1)).unwrap();
        }
        assert_eq!(blocks.blobs.len(), limits::BLOBS_UNCOMMITTED);
        assert!(blocks.pick(&key("x"), &["a".into()]).is_err());
        assert!(blocks.pick(&key("0"), &["a".into()]).is_ok());
    }
}
