"""The log entry: the body of a Rekor v2 `hashedrekord` 0.0.2 over the digest of what a DSSE envelope signs.

The same bytes go into every log. They are the RFC 8785 form, written by a template, since every notarisation makes one.
Source: sigstore/rekor-tiles, `rekor/v2/hashedrekord.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256, sha384

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.encoding import b64
from afdp.formats.members import Members

API_VERSION = "0.0.2"
KIND = "hashedrekord"


class SignatureAlgorithm(StrEnum):
    """What made the signature, by its name in Sigstore (`PublicKeyDetails`)."""

    ECDSA_P256_SHA256 = "PKIX_ECDSA_P256_SHA_256"
    ECDSA_P384_SHA384 = "PKIX_ECDSA_P384_SHA_384"

    @property
    def hash_algorithm(self) -> str:
        """The hash that belongs to it, by its name in Sigstore (`HashAlgorithm`)."""
        return "SHA2_256" if self is SignatureAlgorithm.ECDSA_P256_SHA256 else "SHA2_384"

    @property
    def digest_size(self) -> int:
        """Bytes of a digest: 32 or 48."""
        return 32 if self is SignatureAlgorithm.ECDSA_P256_SHA256 else 48

    def digest(self, data: bytes) -> bytes:
        """The digest that is signed."""
        return (sha256 if self is SignatureAlgorithm.ECDSA_P256_SHA256 else sha384)(data).digest()


@dataclass(frozen=True, slots=True)
class HashedRekord:
    """A log entry that was read.

    Attributes:
        digest: of the DSSE pre-authentication encoding, 32 or 48 bytes.
        signature: ECDSA, DER.
        spki: the public key, SubjectPublicKeyInfo in DER.
    """

    digest: bytes
    signature: bytes
    spki: bytes
    algorithm: SignatureAlgorithm


def entry_body(
    digest: bytes,
    signature: bytes,
    spki: bytes,
    algorithm: SignatureAlgorithm = SignatureAlgorithm.ECDSA_P256_SHA256,
) -> bytes:
    """The bytes that become the leaf, about 490 for P-256.

    Args:
        digest: of the DSSE pre-authentication encoding, by the algorithm's hash: 32 or 48 bytes.
        signature: ECDSA, DER.
        spki: the public key, SubjectPublicKeyInfo in DER.
        algorithm: what made the signature.

    Raises:
        ValueError: the digest's length is not the algorithm's; the signature or key is empty.
    """
    if len(digest) != algorithm.digest_size:
        raise ValueError(f"a digest for {algorithm} has {algorithm.digest_size} bytes, not {len(digest)}")
    if not signature or not spki:
        raise ValueError("a log entry needs a signature and a public key")
    return _TEMPLATES[algorithm] % (b64(digest).encode(), b64(signature).encode(), b64(spki).encode())


def parse_entry_body(body: bytes) -> HashedRekord:
    """Reads a log entry and checks that its bytes are exactly those that `entry_body` writes.

    Raises:
        InvalidArgument: names the member that is missing, unknown or wrong; `body` where only the spelling differs.
    """
    entry = Members(strict_json(body))
    entry.one_of("apiVersion", (API_VERSION,))
    entry.one_of("kind", (KIND,))
    spec = entry.object("spec")
    record = spec.object("hashedRekordV002")
    data, signature = record.object("data"), record.object("signature")
    verifier = signature.object("verifier")
    key = verifier.object("publicKey")
    algorithm = SignatureAlgorithm(verifier.one_of("keyDetails", tuple(SignatureAlgorithm)))
    data.one_of("algorithm", (algorithm.hash_algorithm,))
    parsed = HashedRekord(
        digest=data.base64("digest", size=algorithm.digest_size),
        signature=signature.base64("content"),
        spki=key.base64("rawBytes"),
        algorithm=algorithm,
    )
    for each in (entry, spec, record, data, signature, verifier, key):
        each.end()
    if entry_body(parsed.digest, parsed.signature, parsed.spki, algorithm) != body:
        raise InvalidArgument.field("body", "is not in canonical form (RFC 8785)")
    return parsed


def key_hint(spki: bytes) -> str:
    """What a Sigstore bundle names a key by: base64 of the SHA-256 of its SubjectPublicKeyInfo in DER."""
    return b64(sha256(spki).digest())


def _template(algorithm: SignatureAlgorithm) -> bytes:
    return (
        f'{{"apiVersion":"{API_VERSION}","kind":"{KIND}","spec":{{"hashedRekordV002":{{'
        f'"data":{{"algorithm":"{algorithm.hash_algorithm}","digest":"%b"}},'
        f'"signature":{{"content":"%b","verifier":{{"keyDetails":"{algorithm}","publicKey":{{"rawBytes":"%b"}}}}}}'
        "}}}"
    ).encode()


_TEMPLATES = {algorithm: _template(algorithm) for algorithm in SignatureAlgorithm}
