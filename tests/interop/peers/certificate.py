"""Makes an authority and a certificate of its for one host: `certificate.py DIRECTORY HOST`.

Writes ca.pem, cert.pem and key.pem, and prints the SHA-256 of the public key, by which Chromium knows it.
"""

import base64
import datetime
import hashlib
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NO_USE = dict.fromkeys(
    ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
     "encipher_only", "decipher_only", "digital_signature"), False)


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def begin(subject, issuer, key, authority, **uses):
    """A certificate for a week, without what only some have."""
    now = datetime.datetime.now(datetime.timezone.utc)
    constraints = x509.BasicConstraints(ca=authority, path_length=None)
    return (
        x509.CertificateBuilder().subject_name(named(subject)).issuer_name(named(issuer))
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(constraints, critical=True)
        .add_extension(x509.KeyUsage(**NO_USE | uses), critical=True)
    )  # fmt: skip


def make(host):
    """The authority's certificate, the host's, and the host's key."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = begin("Interop", "Interop", ca_key, True, key_cert_sign=True, crl_sign=True)
    ca = ca.add_extension(ca_id, critical=False)
    cert = begin(host, "Interop", key, False, digital_signature=True)
    for extension in (
        x509.SubjectAlternativeName([x509.DNSName(host)]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id),
    ):
        cert = cert.add_extension(extension, critical=False)
    return ca.sign(ca_key, hashes.SHA256()), cert.sign(ca_key, hashes.SHA256()), key


def main():
    directory, host = pathlib.Path(sys.argv[1]), sys.argv[2]
    ca, cert, key = make(host)
    pem, bare = serialization.Encoding.PEM, serialization.NoEncryption()
    for name, certificate in (("ca", ca), ("cert", cert)):
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, bare))
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    print(base64.b64encode(hashlib.sha256(public).digest()).decode())


main()
