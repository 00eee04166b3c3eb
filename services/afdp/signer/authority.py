"""The embedded time-stamping authority (RFC 3161): its own key, its own chain, one moment and one call for a batch.

What leaves was verified with the certificate's own key first. Knows no gRPC, no Vault and no file.
"""

from __future__ import annotations

import logging
import time
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

logger = logging.getLogger(__name__)

MAX_QUERY_BYTES = 8192
_TRIES = 4  # how often a batch may meet a key that was rotated meanwhile
_LOOK_AGAIN = 10.0  # seconds between two looks for the certificate of a version that waits for one
_NEARLY = timedelta(days=90)
_MOMENT = timedelta(milliseconds=1)
_ASK = "have its certificate issued (python -m afdp.signer request-certificate) and add it to AFDP_TSA_CHAIN_FILE"


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


@dataclass(frozen=True, slots=True)
class _Choice:
    """The version that stamps.

    Attributes:
        writer: writes its tokens.
        waiting: the newest version, where it waits for its certificate and this one goes on for it.
        until: when the choice is made anew, on the monotonic clock; None: only when the key turns out to be rotated.
    """

    writer: TokenWriter
    waiting: KeyVersion | None = None
    until: float | None = None


class EmbeddedAuthority:
    """Stamps with the newest version of the time-stamping key that has a certificate that is valid."""

    def __init__(
        self,
        keys: KeyCatalogue,
        chains: Chains,
        clock: TrustedClock,
        policy: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`policy` is the OID of the policy that tokens name."""
        self._keys = keys
        self._spec = keys.named(Purpose.TIMESTAMP)
        self._chains = chains
        self._clock = clock
        self._policy = policy
        self._serials = serial_numbers()
        self._monotonic = monotonic
        self._choice: _Choice | None = None

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
            FailedPrecondition: no version has a chain.
        """
        versions = await self._versions()
        try:
            await self._certified(versions)  # makes the newest one's, where chains are made here
        except FailedPrecondition:
            if not any([await self._chains.every(each) for each in versions]):
                raise
        ends = self._chains.at_once
        return [_interval(each, version, ends) for version in versions for each in await self._chains.every(version)]

    async def check(self) -> None:
        """Raises `Unavailable` while the clock cannot be trusted and must be."""
        self._clock.now()

    async def status(self) -> Sequence[Part]:
        """As `status.Reporting`: one part, `timestamp authority`."""
        choice = await self._current()
        chain = choice.writer.chain
        now, until = datetime.now(UTC), format_timestamp(chain.valid_until)
        remedy = "rotate the time-stamping key, or give it a new certificate (docs/deployment.md)"
        if not chain.valid_from <= now <= chain.valid_until:
            return [Part("timestamp authority", False, f"its certificate is not valid now; it ends {until}", remedy)]
        detail = f"policy {self._policy}, certificate valid until {until}"
        if choice.waiting is not None:
            waiting = f"{detail}; {choice.waiting.key_id} waits for its certificate"
            return [Part("timestamp authority", True, waiting, _ASK)]
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
        for _ in range(_TRIES):
            choice = await self._current()
            writer = choice.writer
            _require_valid(writer.chain, moment.time)
            tokens = write(writer)
            named = writer.version if choice.waiting else None
            signatures = _made(await self._keys.sign(self._spec, [each.digest for each in tokens], named))
            if all(each.key.key_id == writer.version.key_id for each in signatures):
                made = zip(tokens, signatures, strict=True)
                return [writer.response(token, signature.value) for token, signature in made]
            self._choice = None
        raise Unavailable("the time-stamping key is rotated again and again", retry_after=1.0)

    async def _current(self) -> _Choice:
        choice = self._choice
        if choice is None or (choice.until is not None and self._monotonic() >= choice.until):
            choice = self._choice = await self._chosen()
        return choice

    async def _chosen(self) -> _Choice:
        versions = await self._versions()
        certified, newest = await self._certified(versions), versions[-1]
        now = datetime.now(UTC)
        usable = [
            (version, chain)
            for version, chain in certified
            if chain.valid_from <= now <= chain.valid_until and not version.revoked and self._holds(version)
        ]
        version, chain = (usable or certified)[-1]
        if not usable and version.key_id != newest.key_id:
            await self._chains.of(newest)  # says what is missing
        await self._chains.keep(version, chain)  # or nobody could verify what it stamps once the file has lost it
        writer = self._writer_of(version, chain)
        until = None if self._chains.at_once else self._monotonic() + _LOOK_AGAIN
        if version.key_id == newest.key_id:
            return _Choice(writer, None, until)
        if self._choice is None or self._choice.waiting != newest:
            logger.warning(
                "a version of the time-stamping key waits for its certificate, and an older one goes on",
                extra={"fields": {"key_id": newest.key_id, "stamps": version.key_id}},
            )
        return _Choice(writer, newest, until)

    def _holds(self, version: KeyVersion) -> bool:
        """Whether it is of the key that signs, and not of one that was given up."""
        return version.key_id.rpartition(":")[0] == self._spec.name

    def _writer_of(self, version: KeyVersion, chain: Chain) -> TokenWriter:
        """The one at work, where nothing is new: it remembers forms."""
        if self._choice is not None and self._choice.writer.chain == chain:
            return self._choice.writer
        return TokenWriter(version, chain, self._policy)

    async def _versions(self) -> list[KeyVersion]:
        """Every version up to the current one, oldest first, after those of keys that were given up."""
        versions = await self._keys.versions(Purpose.TIMESTAMP)
        return versions[: next(at for at, each in enumerate(versions) if each.current) + 1]

    async def _certified(self, versions: Sequence[KeyVersion]) -> list[tuple[KeyVersion, Chain]]:
        """Those of the versions that have a chain; at least one.

        Raises:
            FailedPrecondition: there is none.
        """
        found, missing = [], None
        for version in versions:
            try:
                chain = await (self._chains.of(version) if version.current else self._chains.known(version))
            except FailedPrecondition as error:
                missing = error
                continue
            if chain is not None:
                found.append((version, chain))
        if not found:
            raise missing or FailedPrecondition("no version of the time-stamping key has a certificate")
        return found


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


def _interval(chain: Chain, version: KeyVersion, ends_with_the_next: bool) -> Interval:
    """A moment at least, also where none of its stamps count any more: a verifier shall know whose they are."""
    began, end = chain.authority.not_before, _end(version, ends_with_the_next)
    return Interval(chain, began, None if end is None else max(end, began + _MOMENT))


def _end(version: KeyVersion, ends_with_the_next: bool) -> datetime | None:
    """When stamps of a version cease to count: with its revocation, and once another has taken over.

    Where the next waits for its certificate nobody can tell afterwards when it took over: then the end is that of the
    certificate, of which verifiers know.
    """
    revoked = version.revoked
    ends = [
        version.valid_until if ends_with_the_next else None,
        (revoked.compromised_since or revoked.at) if revoked else None,
    ]
    return min((each for each in ends if each is not None), default=None)
