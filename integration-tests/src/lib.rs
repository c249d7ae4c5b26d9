//! What the scenario and the end-to-end tests share.
