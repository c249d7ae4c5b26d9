//! What a client certificate says.

use std::fmt;
use std::sync::Arc;

use hub_core::registry::PresentedCertificate;
use hub_core::time::Timestamp;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::DeviceCa;
use super::chain;

/// The certificate that a client proved to be the holder of, with whatever
/// else of its chain it sent. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClientCertificate(Arc<[CertificateDer<'static>]>);

impl ClientCertificate {
    /// The one of the client at the other end of `connection`, whose handshake
    /// is over. A resumed session has the certificate of its first handshake.
    pub(crate) fn of(connection: &ServerConnection) -> Option<Self> {
        connection
            .peer_certificates()
            .filter(|chain| !chain.is_empty())
            .map(|chain| Self(chain.into()))
    }

    /// What the certificate says; `None` when it cannot be understood.
    pub(crate) fn read(&self) -> Option<PresentedCertificate> {
        let der = self.0.first()?;
        let certificate = parse(der)?;
        let validity = certificate.validity();
        let Fingerprints { sha1, sha256 } = Fingerprints::of(der);
        Some(PresentedCertificate {
            sha1,
            sha256,
            common_name: common_name(certificate.subject()).map(Into::into),
            not_before: timestamp(validity.not_before),
            not_after: timestamp(validity.not_after),
        })
    }

    /// Whether one of `authorities` issued the certificate, itself or through
    /// the other certificates that the client sent, and all were valid at `now`.
    pub(crate) fn chains_to(&self, authorities: &[DeviceCa], now: Timestamp) -> bool {
        chain::leads_to(&self.0, authorities, now)
    }
}

/// Certificates are long, and who holds them is told by others.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// The hashes by which a certificate is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    pub(crate) sha1: [u8; 20],
    pub(crate) sha256: [u8; 32],
}

impl Fingerprints {
    pub(super) fn of(der: &[u8]) -> Self {
        let mut all = Self {
            sha1: [0; 20],
            sha256: [0; 32],
        };
        all.sha1
            .copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref());
        all.sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        all
    }
}

/// Reads a certificate of any version, with nothing behind it.
pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der)
        .ok()
        .filter(|(rest, _)| rest.is_empty())
        .map(|(_, certificate)| certificate)
}

/// The common name, if there is exactly one that is text.
pub(super) fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    let mut names = name.iter_common_name();
    match (names.next(), names.next()) {
        (Some(only), None) => only.as_str().ok(),
        _ => None,
    }
}

pub(super) fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_unix_seconds(time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{self, Holder};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use rcgen::{DnType, DnValue};

    fn read(holder: &Holder) -> Option<PresentedCertificate> {
        ClientCertificate(holder.chain.clone().into()).read()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>()
            .join(":")
    }

    fn pem(der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn a_certificate_says_what_openssl_reads_in_it() {
        let read = read(&testing::rsa()).unwrap();
        assert_eq!(
            hex(&read.sha1),
            "52:B3:E8:10:10:30:B2:51:0B:37:75:43:D1:62:55:F0:D8:9D:FD:0E"
        );
        let sha256 = "5C:E4:D8:0D:44:F7:DB:6D:0E:3F:53:C0:30:54:8F:94\
            :86:16:90:DB:D1:63:DC:10:D8:58:69:FB:98:C1:F5:B1";
        assert_eq!(hex(&read.sha256), sha256);
        assert_eq!(read.common_name.as_deref(), Some("rsa-device"));
        assert_eq!(read.not_before.to_string(), "2020-01-01T00:00:00Z");
        assert_eq!(read.not_after.to_string(), "2120-01-01T00:00:00Z");
    }

    #[test]
    fn old_versions_are_read_too() {
        let read = read(&testing::version_1()).unwrap();
        assert_eq!(read.common_name.as_deref(), Some("old-device"));
    }

    #[test]
    fn there_is_one_common_name_or_none() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let mut none = testing::named("x");
        none.distinguished_name = rcgen::DistinguishedName::new();
        assert_eq!(read(&Holder::of(&none, p256)).unwrap().common_name, None);
        let mut printable = testing::named("x");
        let value = DnValue::PrintableString("d/m".try_into().unwrap());
        printable.distinguished_name.push(DnType::CommonName, value);
        let name = read(&Holder::of(&printable, p256)).unwrap().common_name;
        assert_eq!(name.as_deref(), Some("d/m"));
        assert_eq!(
            read(&Holder::self_signed("é")).unwrap().common_name.as_deref(),
            Some("é")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // As they are, and as what a sequence of their length holds.
            let length = u8::try_from(bytes.len()).unwrap();
            let framed = [&[0x30, 0x81, length], &*bytes].concat();
            for der in [bytes, framed] {
                let pem = pem(&der);
                let _ = DeviceCa::parse(pem.as_bytes());
                let _ = DeviceCa::parse(&der);
                let certificate = ClientCertificate([der.into()].into());
                let _ = certificate.read();
                let _ = certificate.chains_to(&[], Timestamp::from_unix_seconds(2_000_000_000));
            }
        }

        #[test]
        fn damaged_authorities_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut der = testing::rsa().leaf().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            if let Ok(all) = DeviceCa::parse(pem(&der).as_bytes()) {
                for ca in all {
                    let _ = (ca.not_before.to_string(), ca.not_after.to_string());
                }
            }
        }

        #[test]
        fn damaged_certificates_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut der = testing::rsa().leaf().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            let chain = [der.into()];
            let certificate = ClientCertificate(chain.into());
            let _ = certificate.read();
            let ca = DeviceCa::parse(include_bytes!("fixtures/rsa.pem")).unwrap();
            let _ = certificate.chains_to(&ca, Timestamp::from_unix_seconds(2_000_000_000));
        }
    }
}
