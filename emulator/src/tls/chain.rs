//! From a device's certificate to a registered authority.
//!
//! Checked are names, signatures, dates and whether a certificate may issue
//! others; not revocation, as in the service.

use std::collections::VecDeque;

use hub_core::limits;
use hub_core::time::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE};
use x509_parser::prelude::X509Certificate;

use super::certificate::{parse, timestamp};
use super::der::Pieces;
use super::{ALGORITHMS, DeviceCa};

/// Whether the first certificate of `chain` was issued by one of
/// `authorities`, directly or through others of `chain`, in any order.
pub(super) fn leads_to(chain: &[CertificateDer<'_>], authorities: &[DeviceCa], now: Timestamp) -> bool {
    let mut links = chain
        .iter()
        .take(limits::CERTIFICATE_CHAIN)
        .map(|der| Link::read(der));
    let Some(Some(leaf)) = links.next() else {
        return false;
    };
    let authorities: Vec<Link<'_>> = authorities.iter().filter_map(|ca| Link::read(ca.der())).collect();
    let mut unused: Vec<Link<'_>> = links.flatten().collect();
    // The certificates that are known to have issued the one before them down
    // to the leaf, with the number of issuers below each. Every certificate
    // enters once, so there are few signatures to check whatever is sent.
    let mut reached = VecDeque::from([(leaf, 0)]);
    while let Some((link, below)) = reached.pop_front() {
        let may_issue = |issuer: &Link<'_>, rule| {
            issuer.is_valid(now) && issuer.may_issue(below, rule) && link.is_issued_by(issuer)
        };
        if authorities
            .iter()
            .any(|ca| may_issue(ca, Unconstrained::MayIssue))
        {
            return true;
        }
        let (issuers, others) = unused
            .into_iter()
            .partition(|link| may_issue(link, Unconstrained::MayNotIssue));
        unused = others;
        let issuers: Vec<Link<'_>> = issuers;
        reached.extend(issuers.into_iter().map(|issuer| (issuer, below + 1)));
    }
    false
}

/// Whether `certificate` may be registered as an authority: nothing in it says
/// that it may not issue certificates.
pub(super) fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    may_issue(certificate, 0, Unconstrained::MayIssue)
}

/// What it means that a certificate does not say whether it is an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unconstrained {
    /// Roots of version 1 say nothing; registering one says it.
    MayIssue,
    /// Or any device could issue certificates for the others.
    MayNotIssue,
}

struct Link<'a> {
    certificate: X509Certificate<'a>,
    pieces: Pieces<'a>,
}

impl<'a> Link<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        Some(Self {
            certificate: parse(der)?,
            pieces: Pieces::of(der)?,
        })
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        let validity = self.certificate.validity();
        timestamp(validity.not_before) <= now
            && now.unix_seconds() <= timestamp(validity.not_after).unix_seconds()
    }

    fn may_issue(&self, below: u32, unconstrained: Unconstrained) -> bool {
        may_issue(&self.certificate, below, unconstrained)
    }

    fn is_issued_by(&self, issuer: &Link<'_>) -> bool {
        let named = self.certificate.issuer().as_raw() == issuer.certificate.subject().as_raw();
        named
            && ALGORITHMS
                .all
                .iter()
                .filter(|algorithm| {
                    algorithm.signature_alg_id().as_ref() == self.pieces.signature_algorithm
                        && algorithm.public_key_alg_id().as_ref() == issuer.pieces.key_algorithm
                })
                .any(|algorithm| {
                    algorithm
                        .verify_signature(issuer.pieces.key, self.pieces.signed, self.pieces.signature)
                        .is_ok()
                })
    }
}

/// Whether `certificate` may have issued one below which there are `below`
/// issuers (RFC 5280, sections 4.2.1.3 and 4.2.1.9).
fn may_issue(certificate: &X509Certificate<'_>, below: u32, unconstrained: Unconstrained) -> bool {
    let constraints = match certificate.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS) {
        Ok(None) => unconstrained == Unconstrained::MayIssue,
        Ok(Some(extension)) => match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                constraints.ca && constraints.path_len_constraint.is_none_or(|most| below <= most)
            }
            _ => false,
        },
        Err(_) => false,
    };
    let usage = match certificate.get_extension_unique(&OID_X509_EXT_KEY_USAGE) {
        Ok(None) => true,
        Ok(Some(extension)) => match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => usage.key_cert_sign(),
            _ => false,
        },
        Err(_) => false,
    };
    constraints && usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Issuing, authority, expired, named, with};
    use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};

    fn now() -> Timestamp {
        Timestamp::parse("2026-01-02T03:04:05Z").unwrap()
    }

    fn trusted(authorities: &[&Issuing]) -> Vec<DeviceCa> {
        let pem: String = authorities.iter().map(|a| a.certificate.pem()).collect();
        DeviceCa::parse(pem.as_bytes()).unwrap()
    }

    fn leads(chain: &[&Issuing], authorities: &[&Issuing]) -> bool {
        let chain: Vec<_> = chain.iter().map(|link| link.certificate.der().clone()).collect();
        leads_to(&chain, &trusted(authorities), now())
    }

    #[test]
    fn any_part_of_the_chain_may_be_trusted() {
        let root = Issuing::root(authority("root"));
        let upper = root.issue(authority("upper"));
        let lower = upper.issue(authority("lower"));
        let leaf = lower.issue(named("d"));
        for (chain, authorities, expected) in [
            (&[&leaf, &lower, &upper][..], &[&root][..], true),
            (&[&leaf, &upper, &lower], &[&root], true),
            (&[&leaf, &lower, &upper, &root], &[&root], true),
            (&[&leaf, &lower], &[&upper], true),
            (&[&leaf], &[&lower], true),
            (&[&leaf], &[&upper, &lower], true),
            (&[&leaf, &lower, &upper, &root], &[&lower], true),
            (&[&leaf, &upper], &[&root], false),
            (&[&leaf, &lower], &[&root], false),
            (&[&leaf], &[&root], false),
            (&[], &[&root], false),
        ] {
            assert_eq!(
                leads(chain, authorities),
                expected,
                "{} in the chain",
                chain.len()
            );
        }
    }

    #[test]
    fn names_are_not_enough() {
        let root = Issuing::root(authority("root"));
        let forged = Issuing::root(authority("root"));
        let leaf = forged.issue(named("d"));
        assert!(!leads(&[&leaf], &[&root]));
        // The right one among several of one name is found.
        assert!(leads(&[&leaf], &[&root, &forged]));
        let upper = root.issue(authority("upper"));
        let other_upper = forged.issue(authority("upper"));
        let leaf = upper.issue(named("d"));
        assert!(leads(&[&leaf, &other_upper, &upper], &[&root]));
        assert!(!leads(&[&leaf, &other_upper], &[&root]));
    }

    #[test]
    fn a_certificate_issued_by_two_is_followed_to_both() {
        let (old, new) = (Issuing::root(authority("old")), Issuing::root(authority("new")));
        let middle = old.issue(authority("middle"));
        let leaf = middle.issue(named("d"));
        assert!(leads(&[&leaf, &middle], &[&new, &old]));
        assert!(!leads(&[&leaf, &middle], &[&new]));
    }

    #[test]
    fn only_authorities_issue() {
        let root = Issuing::root(authority("root"));
        let device = root.issue(named("d1"));
        let explicitly = root.issue(with(named("d1"), |params| {
            params.is_ca = IsCa::ExplicitNoCa;
        }));
        let no_signing = root.issue(with(authority("d1"), |params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }));
        for issuer in [&device, &explicitly, &no_signing] {
            let leaf = issuer.issue(named("d2"));
            assert!(!leads(&[&leaf, issuer], &[&root]));
        }
        assert!(leads(&[&root.issue(named("d2"))], &[&root]));
    }

    #[test]
    fn the_length_of_paths_is_respected() {
        let root = Issuing::root(with(named("root"), |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        }));
        let upper = root.issue(authority("upper"));
        let lower = upper.issue(authority("lower"));
        assert!(leads(&[&upper.issue(named("d")), &upper], &[&root]));
        assert!(!leads(&[&lower.issue(named("d")), &lower, &upper], &[&root]));
    }

    #[test]
    fn expired_issuers_do_not_count() {
        let dead = |name| {
            with(expired(name), |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            })
        };
        let root = Issuing::root(dead("root"));
        assert!(!leads(&[&root.issue(named("d"))], &[&root]));
        let root = Issuing::root(authority("root"));
        let upper = root.issue(dead("upper"));
        assert!(!leads(&[&upper.issue(named("d")), &upper], &[&root]));
    }

    #[test]
    fn what_is_no_authority_cannot_be_registered() {
        use crate::tls::DeviceCaError;
        let authority = Issuing::root(authority("root")).certificate.pem();
        let device = Issuing::root(with(named("d"), |params| {
            params.is_ca = IsCa::ExplicitNoCa;
        }));
        let text = authority + &device.certificate.pem();
        let error = DeviceCa::parse(text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, DeviceCaError::NotAnAuthority { number: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("CN=d"), "{error}");
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = DeviceCa::parse(damaged.as_bytes()).unwrap_err();
        assert!(
            matches!(error, DeviceCaError::Certificate { number: 1 }),
            "{error}"
        );
        let error = DeviceCa::parse(b"-----BEGIN CERTIFICATE-----\nAA").unwrap_err();
        assert!(matches!(error, DeviceCaError::Pem(_)), "{error}");
        for nothing in ["", "root"] {
            let error = DeviceCa::parse(nothing.as_bytes()).unwrap_err();
            assert!(matches!(error, DeviceCaError::Empty), "{error}");
        }
    }
}
