"""Certificates for devices: authorities, what they issue, and self-signed ones."""

from __future__ import annotations

import datetime
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.iot.device import X509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DIRECTORY = Path(tempfile.mkdtemp(prefix="conformance-"))
DAY = datetime.timedelta(days=1)


@dataclass
class Certificate:
    """A certificate with its key, and the chain that a client presents with it."""

    certificate: x509.Certificate
    key: Any
    chain: list[x509.Certificate]

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def thumbprint(self, algorithm: Any = None) -> str:
        """SHA-1 unless told otherwise, in upper-case hexadecimal."""
        return self.certificate.fingerprint(algorithm or hashes.SHA1()).hex().upper()

    @property
    def sha256(self) -> str:
        return self.thumbprint(hashes.SHA256())

    def credentials(self, passphrase: str | None = None) -> X509:
        """As the device SDK wants them: files of the chain and of the key."""
        name = DIRECTORY / f"{self.certificate.serial_number:x}"
        pem = [c.public_bytes(serialization.Encoding.PEM) for c in (self.certificate, *self.chain)]
        name.with_suffix(".pem").write_bytes(b"".join(pem))
        protection = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
        name.with_suffix(".key").write_bytes(self.key.private_bytes(*encoding))
        return X509(str(name.with_suffix(".pem")), str(name.with_suffix(".key")), passphrase)


def self_signed(name: str, rsa_key: bool = False, **validity: datetime.timedelta) -> Certificate:
    return make(name, None, rsa_key=rsa_key, **validity)


def authority(name: str, issuer: Certificate | None = None) -> Certificate:
    """A root, or an authority below another."""
    return make(name, issuer, is_authority=True)


def issued(name: str, issuer: Certificate, **validity: datetime.timedelta) -> Certificate:
    return make(name, issuer, **validity)


def make(
    name: str,
    issuer: Certificate | None,
    is_authority: bool = False,
    rsa_key: bool = False,
    starts: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
) -> Certificate:
    key = rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    # A root is not presented: whoever trusts it has it.
    is_below_root = issuer is not None and issuer.certificate.subject != issuer.certificate.issuer
    chain = [issuer.certificate, *issuer.chain] if is_below_root else []
    return Certificate(certificate, key, chain)
