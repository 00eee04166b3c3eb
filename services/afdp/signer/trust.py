"""Signing the trust root's metadata: only of the online roles, only forward, and only for a while.

Knows TUF metadata. Knows no gRPC, no Vault and no file.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from afdp.errors import InvalidArgument, NotaryError
from afdp.formats.repository import MAX_LIFETIME, ONLINE_ROLES
from afdp.signer.keys import KeyCatalogue, Purpose, Signature
from afdp.signer.trust_metadata import OnlineMetadata, read_online_metadata, require_forward
from afdp.signer.verification import require_ed25519

MAX_METADATA_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SignedMetadata:
    """A signature over metadata with the raw public key that verifies it."""

    signature: Signature
    public_key: bytes  # 32 bytes


class MetadataMemory(Protocol):
    """What was signed last for each online role, kept outside of the repository (`trust_memory.py`)."""

    def last(self, role: str) -> OnlineMetadata | None:
        """The metadata that was kept last."""

    async def keep(self, metadata: OnlineMetadata) -> None:
        """Keeps metadata; it survives a crash once this returns."""


class TrustSigner:
    """Signs with the trust key, and remembers."""

    def __init__(self, keys: KeyCatalogue, memory: MetadataMemory) -> None:
        self._keys = keys
        self._memory = memory
        self._locks = {role: asyncio.Lock() for role in ONLINE_ROLES}

    async def sign(self, signed: bytes) -> SignedMetadata:
        """Signs the `signed` member of TUF metadata. What is signed is remembered on disk before the signature leaves.

        Raises:
            InvalidArgument: it is not such metadata, has expired, or is valid for too long.
            PermissionDenied: it is of a role that is kept offline.
            FailedPrecondition: it goes back behind what was signed last for its role; `last_version` in the error's
                metadata is the version to exceed.
            Unavailable: the key cannot be reached, or the memory not be written; nothing was signed.
        """
        if len(signed) > MAX_METADATA_BYTES:
            raise InvalidArgument.field("signed", f"must be at most {MAX_METADATA_BYTES} bytes")
        metadata = read_online_metadata(signed)
        _require_lifetime(metadata)
        async with self._locks[metadata.role]:
            require_forward(self._memory.last(metadata.role), metadata)
            [answer] = await self._keys.sign(self._keys.named(Purpose.TRUST), [signed])
            if isinstance(answer, NotaryError):
                raise answer
            public_key = require_ed25519(answer.key.spki, answer.value, signed)
            await self._memory.keep(metadata)
        return SignedMetadata(answer, public_key)


def _require_lifetime(metadata: OnlineMetadata) -> None:
    lifetime = metadata.expires - datetime.now(UTC)
    if lifetime.total_seconds() <= 0:
        raise InvalidArgument.field("signed.expires", "must not have passed")
    if lifetime > MAX_LIFETIME[metadata.role]:
        days = MAX_LIFETIME[metadata.role].days
        raise InvalidArgument.field("signed.expires", f"must be within {days} days for {metadata.role}")
