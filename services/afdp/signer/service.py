"""What the signer promises, whatever holds the keys.

Knows DSSE and checkpoints. Knows no gRPC, no Vault and no file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

from afdp.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotaryError, NotFound, PermissionDenied
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, pae
from afdp.formats.merkle import ProofError, verify_consistency
from afdp.formats.note import Checkpoint
from afdp.signer.keys import KeyCatalogue, KeySpec, KeyVersion, Purpose, Revocation, Signature
from afdp.signer.origins import signs_for
from afdp.signer.verification import DIGESTS, require_ecdsa, require_ed25519, verifies_ecdsa

MAX_STATEMENTS = 1024
MAX_STATEMENT_BYTES = 512 * 1024
MAX_REASON_BYTES = 1024
_WORTH_A_THREAD = 8  # signatures; verifying one takes 70 µs, nearly all of it outside of the interpreter's lock
_REMEMBERED = 4096  # checkpoints that were signed before the last one


@dataclass(frozen=True, slots=True)
class Statement:
    """An in-toto statement to sign, and whose it is."""

    tenant: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement and a signature that is said to be over it, by one version of an evidence key."""

    payload: bytes
    signature: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class Stamped:
    """A signature, with the RFC 3161 response over it (DER) where the embedded authority is on."""

    signature: Signature
    timestamp: bytes


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint's signature with the raw public key that verifies it."""

    signature: Signature
    public_key: bytes  # 32 bytes


class CheckpointMemory(Protocol):
    """What was signed last for each log, kept outside the log's own database (`guard.py`)."""

    def last(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint that was kept."""

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint; it survives a crash once this returns."""


class TimestampAuthority(Protocol):
    """The embedded time-stamping authority (`authority.py`)."""

    async def stamp(self, imprints: Sequence[bytes]) -> Sequence[bytes]:
        """RFC 3161 responses (DER) over SHA-256 imprints, in order, all of one moment.

        Raises:
            Unavailable: its key cannot be reached, or its clock cannot be trusted.
        """

    async def check(self) -> None:
        """Raises `Unavailable` while nothing can be stamped."""


class Signer:
    """Signs what may be signed, and lets no signature leave that does not verify."""

    def __init__(
        self,
        keys: KeyCatalogue,
        memory: CheckpointMemory,
        origins: Sequence[str],
        authority: TimestampAuthority | None = None,
    ) -> None:
        self._keys = keys
        self._memory = memory
        self._authority = authority
        self._origins = tuple(origins)
        self._locks: dict[str, asyncio.Lock] = {}
        self._signed_before: deque[Checkpoint] = deque(maxlen=_REMEMBERED)

    async def check(self) -> None:
        """Raises `Unavailable` while nothing can be signed."""
        for keyring in self._keys.keyrings:
            await keyring.check()
        if self._authority is not None:
            await self._authority.check()

    async def sign_statements(self, statements: Sequence[Statement]) -> list[Stamped | NotaryError]:
        """DSSE signatures over in-toto statements, each stamped, one answer per statement, in order.

        A statement that is refused fails alone. The digest is computed here and nowhere else, so that the evidence key
        can never be made to sign a checkpoint or a timestamp (DSSE protocol v1.0.2).

        Raises:
            InvalidArgument: no statement, or too many.
            Unavailable: no key can be reached; nothing was signed.
        """
        if not 1 <= len(statements) <= MAX_STATEMENTS:
            raise InvalidArgument.field("statements", f"must be 1 to {MAX_STATEMENTS} statements")
        answers: list[_Made | NotaryError | None] = [
            _refusal(index, statement.payload) for index, statement in enumerate(statements)
        ]
        of_key: dict[KeySpec, list[int]] = {}
        for index, statement in enumerate(statements):
            if answers[index] is None:
                of_key.setdefault(self._keys.evidence_key(statement.tenant), []).append(index)
        for spec, indices in of_key.items():
            payloads = [statements[index].payload for index in indices]
            for index, answer in zip(indices, await self._made(spec, payloads), strict=True):
                answers[index] = answer
        return await self._released([answer for answer in answers if answer is not None])

    async def _made(self, spec: KeySpec, payloads: Sequence[bytes]) -> list[_Made | NotaryError]:
        digest = DIGESTS[spec.algorithm]
        digests = [digest(pae(IN_TOTO_PAYLOAD_TYPE, payload)).digest() for payload in payloads]
        signed = await self._keys.sign(spec, digests)
        return [
            answer if isinstance(answer, NotaryError) else _Made(each, answer)
            for each, answer in zip(digests, signed, strict=True)
        ]

    async def _released(self, answers: Sequence[_Made | NotaryError]) -> list[Stamped | NotaryError]:
        """What may leave. Signatures are verified beside their stamping, on another core if there is one."""
        made = [answer for answer in answers if isinstance(answer, _Made)]
        try:
            async with asyncio.TaskGroup() as both:
                judging = both.create_task(_judged(made))
                stamping = both.create_task(self._stamps(made))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        released = iter(
            fault or Stamped(each.signature, stamp)
            for each, fault, stamp in zip(made, judging.result(), stamping.result(), strict=True)
        )
        return [next(released) if isinstance(answer, _Made) else answer for answer in answers]

    async def _stamps(self, made: Sequence[_Made]) -> Sequence[bytes]:
        if not self._authority or not made:
            return [b""] * len(made)
        return await self._authority.stamp([sha256(each.signature.value).digest() for each in made])

    async def sign_checkpoint(
        self, checkpoint: Checkpoint, proof: Sequence[bytes], proven_from: int
    ) -> SignedCheckpoint:
        """Signs a checkpoint that is consistent with the largest one signed for its origin.

        `proof` is the RFC 9162 consistency proof between that one, of size `proven_from`, and this one. What is signed
        is remembered on disk before the signature leaves.

        Raises:
            PermissionDenied: checkpoints of this origin are not signed here.
            ResourceExhausted: there are as many logs as are remembered; nothing was signed.
            FailedPrecondition: it is not consistent; `last_size` in the metadata is the size to prove from.
            Unavailable: no key can be reached; nothing was signed.
        """
        self._require_own(checkpoint.origin)
        async with self._locks.setdefault(checkpoint.origin, asyncio.Lock()):
            last = self._memory.last(checkpoint.origin)
            _require_consistent(last, checkpoint, proof, proven_from)
            message = checkpoint.body().encode()
            grows = last is None or checkpoint.size > last.size
            key = self._keys.log_key(checkpoint.origin)
            signature = await self._signed_and_kept(key, message, checkpoint if grows else None)
        public_key = require_ed25519(signature.key.spki, signature.value, message)
        self._signed_before.append(checkpoint)
        return SignedCheckpoint(signature, public_key)

    def require_signed(self, checkpoint: Checkpoint) -> None:
        """Raises `FailedPrecondition` for a checkpoint that was not signed here, or too long ago to be remembered."""
        last = self._memory.last(checkpoint.origin)
        if checkpoint != last and checkpoint not in self._signed_before:
            known = {"last_size": str(last.size if last else 0)}
            raise FailedPrecondition("the checkpoint is none of those that were signed here lately", metadata=known)

    async def require_own(self, signed: SignedStatement) -> None:
        """That a signature over a statement was made here.

        Raises:
            InvalidArgument: there is no such version of an evidence key, or it has not made this signature.
            Unavailable: the keys cannot be asked.
        """
        if not 1 <= len(signed.payload) <= MAX_STATEMENT_BYTES:
            raise InvalidArgument.field("statement", f"must be 1 to {MAX_STATEMENT_BYTES} bytes")
        versions = await self._keys.versions(Purpose.EVIDENCE)
        key = next((key for key in versions if key.key_id == signed.key_id), None)
        if key is None:
            raise InvalidArgument.field("key_id", "is of no evidence key here")
        digest = DIGESTS[key.algorithm](pae(IN_TOTO_PAYLOAD_TYPE, signed.payload)).digest()
        if not verifies_ecdsa(key.spki, signed.signature, digest):
            raise InvalidArgument.field("signature", f"was not made by {signed.key_id} over this statement")

    def last_checkpoint(self, origin: str) -> Checkpoint:
        """The largest checkpoint signed for an origin.

        Raises:
            NotFound: none was.
            PermissionDenied: checkpoints of this origin are not signed here.
        """
        self._require_own(origin)
        last = self._memory.last(origin)
        if last is None:
            raise NotFound("no checkpoint of this origin was signed here")
        return last

    async def versions(self, purpose: Purpose | None) -> list[KeyVersion]:
        """Every key version that ever signed, oldest first, with its revocation."""
        return await self._keys.versions(purpose)

    async def rotate(self, purpose: Purpose | None, name: str) -> KeyVersion:
        """Makes a new version of a key, the default one of its purpose where no name is given.

        Raises:
            InvalidArgument: the log key is part of the log's identity and does not rotate.
            NotFound: there is no such key.
        """
        spec = self._keys.named(purpose, "" if purpose is Purpose.LOG else name)
        if spec.purpose is Purpose.LOG:
            field = "purpose" if purpose else "name"
            raise InvalidArgument.field(field, "the log's key is part of its identity: open a new log instead")
        return await self._keys.rotate(spec)

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
            await self._keys.revoke(key_id, Revocation(first, compromised_since, reason))
        return replace(key, revoked=self._keys.revocation(key_id))

    def _require_own(self, origin: str) -> None:
        if not signs_for(self._origins, origin):
            raise PermissionDenied("checkpoints of this origin are not signed here; see AFDP_LOG_ORIGINS")

    async def _signed_and_kept(self, key: KeySpec, message: bytes, checkpoint: Checkpoint | None) -> Signature:
        """Both at once, since both wait. The signature is given only when the checkpoint is on disk."""
        try:
            async with asyncio.TaskGroup() as both:
                if checkpoint is not None:
                    both.create_task(self._memory.keep(checkpoint))
                signing = both.create_task(self._keys.sign(key, [message]))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        [answer] = signing.result()
        if isinstance(answer, NotaryError):
            raise answer
        return answer


@dataclass(frozen=True, slots=True)
class _Made:
    """A signature that nobody has verified yet, and what it is to be over."""

    digest: bytes
    signature: Signature


async def _judged(made: Sequence[_Made]) -> list[NotaryError | None]:
    """What is wrong with each, in a thread where that is worth the way there."""
    if len(made) < _WORTH_A_THREAD:
        return _faults(made)
    return await asyncio.to_thread(_faults, made)


def _faults(made: Sequence[_Made]) -> list[NotaryError | None]:
    return [_fault(each) for each in made]


def _fault(made: _Made) -> NotaryError | None:
    try:
        require_ecdsa(made.signature.key.spki, made.signature.value, made.digest)
    except NotaryError as error:
        return error
    return None


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
