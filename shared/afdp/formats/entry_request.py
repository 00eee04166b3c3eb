"""What a client of Rekor v2 asks a log to take: a `CreateEntryRequest` in protobuf's JSON, and the entry it becomes.

Read as Go's protojson reads it: both spellings of a name, null as absent, base64 of either alphabet with padding or
without, an enumeration's value by name or number. Unknown and repeated members are refused.
Source: sigstore/rekor-tiles, `rekor/v2/{entry,hashedrekord,verifier}.proto`; sigstore/protobuf-specs,
`sigstore_common.proto`.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from afdp.errors import InvalidArgument
from afdp.formats.canonical import member_path, strict_json
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import API_VERSION, KIND
from afdp.formats.tiles import MAX_ENTRY_SIZE

REQUEST = "hashedRekordRequestV002"
_DSSE = "dsseRequestV002"
_AROUND = 512  # bytes; an entry is never longer by this than its request


class EntryAlgorithm(StrEnum):
    """What made a signature: those of Rekor v2's list (`PublicKeyDetails`) that can be verified over a digest here."""

    ECDSA_P256_SHA256 = "PKIX_ECDSA_P256_SHA_256"
    ECDSA_P384_SHA384 = "PKIX_ECDSA_P384_SHA_384"
    ECDSA_P521_SHA512 = "PKIX_ECDSA_P521_SHA_512"
    RSA_2048_SHA256 = "PKIX_RSA_PKCS1V15_2048_SHA256"
    RSA_3072_SHA256 = "PKIX_RSA_PKCS1V15_3072_SHA256"
    RSA_4096_SHA256 = "PKIX_RSA_PKCS1V15_4096_SHA256"

    @property
    def hash_algorithm(self) -> str:
        """The hash that belongs to it, by its name in Sigstore (`HashAlgorithm`)."""
        return f"SHA2_{self.digest_size * 8}"

    @property
    def digest_size(self) -> int:
        """Bytes of a digest."""
        return {"384": 48, "512": 64}.get(self[-3:], 32)


_NUMBERS: dict[object, EntryAlgorithm] = {
    5: EntryAlgorithm.ECDSA_P256_SHA256,
    9: EntryAlgorithm.RSA_2048_SHA256,
    10: EntryAlgorithm.RSA_3072_SHA256,
    11: EntryAlgorithm.RSA_4096_SHA256,
    12: EntryAlgorithm.ECDSA_P384_SHA384,
    13: EntryAlgorithm.ECDSA_P521_SHA512,
}
_KNOWN = _NUMBERS | {str(each): each for each in EntryAlgorithm}


@dataclass(frozen=True, slots=True)
class EntryRequest:
    """A signature over a digest, with the key that made it: nothing of it has been verified.

    Attributes:
        digest: of what is signed, as long as the algorithm's hash.
        signature: DER for ECDSA, PKCS #1 v1.5 for RSA.
        verifier: SubjectPublicKeyInfo, or a certificate, in DER.
        certified: whether the verifier is a certificate.
    """

    digest: bytes
    signature: bytes
    algorithm: EntryAlgorithm
    verifier: bytes
    certified: bool = False

    @property
    def verifier_path(self) -> str:
        """Where the verifier stands in the request."""
        return f"{REQUEST}.signature.verifier.{'x509Certificate' if self.certified else 'publicKey'}.rawBytes"

    def entry(self) -> bytes:
        """The bytes that become the leaf: what Rekor v2 makes of the request (RFC 8785)."""
        return (
            f'{{"apiVersion":"{API_VERSION}","kind":"{KIND}","spec":{{"hashedRekordV002":{{"data":{{'
            f'"algorithm":"{self.algorithm.hash_algorithm}","digest":"{b64(self.digest)}"}},'
            f'"signature":{{"content":"{b64(self.signature)}","verifier":{{"keyDetails":"{self.algorithm}",'
            f'"{"x509Certificate" if self.certified else "publicKey"}":{{"rawBytes":"{b64(self.verifier)}"}}'
            "}}}}}"
        ).encode()


def read_entry_request(body: bytes) -> EntryRequest:
    """Reads a request for a hashedrekord 0.0.2.

    Raises:
        InvalidArgument: names the member that is missing, unknown or of another form, in `camelCase`.
    """
    request = _Message(strict_json(body), "")
    if request.has(_DSSE):
        request.refuse(_DSSE, f"is not taken, as by Rekor v2: send {REQUEST} with the digest of the envelope's PAE")
    record = request.message(REQUEST)
    signature = record.message("signature")
    verifier = signature.message("verifier")
    kinds = [kind for kind in ("publicKey", "x509Certificate") if verifier.has(kind)]
    if len(kinds) != 1:
        signature.refuse("verifier", "must have either publicKey or x509Certificate")
    holder = verifier.message(kinds[0])
    algorithm = verifier.algorithm("keyDetails")
    read = EntryRequest(
        digest=record.data("digest"),
        signature=signature.data("content"),
        algorithm=algorithm,
        verifier=holder.data("rawBytes"),
        certified=kinds[0] != "publicKey",
    )
    for each in (request, record, signature, verifier, holder):
        each.end()
    if len(read.digest) != algorithm.digest_size:
        record.refuse("digest", f"must have {algorithm.digest_size} bytes for {algorithm}, not {len(read.digest)}")
    if len(body) > MAX_ENTRY_SIZE - _AROUND and len(read.entry()) > MAX_ENTRY_SIZE:
        raise InvalidArgument.field("body", f"becomes an entry of over {MAX_ENTRY_SIZE} bytes, more than a log takes")
    return read


class _Message:
    """One message in protobuf's JSON."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise InvalidArgument.field(path or "body", "must be an object")
        self._path = path
        self._left: dict[str, object] = {}
        for name, member in value.items():
            if (known := _camel(name)) in self._left:
                self.refuse(known, "stands more than once")
            self._left[known] = member

    def refuse(self, name: str, message: str) -> NoReturn:
        """Raises for a member."""
        raise InvalidArgument.field(member_path(self._path, name), message)

    def has(self, name: str) -> bool:
        """Whether a member is there; null is as good as absent."""
        return self._left.get(name) is not None

    def message(self, name: str) -> _Message:
        """A message inside of this one."""
        return _Message(self._take(name), f"{self._path}.{name}" if self._path else name)

    def data(self, name: str) -> bytes:
        """Bytes, at least one."""
        text = self._take(name)
        if not isinstance(text, str):
            self.refuse(name, "must be a string of base64")
        data = _bytes(text)
        if data is None:
            self.refuse(name, "must be base64")
        if not data:
            self.refuse(name, "must not be empty")
        return data

    def algorithm(self, name: str) -> EntryAlgorithm:
        """One of the algorithms."""
        said = self._take(name)
        known = _KNOWN.get(said) if isinstance(said, str) or type(said) is int else None
        if known is None:
            self.refuse(name, f"must be one of {', '.join(EntryAlgorithm)}")
        return known

    def end(self) -> None:
        """Refuses what was not asked for."""
        for name, member in self._left.items():
            if member is not None:
                self.refuse(name, "is unknown")

    def _take(self, name: str) -> object:
        member = self._left.pop(name, None)
        if member is None:
            self.refuse(name, "is missing")
        return member


_SNAKE = {
    "hashed_rekord_request_v002": REQUEST,
    "dsse_request_v002": _DSSE,
    "public_key": "publicKey",
    "x509_certificate": "x509Certificate",
    "raw_bytes": "rawBytes",
    "key_details": "keyDetails",
}


def _camel(name: str) -> str:
    return _SNAKE.get(name, name)


_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")


def _bytes(text: str) -> bytes | None:
    """As protojson reads it; None where it is no base64."""
    with suppress(ValueError):  # the usual form
        return a2b_base64(text, strict_mode=True)
    if not _BASE64.fullmatch(text):
        return None
    bare = text.rstrip("=").translate(_URL_SAFE)
    if len(bare) % 4 == 1 or (text.endswith("=") and len(text) % 4):
        return None
    return a2b_base64(bare + "=" * (-len(bare) % 4))
