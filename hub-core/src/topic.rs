//! Device topics.
