"""What the signer promises, whatever holds the keys.

Knows DSSE and checkpoints. Knows no gRPC, no Vault and no file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from typing import Protocol

from afdp.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotaryError, NotFound, PermissionDenied
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, pae
from afdp.formats.merkle import ProofError, verify_consistency
from afdp.formats.note import Checkpoint
from afdp.signer.verification import require_ecdsa, require_ed25519

MAX_STATEMENTS = 1024
MAX_STATEMENT_BYTES = 512 * 1024
MAX_REASON_BYTES = 1024


class Purpose(Enum):
    """What a key is for. No key has two."""

    EVIDENCE = "evidence"
    LOG = "log"


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
    algorithm: str  # as Sigstore names it: PKIX_ECDSA_P256_SHA_256, PKIX_ED25519
    spki: bytes  # SubjectPublicKeyInfo, DER
    valid_from: datetime
    current: bool
    revoked: Revocation | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the key version that made it."""

    value: bytes  # ASN.1 DER (ECDSA) or 64 bytes (Ed25519)
    key: KeyVersion


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint's signature with the raw public key that verifies it."""

    signature: Signature
    public_key: bytes  # 32 bytes


class Keyring(Protocol):
    """One technology that holds private keys: `files.py`, `vault.py`."""

    async def sign_digests(self, digests: Sequence[bytes]) -> Sequence[Signature | NotaryError]:
        """ECDSA signatures of the current evidence key over SHA-256 digests (32 bytes each), in order.

        Raises:
            Unavailable: no key can be reached; nothing was signed.
        """

    async def sign_message(self, message: bytes) -> Signature:
        """The current log key's Ed25519 signature over a message.

        Raises:
            Unavailable: no key can be reached; nothing was signed.
        """

    async def versions(self) -> Sequence[KeyVersion]:
        """Every version of both keys, oldest first within each.

        Raises:
            Unavailable: the keys cannot be listed.
        """

    async def rotate(self) -> KeyVersion:
        """A new version of the evidence key, which signs from now on.

        Raises:
            FailedPrecondition: this keyring may not rotate.
            Unavailable: no key can be reached; nothing was changed.
        """

    async def check(self) -> None:
        """Raises `Unavailable` while nothing can be signed."""


class CheckpointMemory(Protocol):
    """What was signed last for each log, kept outside the log's own database (`guard.py`)."""

    def last(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint that was kept."""

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint; it survives a crash once this returns."""


class RevocationList(Protocol):
    """Which key versions are revoked (`revocations.py`)."""

    def of(self, key_id: str) -> Revocation | None:
        """The revocation of a version, if there is one."""

    async def keep(self, key_id: str, revocation: Revocation) -> None:
        """Keeps a version's revocation; it survives a crash once this returns."""


class Signer:
    """Signs what may be signed, and lets no signature leave that does not verify."""

    def __init__(
        self, keyring: Keyring, memory: CheckpointMemory, revocations: RevocationList, origins: Sequence[str]
    ) -> None:
        self._keyring = keyring
        self._memory = memory
        self._revocations = revocations
        self._locks = {origin: asyncio.Lock() for origin in origins}

    async def check(self) -> None:
        """Raises `Unavailable` while nothing can be signed."""
        await self._keyring.check()

    async def sign_statements(self, statements: Sequence[bytes]) -> list[Signature | NotaryError]:
        """DSSE signatures over in-toto statements, one answer per statement, in order.

        A statement that is refused fails alone. The digest is computed here and nowhere else, so that the evidence key
        can never be made to sign a checkpoint or a timestamp (DSSE protocol v1.0.2).

        Raises:
            InvalidArgument: no statement, or too many.
            Unavailable: no key can be reached; nothing was signed.
        """
        if not 1 <= len(statements) <= MAX_STATEMENTS:
            raise InvalidArgument.field("statements", f"must be 1 to {MAX_STATEMENTS} statements")
        answers: list[Signature | NotaryError | None] = [
            _refusal(index, statement) for index, statement in enumerate(statements)
        ]
        good = [index for index, refusal in enumerate(answers) if refusal is None]
        digests = [sha256(pae(IN_TOTO_PAYLOAD_TYPE, statements[index])).digest() for index in good]
        signed = await self._keyring.sign_digests(digests) if digests else []
        for index, digest, answer in zip(good, digests, signed, strict=True):
            answers[index] = self._released(digest, answer)
        return [answer for answer in answers if answer is not None]

    async def sign_checkpoint(
        self, checkpoint: Checkpoint, proof: Sequence[bytes], proven_from: int
    ) -> SignedCheckpoint:
        """Signs a checkpoint that is consistent with the largest one signed for its origin.

        `proof` is the RFC 9162 consistency proof between that one, of size `proven_from`, and this one. What is signed
        is remembered on disk before the signature leaves.

        Raises:
            PermissionDenied: checkpoints of this origin are not signed here.
            FailedPrecondition: it is not consistent; `last_size` in the metadata is the size to prove from.
            Unavailable: no key can be reached; nothing was signed.
        """
        lock = self._locks.get(checkpoint.origin)
        if lock is None:
            raise PermissionDenied("checkpoints of this origin are not signed here; see AFDP_LOG_ORIGINS")
        async with lock:
            last = self._memory.last(checkpoint.origin)
            _require_consistent(last, checkpoint, proof, proven_from)
            message = checkpoint.body().encode()
            grows = last is None or checkpoint.size > last.size
            signature = await self._signed_and_kept(message, checkpoint if grows else None)
        public_key = require_ed25519(signature.key.spki, signature.value, message)
        return SignedCheckpoint(signature, public_key)

    def last_checkpoint(self, origin: str) -> Checkpoint:
        """The largest checkpoint signed for an origin.

        Raises:
            NotFound: none was.
        """
        last = self._memory.last(origin)
        if last is None:
            raise NotFound("no checkpoint of this origin was signed here")
        return last

    async def versions(self, purpose: Purpose | None) -> list[KeyVersion]:
        """Every key version that ever signed, oldest first, with its revocation."""
        found = await self._keyring.versions()
        return [self._known(key) for key in found if purpose in (None, key.purpose)]

    async def rotate(self, purpose: Purpose) -> KeyVersion:
        """Makes a new version of the evidence key.

        Raises:
            InvalidArgument: the log key is part of the log's identity and does not rotate.
        """
        if purpose is not Purpose.EVIDENCE:
            raise InvalidArgument.field("purpose", "the log's key is part of its identity: open a new log instead")
        return await self._keyring.rotate()

    async def revoke(self, key_id: str, compromised_since: datetime | None, reason: str) -> KeyVersion:
        """Records that a key version is not to be trusted any more.

        A revocation stands, and can only be made stricter: by a compromise, or by an earlier time of it.

        Raises:
            NotFound: there is no such version.
            InvalidArgument: no reason, or too long a one; a time that has not come.
        """
        now = datetime.now(UTC)
        wrong = []
        if not 1 <= len(reason.encode()) <= MAX_REASON_BYTES:
            wrong.append(FieldViolation("reason", f"must be 1 to {MAX_REASON_BYTES} bytes"))
        elif "\0" in reason:  # no verifier would read a trust root that has it
            wrong.append(FieldViolation("reason", "must not contain U+0000"))
        if compromised_since and compromised_since > now:
            wrong.append(FieldViolation("compromised_since", "must not lie in the future"))
        if wrong:
            raise InvalidArgument("the request is not valid", fields=wrong)
        key = next((key for key in await self.versions(None) if key.key_id == key_id), None)
        if key is None:
            raise NotFound("there is no such key version")
        if _is_stricter(compromised_since, key.revoked):
            first = key.revoked.at if key.revoked else now
            await self._revocations.keep(key_id, Revocation(first, compromised_since, reason))
        return self._known(key)

    async def _signed_and_kept(self, message: bytes, checkpoint: Checkpoint | None) -> Signature:
        """Both at once, since both wait. The signature is given only when the checkpoint is on disk."""
        try:
            async with asyncio.TaskGroup() as both:
                if checkpoint is not None:
                    both.create_task(self._memory.keep(checkpoint))
                signing = both.create_task(self._keyring.sign_message(message))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return signing.result()

    def _known(self, key: KeyVersion) -> KeyVersion:
        return replace(key, revoked=self._revocations.of(key.key_id))

    def _released(self, digest: bytes, answer: Signature | NotaryError) -> Signature | NotaryError:
        if isinstance(answer, NotaryError):
            return answer
        if self._revocations.of(answer.key.key_id):
            return FailedPrecondition("the current key version is revoked: rotate the evidence key")
        try:
            require_ecdsa(answer.key.spki, answer.value, digest)
        except NotaryError as error:
            return error
        return answer


def _is_stricter(compromised_since: datetime | None, known: Revocation | None) -> bool:
    if known is None:
        return True
    if compromised_since is None:
        return False
    return known.compromised_since is None or compromised_since < known.compromised_since


def _refusal(index: int, statement: bytes) -> NotaryError | None:
    if not 1 <= len(statement) <= MAX_STATEMENT_BYTES:
        return InvalidArgument.field(f"statements[{index}].payload", f"must be 1 to {MAX_STATEMENT_BYTES} bytes")
    if not (statement.startswith(b"{") and statement.endswith(b"}")):
        return InvalidArgument.field(f"statements[{index}].payload", "must be an in-toto statement: a JSON object")
    return None


def _require_consistent(
    last: Checkpoint | None, checkpoint: Checkpoint, proof: Sequence[bytes], proven_from: int
) -> None:
    known = last or Checkpoint(checkpoint.origin, 0, sha256(b"").digest())
    facts = {"last_size": str(known.size)}
    if proven_from != known.size:
        raise FailedPrecondition(f"the proof must lead from or to size {known.size}", metadata=facts)
    smaller, larger = sorted((known, checkpoint), key=lambda each: each.size)
    try:
        verify_consistency(smaller.size, smaller.root, larger.size, larger.root, proof)
    except ProofError as error:
        message = f"the checkpoint is not consistent with the one signed last, of size {known.size}: {error}"
        raise FailedPrecondition(message, metadata=facts) from None
