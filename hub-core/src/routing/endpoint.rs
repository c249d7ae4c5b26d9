//! Endpoints beside the built-in one, and their settings.

use std::path::PathBuf;
use std::time::Duration;

use crate::events::Retention;

/// An endpoint that messages can be routed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, unique in the hub: 1 to 64 ASCII letters, digits, `.`, `_` or `-`.
    pub name: Box<str>,
    /// What it is.
    pub kind: EndpointKind,
}

/// What an endpoint is. The local hub has its own kinds in the place of the
/// cloud's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointKind {
    /// A stream of events with partitions, as an event hub is.
    Stream(StreamSettings),
    /// Files in a directory, as a storage container has.
    Directory(DirectorySettings),
    /// An HTTP address that messages are posted to.
    Webhook(WebhookSettings),
}

/// Settings of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// Number of partitions, within [`limits::EVENT_PARTITIONS`](crate::limits::EVENT_PARTITIONS).
    pub partitions: usize,
    /// How much of each partition is kept.
    pub retention: Retention,
    /// Names of consumer groups beside `$Default`.
    pub consumer_groups: Vec<Box<str>>,
}

/// Settings of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySettings {
    /// Where the files are; a relative path is for the program to place.
    pub path: PathBuf,
    /// Size in bytes at which a file is full and the next one begins.
    pub max_file_bytes: u64,
    /// How many files are kept; the oldest go first.
    pub max_files: usize,
}

/// Settings of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// An absolute URL with the scheme http or https.
    pub url: Box<str>,
    /// Most messages of one request.
    pub batch_count: usize,
    /// How long a message may wait for others to fill its request.
    pub batch_wait: Duration,
    /// How long the receiver may take to answer.
    pub timeout: Duration,
}
