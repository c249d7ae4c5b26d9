//! The twin query language.
