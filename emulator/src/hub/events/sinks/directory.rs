//! A directory: events become lines of files, each line a JSON object.
//!
//! Files are called `{endpoint}-{number}.jsonl`, numbers grow. A file that is
//! full is followed by the next; of too many the oldest go. A hub never goes on
//! with a file that it finds: it may end in half a line. What has been passed on
//! can be read at once; what could not be written whole is taken back, and if
//! even that fails a new file follows, so that a line without its end is always
//! a file's last.

use std::fs::{self, File, OpenOptions};
use std::io;
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
    endpoint: Box<str>,
    settings: DirectorySettings,
    /// Not here while another thread writes, nor once it has panicked.
    writer: Option<Writer>,
}

/// The files.
struct Writer {
    endpoint: Box<str>,
    settings: DirectorySettings,
    /// Whether the directory was there: it is made once. One that vanishes later
    /// is somebody's mistake, or a volume that is not there any more.
    is_made: bool,
    /// Number of the next file, unless there are others up to it.
    next: u64,
    current: Option<Current>,
}

/// The file that is being written.
struct Current<F = File> {
    file: F,
    path: PathBuf,
    /// Bytes in whole lines.
    len: u64,
}

impl Directory {
    pub(super) fn new(endpoint: &str, settings: DirectorySettings) -> Self {
        Self {
            endpoint: endpoint.into(),
            settings,
            writer: None,
        }
    }
}

impl Sink for Directory {
    fn batch(&self) -> (usize, Duration) {
        (limits::EVENTS_PER_READ, Duration::ZERO)
    }

    async fn put(&mut self, events: &[Event]) -> Result<(), Failure> {
        let writer = self.writer.take();
        let mut writer = writer.unwrap_or_else(|| Writer::new(&self.endpoint, self.settings.clone()));
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
    fn new(endpoint: &str, settings: DirectorySettings) -> Self {
        Self {
            endpoint: endpoint.into(),
            settings,
            is_made: false,
            next: 1,
            current: None,
        }
    }

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
        let is_new = current.len == 0;
        match current.append(&bytes) {
            Ok(()) => {
                self.current = Some(current);
                if is_new {
                    self.prune();
                }
                Ok(count)
            }
            Err((error, is_whole)) => {
                let reason = failure(&current.path, &error);
                if is_whole {
                    self.current = Some(current);
                } else if is_new {
                    // There is no whole line in it, and the next attempt begins
                    // another.
                    remove(&current.path);
                }
                Err(reason)
            }
        }
    }

    /// Removes the oldest files if there are too many. Only once something was
    /// written into the newest: a disk that takes nothing must not cost what is
    /// there.
    fn prune(&self) {
        match self.numbers() {
            Ok(numbers) => {
                let too_many = numbers.len().saturating_sub(self.settings.max_files);
                for number in numbers.iter().take(too_many) {
                    remove(&self.path(*number));
                }
            }
            Err(error) => tracing::warn!("{}", failure(&self.settings.path, &error)),
        }
    }

    /// Begins the next file.
    fn open(&mut self) -> Result<Current, String> {
        let directory = &self.settings.path;
        if !self.is_made {
            fs::create_dir_all(directory).map_err(|error| failure(directory, &error))?;
            self.is_made = true;
        }
        let numbers = self.numbers().map_err(|error| failure(directory, &error))?;
        if let Some(last) = numbers.last() {
            let next = last.checked_add(1).ok_or_else(|| {
                let last = self.path(*last);
                format!("no file can follow {}: remove it", last.display())
            })?;
            self.next = self.next.max(next);
        }
        let path = self.path(self.next);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|error| failure(&path, &error))?;
        self.next = self.next.saturating_add(1);
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

/// What lines are added to.
trait Lines: io::Write {
    /// Takes back what lies behind `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Lines for File {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

impl<F: Lines> Current<F> {
    /// Adds lines. After a failure it says whether the file still ends with a
    /// whole line.
    fn append(&mut self, lines: &[u8]) -> Result<(), (io::Error, bool)> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                let is_whole = self.file.cut(self.len).is_ok();
                Err((error, is_whole))
            }
        }
    }
}

impl Current {
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

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

fn failure(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;

    /// A disk with so much room, which may have lost the way back.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        can_cut: bool,
    }

    impl io::Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.bytes.len());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines for Disk {
        fn cut(&mut self, len: u64) -> io::Result<()> {
            if !self.can_cut {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.truncate(len as usize);
            Ok(())
        }
    }

    fn on_disk(room: usize, can_cut: bool) -> Current<Disk> {
        let bytes = Vec::new();
        Current {
            file: Disk { bytes, room, can_cut },
            path: PathBuf::new(),
            len: 0,
        }
    }

    #[test]
    fn half_a_line_is_taken_back() {
        let mut current = on_disk(10, true);
        current.append(b"one\ntwo\n").unwrap();
        let (error, is_whole) = current.append(b"three\n").unwrap_err();
        assert_eq!((error.kind(), is_whole), (io::ErrorKind::StorageFull, true));
        assert_eq!(current.file.bytes, b"one\ntwo\n");
        current.file.room = 100;
        current.append(b"three\n").unwrap();
        assert_eq!(current.file.bytes, b"one\ntwo\nthree\n");
    }

    #[test]
    fn a_file_that_ends_in_half_a_line_is_given_up() {
        let mut current = on_disk(6, false);
        current.append(b"one\n").unwrap();
        let (_, is_whole) = current.append(b"two\n").unwrap_err();
        assert!(!is_whole);
        assert_eq!(current.len, 4);
    }

    /// A directory in which files with these numbers are, and a writer for it.
    fn in_directory(numbers: &[u64]) -> (PathBuf, DirectorySettings) {
        let path = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&path).unwrap();
        for number in numbers {
            fs::write(path.join(format!("e-{number:08}.jsonl")), "old\n").unwrap();
        }
        let settings = DirectorySettings {
            path: path.clone(),
            max_file_bytes: 1024,
            max_files: 2,
        };
        (path, settings)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn old_files_go_only_once_the_next_is_written() {
        let (path, settings) = in_directory(&[1, 2]);
        let mut writer = Writer::new("e", settings);
        writer.current = Some(writer.open().unwrap());
        assert_eq!(
            names(&path),
            ["e-00000001.jsonl", "e-00000002.jsonl", "e-00000003.jsonl"]
        );
        writer.write(&[b"3\n".to_vec()]).unwrap();
        assert_eq!(names(&path), ["e-00000002.jsonl", "e-00000003.jsonl"]);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_last_of_all_numbers_is_an_error() {
        let (path, settings) = in_directory(&[u64::MAX]);
        let mut writer = Writer::new("e", settings);
        let failure = writer.write(&[b"1\n".to_vec()]).unwrap_err();
        assert!(
            failure.reason.contains("e-18446744073709551615.jsonl"),
            "{}",
            failure.reason
        );
        fs::remove_dir_all(&path).unwrap();
        // The one in front of it can still be followed.
        let (path, settings) = in_directory(&[u64::MAX - 1]);
        let mut writer = Writer::new("e", settings);
        writer.write(&[b"1\n".to_vec()]).unwrap();
        assert_eq!(names(&path).last().unwrap(), "e-18446744073709551615.jsonl");
        fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_writer_that_panicked_is_replaced() {
        let (path, settings) = in_directory(&[1]);
        let mut directory = Directory::new("e", settings);
        directory.put(&[event(0)]).await.unwrap();
        // What a panic leaves: the thread had it.
        directory.writer = None;
        directory.put(&[event(1)]).await.unwrap();
        assert_eq!(names(&path), ["e-00000002.jsonl", "e-00000003.jsonl"]);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_with_the_path() {
        let (path, settings) = in_directory(&[1, 2]);
        let mut writer = Writer::new("e", settings);
        // As it just began a file, on a disk that takes nothing and cannot cut.
        let full = path.join("e-00000003.jsonl");
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        writer.current = Some(Current {
            file: OpenOptions::new().append(true).open(&full).unwrap(),
            path: full,
            len: 0,
        });
        let failure = writer.write(&[b"3\n".to_vec()]).unwrap_err();
        assert!(failure.reason.contains("e-00000003.jsonl"), "{}", failure.reason);
        // Nothing is left of it, and the others are there.
        assert_eq!(names(&path), ["e-00000001.jsonl", "e-00000002.jsonl"]);
        writer.write(&[b"3\n".to_vec()]).unwrap();
        assert_eq!(names(&path), ["e-00000002.jsonl", "e-00000003.jsonl"]);
        fs::remove_dir_all(path).unwrap();
    }
}
