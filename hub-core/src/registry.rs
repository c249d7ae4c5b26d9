//! Identities of devices and modules.
