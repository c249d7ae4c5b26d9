//! Whether a certificate opens an identity (X.509 guide).
//!
//! What a certificate says has been read elsewhere, and that its holder has
//! its private key has been proved by the handshake; here is only the decision.

use super::authentication::{Authentication, Thumbprint};
use crate::ids::Target;
use crate::time::Timestamp;

/// What a presented certificate says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedCertificate {
    /// SHA-1 hash of the certificate.
    pub sha1: [u8; 20],
    /// SHA-256 hash of the certificate.
    pub sha256: [u8; 32],
    /// The common name of its subject, if there is exactly one that is text.
    pub common_name: Option<Box<str>>,
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last moment.
    pub not_after: Timestamp,
}

/// Why a certificate does not open an identity. Clients only ever learn
/// "unauthorized"; the reason is for the hub's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefusal {
    /// The identity has symmetric keys, or no credentials of its own.
    #[error("the identity does not authenticate with certificates")]
    WrongMethod,
    /// The certificate is none of the registered ones.
    #[error("the thumbprint does not match the identity's configuration")]
    Thumbprint,
    /// The subject is somebody else.
    #[error("the certificate's common name is not the identity's name")]
    CommonName,
    /// No registered authority issued the certificate.
    #[error("the certificate does not chain to a registered authority")]
    Untrusted,
    /// The certificate's first moment has not come.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// The certificate's last moment has passed.
    #[error("the certificate has expired")]
    Expired,
}

impl PresentedCertificate {
    /// Whether the certificate is valid at `now`.
    ///
    /// # Errors
    /// [`CertificateRefusal::NotYetValid`], [`CertificateRefusal::Expired`].
    pub fn check_validity(&self, now: Timestamp) -> Result<(), CertificateRefusal> {
        // The last moment is a whole second, of which all belongs to it.
        if now < self.not_before {
            Err(CertificateRefusal::NotYetValid)
        } else if now.unix_seconds() > self.not_after.unix_seconds() {
            Err(CertificateRefusal::Expired)
        } else {
            Ok(())
        }
    }

    fn has(&self, thumbprint: &Thumbprint) -> bool {
        thumbprint.is_of(&self.sha1) || thumbprint.is_of(&self.sha256)
    }
}

impl Authentication {
    /// Whether `certificate` opens the identity `target` with these
    /// credentials at `now`.
    ///
    /// A registered thumbprint stands for itself, whoever issued the
    /// certificate. Otherwise the common name has to be the identity's name
    /// (`device`, or `device/module`) and an authority that the hub trusts must
    /// have issued the certificate: `is_trusted` is asked last, since finding
    /// that out takes work.
    ///
    /// # Errors
    /// The reason, when it does not.
    pub fn check_certificate(
        &self,
        target: &Target,
        certificate: &PresentedCertificate,
        now: Timestamp,
        is_trusted: impl FnOnce() -> bool,
    ) -> Result<(), CertificateRefusal> {
        match self {
            Self::SelfSigned(thumbprints) => {
                let mut registered = thumbprints.primary.iter().chain(&thumbprints.secondary);
                if !registered.any(|thumbprint| certificate.has(thumbprint)) {
                    return Err(CertificateRefusal::Thumbprint);
                }
                certificate.check_validity(now)
            }
            Self::CertificateAuthority => {
                if certificate.common_name.as_deref() != Some(&*target.to_string()) {
                    return Err(CertificateRefusal::CommonName);
                }
                certificate.check_validity(now)?;
                if is_trusted() {
                    Ok(())
                } else {
                    Err(CertificateRefusal::Untrusted)
                }
            }
            Self::Sas(_) | Self::None => Err(CertificateRefusal::WrongMethod),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceId, ModuleId};
    use crate::registry::Thumbprints;
    use CertificateRefusal::{CommonName, Expired, NotYetValid, Thumbprint as Mismatch, Untrusted};

    fn certificate(common_name: Option<&str>) -> PresentedCertificate {
        PresentedCertificate {
            sha1: [0xab; 20],
            sha256: [0xcd; 32],
            common_name: common_name.map(Into::into),
            not_before: Timestamp::from_unix_seconds(1000),
            not_after: Timestamp::from_unix_seconds(2000),
        }
    }

    fn device(id: &str) -> Target {
        Target::device(DeviceId::parse(id).unwrap())
    }

    fn module(device: &str, module: &str) -> Target {
        Target {
            device: DeviceId::parse(device).unwrap(),
            module: Some(ModuleId::parse(module).unwrap()),
        }
    }

    fn within() -> Timestamp {
        Timestamp::from_unix_seconds(1500)
    }

    #[test]
    fn a_registered_thumbprint_is_enough() {
        let thumbprint = |text: &str| Some(Thumbprint::parse(text).unwrap());
        let (sha1, sha256) = ("aB".repeat(20), "CD".repeat(32));
        let colons = vec!["AB"; 20].join(":");
        for (primary, secondary, expected) in [
            (Some(&sha1), None, Ok(())),
            (None, Some(&sha1), Ok(())),
            (Some(&sha256), None, Ok(())),
            (Some(&colons), None, Ok(())),
            (Some(&"0".repeat(40)), Some(&sha256), Ok(())),
            (Some(&"0".repeat(40)), Some(&"0".repeat(64)), Err(Mismatch)),
            // A SHA-256 hash that begins with the SHA-1 hash is another one.
            (Some(&"ab".repeat(32)), None, Err(Mismatch)),
            (None, None, Err(Mismatch)),
        ] {
            let authentication = Authentication::SelfSigned(Thumbprints {
                primary: primary.and_then(|text| thumbprint(text)),
                secondary: secondary.and_then(|text| thumbprint(text)),
            });
            let checked = authentication.check_certificate(
                &device("d"),
                &certificate(Some("somebody else")),
                within(),
                || panic!("issuers do not matter"),
            );
            assert_eq!(checked, expected, "{primary:?} {secondary:?}");
        }
    }

    #[test]
    fn an_issued_certificate_names_its_identity() {
        for (common_name, target, expected) in [
            (Some("d"), device("d"), Ok(())),
            (Some("d/m"), module("d", "m"), Ok(())),
            (Some("d"), module("d", "m"), Err(CommonName)),
            (Some("m"), module("d", "m"), Err(CommonName)),
            (Some("d/m"), device("d"), Err(CommonName)),
            (Some("D"), device("d"), Err(CommonName)),
            (Some("d2"), device("d"), Err(CommonName)),
            (Some(""), device("d"), Err(CommonName)),
            (None, device("d"), Err(CommonName)),
        ] {
            let certificate = certificate(common_name);
            let check = |is_trusted| {
                Authentication::CertificateAuthority.check_certificate(
                    &target,
                    &certificate,
                    within(),
                    || is_trusted,
                )
            };
            assert_eq!(check(true), expected, "{common_name:?} for {target}");
            assert_eq!(
                check(false),
                expected.and(Err(Untrusted)),
                "{common_name:?} for {target}"
            );
        }
    }

    #[test]
    fn validity_counts_for_both_kinds() {
        let thumbprints = Authentication::SelfSigned(Thumbprints {
            primary: Some(Thumbprint::parse(&"ab".repeat(20)).unwrap()),
            secondary: None,
        });
        let just_after_two_thousand = Timestamp::from_unix_ticks(2000 * 10_000_000 + 1);
        for (now, expected) in [
            (Timestamp::from_unix_seconds(999), Err(NotYetValid)),
            (Timestamp::from_unix_seconds(1000), Ok(())),
            (Timestamp::from_unix_seconds(2000), Ok(())),
            (just_after_two_thousand, Ok(())),
            (Timestamp::from_unix_seconds(2001), Err(Expired)),
        ] {
            for authentication in [&thumbprints, &Authentication::CertificateAuthority] {
                let checked =
                    authentication.check_certificate(&device("d"), &certificate(Some("d")), now, || true);
                assert_eq!(checked, expected, "{now} {}", authentication.kind());
            }
        }
    }

    #[test]
    fn identities_without_certificates_are_not_opened_by_one() {
        let checked =
            Authentication::None.check_certificate(&device("d"), &certificate(Some("d")), within(), || true);
        assert_eq!(checked, Err(CertificateRefusal::WrongMethod));
    }
}
