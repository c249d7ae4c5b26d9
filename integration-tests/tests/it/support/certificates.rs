//! Certificates of devices and of those who issue them.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Whoever has a certificate and its key.
pub struct Holder {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Holder {
    pub fn self_signed(common_name: &str) -> Self {
        Self::self_signed_with(&named(common_name))
    }

    pub fn self_signed_with(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params.self_signed(&key).unwrap(), &key)
    }

    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    /// Sends the certificates of these authorities, too.
    pub fn through(mut self, authorities: &[&DeviceCa]) -> Self {
        let more = authorities.iter().map(|ca| ca.certificate.der().clone());
        self.chain.extend(more);
        self
    }

    /// The certificate's SHA-1 hash in upper-case hex digits.
    pub fn sha1(&self) -> String {
        hex(&SHA1_FOR_LEGACY_USE_ONLY, &self.chain[0])
    }

    /// The certificate's SHA-256 hash in upper-case hex digits.
    pub fn sha256(&self) -> String {
        hex(&SHA256, &self.chain[0])
    }
}

/// An authority of devices, root or intermediate.
pub struct DeviceCa {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl DeviceCa {
    pub fn root(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        Self {
            certificate: params.self_signed(&key).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        Self {
            certificate: params.signed_by(&key, &self.issuer).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Issues a device's certificate.
    pub fn issue(&self, params: &CertificateParams) -> Holder {
        let key = KeyPair::generate().unwrap();
        Holder::new(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The SHA-1 hash in upper-case hex digits.
    pub fn sha1(&self) -> String {
        hex(&SHA1_FOR_LEGACY_USE_ONLY, self.certificate.der())
    }

    /// The SHA-256 hash in upper-case hex digits.
    pub fn sha256(&self) -> String {
        hex(&SHA256, self.certificate.der())
    }
}

pub fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// The same with a change.
fn with(mut params: CertificateParams, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    change(&mut params);
    params
}

/// Was valid in 2019.
pub fn expired(common_name: &str) -> CertificateParams {
    with(named(common_name), |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    })
}

/// Will be valid in 3000.
pub fn not_yet_valid(common_name: &str) -> CertificateParams {
    with(named(common_name), |params| {
        params.not_before = date_time_ymd(3000, 1, 1);
        params.not_after = date_time_ymd(3001, 1, 1);
    })
}

fn authority(name: &str) -> CertificateParams {
    with(named(name), |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    })
}

fn hex(algorithm: &'static Algorithm, der: &[u8]) -> String {
    let hash = digest(algorithm, der);
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}
