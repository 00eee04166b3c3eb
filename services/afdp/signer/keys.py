"""The keys that the signer holds, whatever holds their private halves.

A *key* has a name, a purpose and an algorithm, and any number of versions, of which the newest signs. A *keyring* is
one technology that holds private keys. The *catalogue* knows which keyring holds which key, and what follows for each
version: until when it is valid, for which tenants, and whether it was revoked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from afdp.errors import FailedPrecondition, NotaryError, NotFound
from afdp.signer.part import Part

P256 = "PKIX_ECDSA_P256_SHA_256"
P384 = "PKIX_ECDSA_P384_SHA_384"
ED25519 = "PKIX_ED25519"

# What was signed with the version before while it was rotated is stamped a little later: its validity ends after this.
GRACE = timedelta(minutes=10)


class Purpose(Enum):
    """What a key is for. No key has two."""

    EVIDENCE = "evidence"
    LOG = "log"
    TIMESTAMP = "timestamp"
    TRUST = "trust"


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What a key shall be.

    Attributes:
        name: without a version.
        algorithm: as Sigstore names it: `P256`, `P384` or `ED25519` of this module.
        tenants: those whose evidence it signs; `*` is all that have no key of their own.
        origins: of a log key, the logs whose checkpoints it signs; `*` is all that have no key of their own.
    """

    name: str
    purpose: Purpose
    algorithm: str
    tenants: tuple[str, ...] = ("*",)
    origins: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Revocation:
    """Why and since when a key version is not trusted."""

    at: datetime
    compromised_since: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of one key: its public half and what is known of it."""

    key_id: str  # name:version
    purpose: Purpose
    algorithm: str
    spki: bytes  # SubjectPublicKeyInfo, DER
    valid_from: datetime
    current: bool
    valid_until: datetime | None = None
    tenants: tuple[str, ...] = ("*",)
    revoked: Revocation | None = None
    origins: tuple[str, ...] = ()  # of a log key

    @property
    def number(self) -> int:
        """Which version it is, from 1."""
        return int(self.key_id.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the key version that made it."""

    value: bytes  # ASN.1 DER (ECDSA) or 64 bytes (Ed25519)
    key: KeyVersion


class Keyring(Protocol):
    """One technology that holds private keys: `files.py`, `vault.py`, `pkcs11.py`.

    It is made with the specs of the keys it holds, and knows each by its name.
    """

    @property
    def kind(self) -> str:
        """What it is called in the signer's status: `files`, `vault`, `hsm`."""

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        """Signatures of a key's current version, or of the one that is given, one answer per input, in order.

        An input is the digest that the key's algorithm signs (32 bytes for P-256, 48 for P-384), or for Ed25519 the
        message itself. An input of another length is refused, alone.

        Raises:
            Unavailable: the key cannot be reached; nothing was signed.
            FailedPrecondition: there is no such key, or it is of another type.
        """

    async def versions(self, name: str) -> Sequence[KeyVersion]:
        """Every version of a key, oldest first, without what only the catalogue knows.

        Raises:
            Unavailable: the key cannot be reached.
        """

    async def rotate(self, name: str) -> KeyVersion:
        """A new version of a key, which signs from now on.

        Raises:
            FailedPrecondition: this keyring may not rotate.
            Unavailable: the key cannot be reached; nothing was changed.
        """

    async def check(self) -> None:
        """Raises `Unavailable` while nothing can be signed."""

    async def status(self) -> Sequence[Part]:
        """How it is, for operators: see `status.py`."""


class RevocationList(Protocol):
    """Which key versions are revoked (`revocations.py`)."""

    def of(self, key_id: str) -> Revocation | None:
        """The revocation of a version, if there is one."""

    async def keep(self, key_id: str, revocation: Revocation) -> None:
        """Keeps a version's revocation; it survives a crash once this returns."""


class VersionList(Protocol):
    """Which key versions there ever were (`version_memory.py`)."""

    def require_signing(self, version: KeyVersion) -> None:
        """Raises `FailedPrecondition` for a version that is another key than it was, or was given up."""

    async def completed(self, held: Sequence[KeyVersion], purpose: Purpose | None) -> list[KeyVersion]:
        """The versions that are held, after those of a purpose that were once and are no longer."""


class KeyCatalogue:
    """Every key, with the keyring that holds it."""

    def __init__(self, held: Mapping[KeySpec, Keyring], revocations: RevocationList, memory: VersionList) -> None:
        self._held = {spec.name: (spec, keyring) for spec, keyring in held.items()}
        self._revocations = revocations
        self._memory = memory
        if len(self._held) != len(held):
            raise FailedPrecondition("two keys have the same name")
        self._evidence = {tenant: spec for spec in held if spec.purpose is Purpose.EVIDENCE for tenant in spec.tenants}
        self._logs = {origin: spec for spec in held if spec.purpose is Purpose.LOG for origin in spec.origins}
        if "*" not in self._evidence:
            raise FailedPrecondition("no evidence key signs for the tenants that have none of their own")

    @property
    def keyrings(self) -> Sequence[Keyring]:
        """Each keyring, once."""
        return list({id(keyring): keyring for _, keyring in self._held.values()}.values())

    def evidence_key(self, tenant: str) -> KeySpec:
        """The key that signs a tenant's evidence."""
        return self._evidence.get(tenant) or self._evidence["*"]

    def log_key(self, origin: str) -> KeySpec:
        """The key that signs a log's checkpoints.

        Raises:
            NotFound: there is none.
        """
        found = self._logs.get(origin) or self._logs.get("*")
        if found is None:
            raise NotFound("there is no such key")
        return found

    def named(self, purpose: Purpose | None, name: str = "") -> KeySpec:
        """A key by its name, or the default one of a purpose; the one for evidence where neither is given.

        Raises:
            NotFound: there is none.
        """
        if purpose in (Purpose.EVIDENCE, None) and not name:
            return self._evidence["*"]
        for spec, _ in self._held.values():
            if purpose in (spec.purpose, None) and name in ("", spec.name):
                return spec
        raise NotFound("there is no such key")

    async def sign(
        self, spec: KeySpec, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        """As `Keyring.sign`. A version that is revoked signs nothing."""
        _, keyring = self._held[spec.name]
        return [self._allowed(answer) for answer in await keyring.sign(spec.name, inputs, version)]

    async def versions(self, purpose: Purpose | None = None) -> list[KeyVersion]:
        """Every version of every key of a purpose, oldest first within each key.

        First those that no keyring holds any more: they sign nothing, and have an end.
        """
        found = []
        for spec, keyring in self._held.values():
            if purpose in (None, spec.purpose):
                found += self._known(spec, await keyring.versions(spec.name))
        listed = await self._memory.completed(found, purpose)
        return [replace(each, revoked=self._revocations.of(each.key_id)) for each in listed]

    async def rotate(self, spec: KeySpec) -> KeyVersion:
        """As `Keyring.rotate`."""
        _, keyring = self._held[spec.name]
        return replace(await keyring.rotate(spec.name), tenants=spec.tenants)

    def revocation(self, key_id: str) -> Revocation | None:
        """A version's revocation, if there is one."""
        return self._revocations.of(key_id)

    async def revoke(self, key_id: str, revocation: Revocation) -> None:
        """As `RevocationList.keep`."""
        await self._revocations.keep(key_id, revocation)

    def _known(self, spec: KeySpec, versions: Sequence[KeyVersion]) -> list[KeyVersion]:
        ends = [following.valid_from + GRACE for following in versions[1:]]
        origins = spec.origins if spec.purpose is Purpose.LOG else ()
        return [
            replace(
                version,
                valid_until=end,
                tenants=spec.tenants,
                origins=origins,
            )
            for version, end in zip(versions, [*ends, None], strict=True)
        ]

    def _allowed(self, answer: Signature | NotaryError) -> Signature | NotaryError:
        if not isinstance(answer, Signature):
            return answer
        if self._revocations.of(answer.key.key_id):
            return FailedPrecondition(f"the version that signs is revoked: {answer.key.key_id} must be rotated")
        try:
            self._memory.require_signing(answer.key)
        except FailedPrecondition as barred:
            return barred
        return answer
