//! The URL-encoded property bag at the end of a message topic.
