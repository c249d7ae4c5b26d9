//! A back end.
