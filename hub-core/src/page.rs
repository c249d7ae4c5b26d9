//! Continuation tokens.
