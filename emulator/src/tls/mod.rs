//! TLS and certificates: what the hub shows to its clients, and what devices
//! show to the hub.
//!
//! The handshake takes every client certificate whose private key the client
//! has, and clients without one ([`client`]); whom a certificate stands for is
//! decided once it is known who wants in ([`crate::hub::access`]), with what
//! [`certificate`] reads from it and whether it [`chain`]s to an authority that
//! was registered for devices ([`device_ca`]).

mod authority;
mod certificate;
mod chain;
mod client;
mod der;
mod device_ca;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use self::authority::Authority;
pub use self::authority::TlsError;
pub(crate) use self::certificate::ClientCertificate;
pub(crate) use self::device_ca::DeviceCa;
pub use self::device_ca::DeviceCaError;

use std::sync::LazyLock;

use rustls::crypto::{WebPkiSupportedAlgorithms, ring};

/// The signature algorithms of handshakes and certificates.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| ring::default_provider().signature_verification_algorithms);
