"""TUF metadata as bytes and back, with errors of ours."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import CanonicalJSONSerializer

from afdp.errors import InvalidArgument

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


def parsed(kind: type[S], name: str, data: bytes) -> Metadata[S]:
    """Metadata of a kind.

    Raises:
        InvalidArgument: it is not such metadata; the file is named.
    """
    try:
        metadata: Metadata[S] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise InvalidArgument.field(name, "is not TUF metadata") from error
    if not isinstance(metadata.signed, kind):
        raise InvalidArgument.field(name, f"is not metadata of {kind.type}")
    return metadata


def require_signed(name: str, metadata: Metadata[S], role: str, delegator: Root | Targets) -> None:
    """That metadata has the signatures that its delegator asks of the role.

    Raises:
        InvalidArgument: it has not; the file is named, with how many are missing.
    """
    try:
        found = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except (ValueError, RepositoryError) as error:
        raise InvalidArgument.field(name, f"cannot be verified: {error}") from error
    if not found:
        signed = len(found.signed)
        raise InvalidArgument.field(name, f"has {signed} of the {found.threshold} signatures that {role} needs")


def payload(signed: Signed) -> bytes:
    """What a signature of metadata is over: the canonical JSON of its `signed` member."""
    return CanonicalJSONSerializer().serialize(signed)


def sealed(signed: Signed, public_key: bytes, signature: bytes) -> bytes:
    """Metadata with its one signature, Ed25519, as it is served."""
    key = tuf_key(public_key)
    metadata: Metadata[Any] = Metadata(signed, {key.keyid: Signature(key.keyid, signature.hex())})
    return metadata.to_bytes()


def tuf_key(public_key: bytes) -> SSlibKey:
    """A raw Ed25519 key, 32 bytes, as TUF metadata has it."""
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(public_key))


def sha256_hex(data: bytes) -> str:
    """What a target file's name begins with."""
    return sha256(data).hexdigest()
