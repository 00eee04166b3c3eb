"""Time-stamping authorities outside, over HTTP (RFC 3161, 3.4), asked in order until one answers.

An answer counts only once `external_answers` has verified it. An authority that failed is asked last for a while, so
that one which does not answer costs its time-out now and then, and not each time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import httpx
from cryptography import x509

from afdp.errors import FailedPrecondition, NotaryError, Unavailable
from afdp.formats.certificates import Chain, from_pem
from afdp.formats.rfc3161 import Imprint, Query, query_der
from afdp.signer.external_answers import Anchors, ExternalStamp, Reason, refusal, verified
from afdp.signer.part import Part

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 128 * 1024
_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"
_COOL = 30.0  # seconds for which one that failed is asked after the others
_AGAIN = 60.0  # seconds after which one that never answered is tried again


@dataclass(frozen=True, slots=True)
class AuthorityAccess:
    """Where an authority is, and what to believe of it.

    Attributes:
        url: without user and password.
        ca_file: PEM: the root of its time-stamping certificates, and intermediate ones that it may not send.
        tls_ca_file: PEM: the authority of its server's certificate; by default the system's.
        user, password_file: for HTTP's basic authentication, where it wants that.
        timeout: seconds for a whole answer.
    """

    url: str
    ca_file: Path
    tls_ca_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    timeout: float = 5.0


class ChainMemory(Protocol):
    """Under which chains external authorities have stamped (`external_chains.py`)."""

    def known(self) -> Sequence[tuple[str, Chain]]:
        """Each authority's URL and chain, in the order in which they were first seen."""

    async def keep(self, url: str, chain: Chain) -> None:
        """Keeps a chain; it survives a crash once this returns."""


class ExternalAuthority:
    """One authority."""

    def __init__(self, access: AuthorityAccess, anchors: Anchors, client: httpx.AsyncClient) -> None:
        self._timeout = access.timeout
        self._anchors = anchors
        self._client = client
        self.url = access.url
        self.failed: float | None = None  # when it last failed, on the monotonic clock
        self.trouble = "it has not been asked yet"

    async def ask(self, data: bytes, *, any_time: bool = False) -> ExternalStamp:
        """A verified stamp over the SHA-256 of some data; with `any_time` however far from our own time it is.

        Raises:
            Unavailable: there is none; `reason` in its metadata is a `Reason`.
        """
        now = None if any_time else datetime.now(UTC)
        query = Query(Imprint(sha256(data).digest()), nonce=secrets.randbits(63), wants_certificate=True)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._post(query_der(query))
            stamp = await asyncio.to_thread(verified, answer, query, data, self.url, self._anchors, now)
        except TimeoutError:
            error = refusal(self.url, Reason.TIMEOUT, f"did not answer within {self._timeout:g} seconds")
            raise self._noted(error) from None
        except NotaryError as error:
            raise self._noted(error) from None
        self.failed, self.trouble = None, ""
        return stamp

    async def _post(self, query: bytes) -> bytes:
        headers = {"Content-Type": _QUERY, "Accept": _REPLY}
        try:
            async with self._client.stream("POST", self.url, content=query, headers=headers) as response:
                kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                if response.status_code != httpx.codes.OK:
                    raise refusal(self.url, Reason.HTTP_STATUS, f"answered with HTTP status {response.status_code}")
                if kind != _REPLY:
                    raise refusal(self.url, Reason.NOT_A_RESPONSE, f"answered with {kind or 'no type'}, not {_REPLY}")
                return await self._body(response)
        except httpx.TimeoutException as error:
            raise TimeoutError from error
        except httpx.HTTPError as error:
            raise refusal(self.url, Reason.UNREACHABLE, f"cannot be reached: {type(error).__name__}") from None

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise refusal(self.url, Reason.NOT_A_RESPONSE, f"answered with more than {MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    def _noted(self, error: NotaryError) -> NotaryError:
        self.failed, self.trouble = time.monotonic(), error.message
        fields = {"url": self.url, "reason": error.metadata.get("reason", "")}
        logger.warning("an external time-stamping authority gave no timestamp", extra={"fields": fields})
        return error


class ExternalAuthorities:
    """All of them, in the order in which they are asked."""

    def __init__(self, authorities: Sequence[ExternalAuthority], memory: ChainMemory) -> None:
        self._authorities = list(authorities)
        self._memory = memory

    def known(self) -> Sequence[tuple[str, Chain]]:
        """The URL and the chain of each that has ever answered."""
        return self._memory.known()

    async def stamp(self, data: bytes) -> ExternalStamp:
        """A verified stamp over the SHA-256 of some data, by the first that gives one.

        Raises:
            FailedPrecondition: there is none to ask.
            Unavailable: none gives one; the message has the reason of each.
        """
        if not self._authorities:
            raise FailedPrecondition("no external time-stamping authority is configured; see AFDP_TSA_EXTERNAL")
        failures: list[NotaryError] = []
        for authority in sorted(self._authorities, key=_has_just_failed):
            try:
                return await self._asked(authority, data)
            except Unavailable as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise Unavailable("; ".join(each.message for each in failures), retry_after=_COOL)

    async def ask(self, url: str, data: bytes) -> ExternalStamp:
        """A verified stamp by the one with this URL and no other, whatever time it states.

        Raises:
            Unavailable: it gives none.
            FailedPrecondition: there is none of this URL.
        """
        for authority in self._authorities:
            if authority.url == url:
                return await self._asked(authority, data, any_time=True)
        raise FailedPrecondition(f"{url} is none of the external time-stamping authorities")

    async def introduce(self) -> None:
        """Asks each once, so that its chain is known before a stamp by it is met; ends when all have answered."""
        nothing = secrets.token_bytes(32)
        while left := [each for each in self._authorities if each.trouble]:
            for authority in left:
                try:
                    await self._asked(authority, nothing)
                except Unavailable:
                    continue
            if any(each.trouble for each in self._authorities):
                await asyncio.sleep(_AGAIN)

    async def status(self) -> Sequence[Part]:
        """As `status.Reporting`: one part for each."""
        return [
            Part(
                f"external timestamps {each.url}",
                not each.trouble,
                each.trouble or "its last answer was verified",
                "look at whether the signer may reach it, and at its certificates" if each.trouble else "",
            )
            for each in self._authorities
        ]

    async def _asked(self, authority: ExternalAuthority, data: bytes, *, any_time: bool = False) -> ExternalStamp:
        stamp = await authority.ask(data, any_time=any_time)
        await self._memory.keep(stamp.url, stamp.chain)  # or nobody could verify it
        return stamp


def _has_just_failed(authority: ExternalAuthority) -> bool:
    return authority.failed is not None and time.monotonic() - authority.failed < _COOL


@asynccontextmanager
async def open_external(
    accesses: Sequence[AuthorityAccess], memory: ChainMemory, proxy: str | None = None
) -> AsyncIterator[ExternalAuthorities]:
    """The authorities, while the context is open; `proxy` is the URL of an HTTP proxy on the way to them.

    Raises:
        FailedPrecondition: a file cannot be read or has no root; it is named.
    """
    async with AsyncExitStack() as stack:
        authorities = []
        for access in accesses:
            # Nothing is taken from the environment: no proxy, no password that was not configured for this.
            client = httpx.AsyncClient(
                auth=_auth(access),
                verify=_tls(access.tls_ca_file),
                timeout=access.timeout,
                proxy=proxy,
                trust_env=False,
            )
            await stack.enter_async_context(client)
            authorities.append(ExternalAuthority(access, read_anchors(access.ca_file), client))
        yield ExternalAuthorities(authorities, memory)


def read_anchors(file: Path) -> Anchors:
    """The roots and the intermediate certificates in a PEM file.

    Raises:
        FailedPrecondition: it cannot be read, or has no root.
    """
    try:
        certificates = [x509.load_der_x509_certificate(each) for each in from_pem(file.read_text())]
    except OSError as error:
        raise FailedPrecondition(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FailedPrecondition(f"{file} is not certificates in PEM: {error}") from None
    roots = tuple(each for each in certificates if each.issuer == each.subject)
    if not roots:
        raise FailedPrecondition(f"{file} has no root certificate: one that issued itself")
    return Anchors(roots, tuple(each for each in certificates if each not in roots))


def _auth(access: AuthorityAccess) -> httpx.BasicAuth | None:
    if access.user is None or access.password_file is None:
        return None
    try:
        return httpx.BasicAuth(access.user, access.password_file.read_text().strip())
    except OSError as error:
        raise FailedPrecondition(f"{access.password_file} cannot be read: {error.strerror}") from None


def _tls(file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file) if file else None)
    except (OSError, ssl.SSLError) as error:
        raise FailedPrecondition(f"{file} is not certificates in PEM: {error}") from None
