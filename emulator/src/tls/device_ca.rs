//! An authority that may issue certificates of devices.

use hub_core::registry::Thumbprint;
use hub_core::time::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};

use super::certificate::{Fingerprints, common_name, parse, timestamp};
use super::chain;

/// Why a text does not give authorities for devices.
#[derive(Debug, thiserror::Error)]
pub enum DeviceCaError {
    /// The text is damaged PEM.
    #[error("not readable as PEM: {0}")]
    Pem(pem::Error),
    /// There is no certificate in it.
    #[error("there is no certificate in it, which would begin with -----BEGIN CERTIFICATE-----")]
    Empty,
    /// One of its certificates is damaged.
    #[error("certificate {number} cannot be understood")]
    Certificate {
        /// Which certificate, counted from 1.
        number: usize,
    },
    /// One of its certificates says that it is no authority.
    #[error("certificate {number} ({subject}) is not an authority's: it may not issue certificates")]
    NotAnAuthority {
        /// Which certificate, counted from 1.
        number: usize,
        /// Its subject.
        subject: String,
    },
    /// The hub would have more authorities than a hub may have.
    #[error("a hub has at most {limit} authorities for devices")]
    TooMany {
        /// How many it may have.
        limit: usize,
    },
}

/// The certificate of an authority, root or intermediate.
#[derive(Debug, Clone)]
pub(crate) struct DeviceCa {
    der: CertificateDer<'static>,
    pub(crate) subject: Box<str>,
    pub(crate) common_name: Option<Box<str>>,
    pub(crate) fingerprints: Fingerprints,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl DeviceCa {
    /// All certificates in a PEM text.
    ///
    /// # Errors
    /// When there is none, or one that is not an authority's.
    pub(crate) fn parse(pem: &[u8]) -> Result<Vec<Self>, DeviceCaError> {
        let mut all = Vec::new();
        for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
            all.push(Self::new(der.map_err(DeviceCaError::Pem)?, index + 1)?);
        }
        if all.is_empty() {
            return Err(DeviceCaError::Empty);
        }
        Ok(all)
    }

    fn new(der: CertificateDer<'static>, number: usize) -> Result<Self, DeviceCaError> {
        let certificate = parse(&der).ok_or(DeviceCaError::Certificate { number })?;
        let subject = certificate.subject().to_string();
        if !chain::is_authority(&certificate) {
            return Err(DeviceCaError::NotAnAuthority { number, subject });
        }
        let common_name = common_name(certificate.subject()).map(Into::into);
        let validity = certificate.validity();
        let (not_before, not_after) = (timestamp(validity.not_before), timestamp(validity.not_after));
        Ok(Self {
            fingerprints: Fingerprints::of(&der),
            subject: subject.into(),
            common_name,
            not_before,
            not_after,
            der,
        })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether `thumbprint` is this certificate's.
    pub(crate) fn has(&self, thumbprint: &Thumbprint) -> bool {
        thumbprint.is_of(&self.fingerprints.sha1) || thumbprint.is_of(&self.fingerprints.sha256)
    }
}
