//! As much of DER as signatures over certificates and by their keys need.
//!
//! The TLS library's own reader refuses certificates of version 1, which
//! `openssl x509 -req` makes unless it is given extensions; parsing a whole
//! certificate is more than a handshake needs.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const VERSION: u8 = 0xa0;

/// The pieces of a certificate by which signatures are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pieces<'a> {
    /// What the issuer has signed.
    pub(super) signed: &'a [u8],
    /// How; the contents of an `AlgorithmIdentifier`.
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    /// The kind of the subject's key; the contents of an `AlgorithmIdentifier`.
    pub(super) key_algorithm: &'a [u8],
    pub(super) key: &'a [u8],
}

impl<'a> Pieces<'a> {
    /// Takes a certificate of any version apart (RFC 5280, section 4.1).
    pub(super) fn of(certificate: &'a [u8]) -> Option<Self> {
        let mut file = Reader(certificate);
        let mut certificate = Reader(file.expect(SEQUENCE)?);
        let signed = certificate.next()?;
        let signature_algorithm = certificate.expect(SEQUENCE)?;
        let signature = certificate.bits()?;
        if signed.tag != SEQUENCE || !certificate.0.is_empty() || !file.0.is_empty() {
            return None;
        }

        let mut fields = Reader(signed.contents);
        // The version, which version 1 leaves out, or else the serial number.
        if fields.next()?.tag == VERSION {
            fields.next()?;
        }
        // Signature algorithm, issuer, validity, subject.
        for _ in 0..4 {
            fields.expect(SEQUENCE)?;
        }
        let mut key_info = Reader(fields.expect(SEQUENCE)?);
        Some(Self {
            signed: signed.whole,
            signature_algorithm,
            signature,
            key_algorithm: key_info.expect(SEQUENCE)?,
            key: key_info.bits()?,
        })
    }
}

struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    /// Tag and length included.
    whole: &'a [u8],
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&length, mut rest) = rest.split_first()?;
        let length = match length {
            0..=0x7f => usize::from(length),
            // A length of one to three bytes: no certificate is larger.
            0x81..=0x83 => {
                let (bytes, after) = rest.split_at_checked(usize::from(length & 0x7f))?;
                rest = after;
                bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (contents, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, contents, whole })
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|element| element.tag == tag)
            .map(|element| element.contents)
    }

    /// A bit string of whole bytes.
    fn bits(&mut self) -> Option<&'a [u8]> {
        self.expect(BIT_STRING)?.strip_prefix(&[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{self, Holder};
    use proptest::prelude::*;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    #[test]
    fn pieces_are_those_of_the_full_parser() {
        for holder in [Holder::self_signed("d"), testing::version_1(), testing::rsa()] {
            let der = holder.leaf();
            let pieces = Pieces::of(&der).unwrap();
            let (_, parsed) = X509Certificate::from_der(&der).unwrap();
            assert_eq!(pieces.signed, parsed.tbs_certificate.as_ref());
            assert_eq!(pieces.signature, &*parsed.signature_value.data);
            assert_eq!(pieces.key, &*parsed.public_key().subject_public_key.data);
            let info = parsed.public_key().raw;
            let at = info.len() - pieces.key.len();
            assert!(
                info[..at]
                    .windows(pieces.key_algorithm.len())
                    .any(|w| w == pieces.key_algorithm)
            );
        }
    }

    #[test]
    fn what_is_cut_or_longer_is_no_certificate() {
        let der = Holder::self_signed("d").leaf();
        for length in 0..der.len() {
            assert_eq!(Pieces::of(&der[..length]), None, "{length}");
        }
        let mut longer = der.to_vec();
        longer.push(0);
        assert_eq!(Pieces::of(&longer), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Pieces::of(&bytes);
        }

        #[test]
        fn damaged_certificates_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut der = testing::version_1().leaf().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            let _ = Pieces::of(&der);
        }
    }
}
