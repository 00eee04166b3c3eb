"""A time-stamping authority that is not ours: `openssl ts` with a chain of its own, for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_CONFIG = """
[tsa]
default_tsa = stamps
[stamps]
serial = serial
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1
digests = sha256, sha384, sha512
accuracy = secs:1
ordering = no
tsa_name = no
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class OpensslAuthority:
    """Answers queries with its key and certificate in a folder."""

    folder: Path
    url: str
    certificates: tuple[bytes, ...]  # DER, its own first, the root last
    turn: Lock = field(default_factory=Lock)  # its files have one name each

    @classmethod
    def create(
        cls,
        folder: Path,
        url: str = "https://tsa.example/tsr",
        *,
        with_rsa: bool = False,
        ended: timedelta | None = None,
    ) -> OpensslAuthority:
        """A new one, valid for a year around now, or until some time before now."""
        folder.mkdir(parents=True, exist_ok=True)
        root_key, key = _key(with_rsa), _key(with_rsa)
        root = _certificate("Root of Time", root_key, "Root of Time", root_key, leaf=False)
        own = _certificate("Some Authority", key, "Root of Time", root_key, leaf=True, ended=ended)
        (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / "own.pem").write_bytes(own.public_bytes(Encoding.PEM))
        (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
        (folder / "tsa.cnf").write_text(_CONFIG)
        (folder / "serial").write_text("01\n")
        return cls(folder, url, (own.public_bytes(Encoding.DER), root.public_bytes(Encoding.DER)))

    def reply(self, query: bytes) -> bytes:
        """TimeStampResp, DER, to a TimeStampReq."""
        with self.turn:
            (self.folder / "query.tsq").write_bytes(query)
            self._openssl(
                *("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query.tsq", "-out", "reply.tsr"),
                *("-signer", "own.pem", "-inkey", "key.pem", "-chain", "root.pem"),
            )
            return (self.folder / "reply.tsr").read_bytes()

    def stamp(self, data: bytes) -> bytes:
        """TimeStampResp, DER, over data, of now."""
        (self.folder / "data").write_bytes(data)
        self._openssl("ts", "-query", "-data", "data", "-sha256", "-no_nonce", "-out", "own.tsq")
        return self.reply((self.folder / "own.tsq").read_bytes())

    def _openssl(self, *arguments: str) -> None:
        done = _openssl(self.folder, *arguments)
        assert done.returncode == 0, done.stderr.decode()


def openssl_verifies(folder: Path, response: bytes, data: bytes, certificates: Sequence[bytes]) -> bool:
    """Whether `openssl ts -verify` believes a TimeStampResp over data, by the chain of an `OpensslAuthority`."""
    (folder / "stamp.tsr").write_bytes(response)
    (folder / "stamped").write_bytes(data)
    pems = [x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in certificates]
    (folder / "authority.pem").write_bytes(b"".join(pems[:-1]))
    (folder / "root.pem").write_bytes(pems[-1])
    arguments = ("-in", "stamp.tsr", "-data", "stamped", "-CAfile", "root.pem", "-untrusted", "authority.pem")
    return _openssl(folder, "ts", "-verify", *arguments).returncode == 0


def _openssl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OPENSSL_CONF": "/dev/null"}
    return subprocess.run(("openssl", *arguments), cwd=folder, env=environment, capture_output=True, check=False)


def _key(with_rsa: bool) -> _PrivateKey:
    return rsa.generate_private_key(65537, 2048) if with_rsa else ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    key: _PrivateKey,
    issuer: str,
    issuer_key: _PrivateKey,
    *,
    leaf: bool,
    ended: timedelta | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=180))
        .not_valid_after(now - ended if ended else now + timedelta(days=180))
        .add_extension(x509.BasicConstraints(ca=not leaf, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if leaf:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())
