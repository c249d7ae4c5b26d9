//! A directory: events become lines of files, each line a JSON object.
//!
//! Files are called `{endpoint}-{number}.jsonl`, numbers grow. A file that is
//! full is followed by the next; of too many the oldest go. A hub never goes on
//! with a file that it finds: it may end in half a line. What has been passed on
//! can be read at once; what could not be written whole is taken back, and if
//! even that fails a new file follows, so that a line without its end is always
//! a file's last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hub_core::events::Event;
use hub_core::limits;
use hub_core::routing::DirectorySettings;
use tokio::task::spawn_blocking;

use super::{Failure, Sink};
use crate::hub::events::json::event_json;

/// A directory that events are written to.
pub(super) struct Directory {
    /// Not here while another thread writes.
    writer: Option<Writer>,
}

/// The files.
struct Writer {
    endpoint: Box<str>,
    settings: DirectorySettings,
    /// Whether the directory was there: it is made once. One that vanishes later
    /// is somebody's mistake, or a volume that is not there any more.
    is_made: bool,
    /// Number of the next file; 0 until existing files were looked at.
    next: u64,
    current: Option<Current>,
}

/// The file that is being written.
struct Current {
    file: File,
    path: PathBuf,
    /// Bytes in whole lines.
    len: u64,
}

impl Directory {
    pub(super) fn new(endpoint: &str, settings: DirectorySettings) -> Self {
        let writer = Writer {
            endpoint: endpoint.into(),
            settings,
            is_made: false,
            next: 0,
            current: None,
        };
        Self { writer: Some(writer) }
    }
}

impl Sink for Directory {
    fn batch(&self) -> (usize, Duration) {
        (limits::EVENTS_PER_READ, Duration::ZERO)
    }

    async fn put(&mut self, events: &[Event]) -> Result<(), Failure> {
        let Some(mut writer) = self.writer.take() else {
            return Err(Failure::new("the thread that wrote has panicked"));
        };
        let lines: Vec<Vec<u8>> = events.iter().map(line).collect();
        let written = spawn_blocking(move || {
            let result = writer.write(&lines);
            (writer, result)
        });
        let (writer, result) = written.await.map_err(|error| Failure::new(error.to_string()))?;
        self.writer = Some(writer);
        result
    }
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = event_json(event).to_string().into_bytes();
    line.push(b'\n');
    line
}

impl Writer {
    /// Writes lines, each of them whole or not at all.
    fn write(&mut self, lines: &[Vec<u8>]) -> Result<(), Failure> {
        let mut done = 0;
        while done < lines.len() {
            done += self.write_some(&lines[done..]).map_err(|reason| Failure {
                done,
                ..Failure::new(reason)
            })?;
        }
        Ok(())
    }

    /// Writes as many lines as go into the current file, or the first into one of
    /// its own; says how many.
    fn write_some(&mut self, lines: &[Vec<u8>]) -> Result<usize, String> {
        let most = self.settings.max_file_bytes;
        if self.current.as_ref().is_some_and(|current| !current.is_there()) {
            self.current = None;
        }
        let first = lines.first().map_or(0, Vec::len) as u64;
        let mut current = match self.current.take() {
            Some(current) if current.len == 0 || current.len + first <= most => current,
            _ => self.open()?,
        };
        let mut bytes = Vec::new();
        let mut count = 0;
        for line in lines {
            if count > 0 && current.len + (bytes.len() + line.len()) as u64 > most {
                break;
            }
            bytes.extend_from_slice(line);
            count += 1;
        }
        match current.append(&bytes) {
            Ok(()) => {
                self.current = Some(current);
                Ok(count)
            }
            Err((error, is_whole)) => {
                let reason = failure(&current.path, &error);
                if is_whole {
                    self.current = Some(current);
                }
                Err(reason)
            }
        }
    }

    /// Begins the next file, and removes the oldest if there are too many.
    fn open(&mut self) -> Result<Current, String> {
        let directory = &self.settings.path;
        if !self.is_made {
            fs::create_dir_all(directory).map_err(|error| failure(directory, &error))?;
            self.is_made = true;
        }
        let numbers = self.numbers().map_err(|error| failure(directory, &error))?;
        self.next = self.next.max(numbers.last().map_or(1, |last| last + 1));
        let path = self.path(self.next);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|error| failure(&path, &error))?;
        self.next += 1;
        let too_many = (numbers.len() + 1).saturating_sub(self.settings.max_files);
        for number in &numbers[..too_many.min(numbers.len())] {
            let path = self.path(*number);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!("{}", failure(&path, &error));
            }
        }
        Ok(Current { file, path, len: 0 })
    }

    fn path(&self, number: u64) -> PathBuf {
        let name = format!("{}-{number:08}.jsonl", self.endpoint);
        self.settings.path.join(name)
    }

    /// The numbers of the endpoint's files, in their order.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.settings.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| {
                let number = name.strip_prefix(&*self.endpoint)?.strip_prefix('-')?;
                let number = number.strip_suffix(".jsonl")?;
                let is_ours = number.len() >= 8 && number.bytes().all(|b| b.is_ascii_digit());
                is_ours.then(|| number.parse::<u64>().ok())?
            });
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

impl Current {
    /// Adds lines. After a failure it says whether the file still ends with a
    /// whole line.
    fn append(&mut self, lines: &[u8]) -> Result<(), (io::Error, bool)> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                let is_whole = self.file.set_len(self.len).is_ok();
                Err((error, is_whole))
            }
        }
    }

    /// Whether the file is still where it was made: what is written to one that
    /// was removed is lost in silence.
    fn is_there(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(found), Ok(open)) => is_same(&found, &open),
            _ => false,
        }
    }
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

fn failure(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}
