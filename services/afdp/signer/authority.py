"""The embedded time-stamping authority (RFC 3161): its own key, its own chain, one moment and one call for a batch.

What leaves was verified with the certificate's own key first. Knows no gRPC, no Vault and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from afdp.errors import FailedPrecondition, NotaryError, Unavailable
from afdp.formats.certificates import Chain
from afdp.formats.rfc3161 import Failure, Query, QueryError, read_query, refusal_der
from afdp.formats.timestamps import format_timestamp
from afdp.signer.chains import Chains
from afdp.signer.keys import KeyCatalogue, KeyVersion, Purpose, Signature
from afdp.signer.part import Part
from afdp.signer.tokens import Moment, TokenWriter, Unsigned, serial_numbers

MAX_QUERY_BYTES = 8192
_TRIES = 4  # how often a batch may meet a key that was rotated meanwhile
_NEARLY = timedelta(days=90)
_MOMENT = timedelta(milliseconds=1)


class TrustedClock(Protocol):
    """The clock (`clock.py`)."""

    @property
    def max_offset(self) -> timedelta:
        """How far it may be off, either way, while it can be trusted."""

    def now(self) -> tuple[datetime, bool]:
        """The time, and whether it can be trusted.

        Raises:
            Unavailable: it cannot, and no timestamps are to be given then.
        """


@dataclass(frozen=True, slots=True)
class Interval:
    """A chain of certificates, and when stamps under it count."""

    chain: Chain
    valid_from: datetime
    valid_until: datetime | None


class EmbeddedAuthority:
    """Stamps with the current version of the time-stamping key."""

    def __init__(self, keys: KeyCatalogue, chains: Chains, clock: TrustedClock, policy: str) -> None:
        """`policy` is the OID of the policy that tokens name."""
        self._keys = keys
        self._spec = keys.named(Purpose.TIMESTAMP)
        self._chains = chains
        self._clock = clock
        self._policy = policy
        self._serials = serial_numbers()
        self._writer: TokenWriter | None = None

    async def stamp(self, imprints: Sequence[bytes]) -> list[bytes]:
        """RFC 3161 responses (DER) over SHA-256 imprints, in order, all of one moment, by one call of the key.

        Raises:
            Unavailable: the key cannot be reached, or the clock cannot be trusted.
            FailedPrecondition: the key's version is revoked, or has no certificate that is valid now.
        """
        moment = self._moment()
        return await self._signed(moment, lambda writer: writer.batch(imprints, moment, self._serials))

    async def respond(self, query: bytes) -> bytes:
        """The response (DER) to a query. One that is refused is answered too, with the reason (RFC 3161, 2.4.2)."""
        try:
            asked = self._read(query)
        except QueryError as error:
            return refusal_der(error.failure, f"the query {error}")
        try:
            moment = self._moment()
        except Unavailable as error:
            return refusal_der(Failure.TIME_NOT_AVAILABLE, error.message)
        try:
            [response] = await self._signed(moment, lambda writer: [writer.single(asked, moment, next(self._serials))])
        except NotaryError as error:
            return refusal_der(Failure.SYSTEM_FAILURE, error.message)
        return response

    async def intervals(self) -> list[Interval]:
        """Every chain that stamps were or are given under, oldest first.

        Raises:
            Unavailable: the key cannot be reached.
        """
        found = []
        for version in await self._keys.versions(Purpose.TIMESTAMP):
            chain = await (self._chains.of(version) if version.current else self._chains.known(version))
            if chain is not None:
                found.append(_interval(chain, version))
        return found

    async def check(self) -> None:
        """Raises `Unavailable` while the clock cannot be trusted and must be."""
        self._clock.now()

    async def status(self) -> Sequence[Part]:
        """As `status.Reporting`: one part, `timestamp authority`."""
        chain = (await self._current()).chain
        now, until = datetime.now(UTC), format_timestamp(chain.valid_until)
        remedy = "rotate the time-stamping key, or give it a new certificate (docs/deployment.md)"
        if not chain.valid_from <= now <= chain.valid_until:
            return [Part("timestamp authority", False, f"its certificate is not valid now; it ends {until}", remedy)]
        detail = f"policy {self._policy}, certificate valid until {until}"
        return [Part("timestamp authority", True, detail, remedy if chain.valid_until - now < _NEARLY else "")]

    def _read(self, query: bytes) -> Query:
        if len(query) > MAX_QUERY_BYTES:
            raise QueryError(Failure.BAD_DATA_FORMAT, f"must be at most {MAX_QUERY_BYTES} bytes")
        asked = read_query(query)
        if asked.policy not in (None, self._policy):
            raise QueryError(Failure.UNACCEPTED_POLICY, f"must ask for the policy {self._policy}, or for none")
        if asked.extensions:
            raise QueryError(Failure.UNACCEPTED_EXTENSIONS, "must have no extensions")
        return asked

    def _moment(self) -> Moment:
        time, trusted = self._clock.now()
        # Without trust in the clock nothing is said of how exact it is (RFC 3161, 2.4.2: accuracy is optional).
        return Moment.of(time, self._clock.max_offset if trusted else None)

    async def _signed(self, moment: Moment, write: Callable[[TokenWriter], list[Unsigned]]) -> list[bytes]:
        """Responses with a signature each; written anew where the key turns out to have another version by now."""
        writer = await self._current()
        for _ in range(_TRIES):
            _require_valid(writer.chain, moment.time)
            tokens = write(writer)
            signatures = _made(await self._keys.sign(self._spec, [each.digest for each in tokens]))
            newer = [each.key for each in signatures if each.key.key_id != writer.version.key_id]
            if not newer:
                made = zip(tokens, signatures, strict=True)
                return [writer.response(token, signature.value) for token, signature in made]
            writer = self._writer = await self._writer_of(newer[-1])
        raise Unavailable("the time-stamping key is rotated again and again", retry_after=1.0)

    async def _current(self) -> TokenWriter:
        if self._writer is None:
            versions = await self._keys.versions(Purpose.TIMESTAMP)
            self._writer = await self._writer_of(next(each for each in versions if each.current))
        return self._writer

    async def _writer_of(self, version: KeyVersion) -> TokenWriter:
        return TokenWriter(version, await self._chains.of(version), self._policy)


def _made(answers: Sequence[Signature | NotaryError]) -> list[Signature]:
    made = []
    for answer in answers:
        if isinstance(answer, NotaryError):
            raise answer
        made.append(answer)
    return made


def _require_valid(chain: Chain, time: datetime) -> None:
    if not chain.valid_from <= time <= chain.valid_until:
        interval = f"from {format_timestamp(chain.valid_from)} to {format_timestamp(chain.valid_until)}"
        raise FailedPrecondition(f"the time-stamping certificate is valid {interval}, and not now")


def _interval(chain: Chain, version: KeyVersion) -> Interval:
    """A moment at least, also where none of its stamps count any more: a verifier shall know whose they are."""
    began, end = chain.authority.not_before, _end(version)
    return Interval(chain, began, None if end is None else max(end, began + _MOMENT))


def _end(version: KeyVersion) -> datetime | None:
    """When stamps of a version cease to count: once another has taken over, and with its revocation."""
    revoked = version.revoked
    ends = [version.valid_until, (revoked.compromised_since or revoked.at) if revoked else None]
    return min((each for each in ends if each is not None), default=None)
