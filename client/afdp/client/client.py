"""The two clients. Their methods are the calls of `afdp.client.calls`, sent by whatever transport they were given."""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, closing
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack

from afdp.client import calls
from afdp.client.calls import Call, Filters, Form
from afdp.client.exports import Received
from afdp.client.rest import DEFAULT_TIMEOUT, DEFAULT_URL, AsyncRestTransport, RestTransport, Settings
from afdp.client.retry import Patience, Retry, steps
from afdp.client.tls import ClientTls
from afdp.client.token import BearerToken, Token, bearer_token
from afdp.client.values import WatchedReceipt
from afdp.client.watching import Answer, watch, watch_async
from afdp.errors import NotaryError

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_RETRY = Retry()


class Transport(Protocol):
    """Performs one attempt at a call, blocking."""

    def perform(self, call: Call[T]) -> T | NotaryError:
        """The value, or why there is none."""

    def stream(self, call: Call[bytes]) -> Generator[bytes, None, None]:
        """Raw bytes as they come. Raises NotaryError, also in their midst."""

    def watch(self, cursor: str) -> Generator[Answer, None, None]:
        """One stream of `WatchReceipts`. Raises NotaryError where it ends."""

    def close(self) -> None:
        """Releases what it holds."""


class AsyncTransport(Protocol):
    """Performs one attempt at a call, for asyncio."""

    async def perform(self, call: Call[T]) -> T | NotaryError:
        """The value, or why there is none."""

    def stream(self, call: Call[bytes]) -> AsyncGenerator[bytes, None]:
        """Raw bytes as they come. Raises NotaryError, also in their midst."""

    def watch(self, cursor: str) -> AsyncGenerator[Answer, None]:
        """One stream of `WatchReceipts`. Raises NotaryError where it ends."""

    async def close(self) -> None:
        """Releases what it holds."""


Kind = TypeVar("Kind")


class _Client(ABC, Generic[Kind]):
    """What both clients are made of: a transport of their kind, and how often a call is tried."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = DEFAULT_RETRY,
        headers: Mapping[str, str] | None = None,
        token: Token | None = None,
        tls: ClientTls | None = None,
        transport: Kind | None = None,
    ) -> None:
        self._transport: Kind = transport or self._over_rest(
            Settings(url, timeout, headers or {}, bearer_token(token, url), tls)
        )
        self._retry = retry

    @classmethod
    def over_grpc(
        cls,
        address: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = DEFAULT_RETRY,
        token: Token | None = None,
        login: str = "",
        tls: ClientTls | None = None,
    ) -> Self:
        """A client that speaks gRPC to `host:port`. `login`: the URL of the notary that `afdp login` was for."""
        return cls(retry=retry, transport=cls._over_grpc(address, timeout, bearer_token(token, login), tls))

    @staticmethod
    @abstractmethod
    def _over_rest(settings: Settings) -> Kind:
        """The transport for REST."""

    @staticmethod
    @abstractmethod
    def _over_grpc(address: str, timeout: float, token: BearerToken | None, tls: ClientTls | None) -> Kind:
        """The transport for gRPC."""


def _blocking(build: Callable[P, Call[T]]) -> Callable[Concatenate[NotaryClient, P], T]:
    """The method that sends the call that `build` describes."""

    def method(self: NotaryClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(build(*args, **kwargs))

    _dress(method, build)
    return method


def _awaitable(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncNotaryClient, P], Awaitable[T]]:
    """The method that sends the call that `build` describes, to await."""

    def method(self: AsyncNotaryClient, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return self.send(build(*args, **kwargs))

    _dress(method, build)
    return method


def _dress(method: Callable[..., object], build: Callable[..., object]) -> None:
    """Name, help and signature as if the method had been written out."""
    method.__name__ = method.__qualname__ = build.__name__
    method.__doc__ = build.__doc__
    signature = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [own, *signature.parameters.values()]
    vars(method)["__signature__"] = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


class NotaryClient(_Client[Transport]):
    """A notary, called and waited for. Safe to share between threads; a context manager that closes its connections.

    Args:
        url: the notary's base URL.
        timeout: seconds for one attempt.
        retry: how often a call is tried.
        headers: sent with every request.
        token: shown with every request: itself, a file that holds it, or a function that gives it; by default that of
            `AFDP_TOKEN`, of the file `AFDP_TOKEN_FILE`, or of `afdp login` for this URL, if there is one.
        tls: whom to believe and what to show; none: what AFDP_CA, AFDP_CLIENT_CERT and AFDP_CLIENT_KEY name.
    """

    _over_rest = RestTransport

    @staticmethod
    def _over_grpc(address: str, timeout: float, token: BearerToken | None, tls: ClientTls | None) -> Transport:
        from afdp.client.rpc import BlockingGrpcTransport  # the extra `rpc`

        return BlockingGrpcTransport(address, timeout, token, tls)

    sign = _blocking(calls.sign)
    sign_batch = _blocking(calls.sign_batch)
    validate = _blocking(calls.validate)
    get_evidence = _blocking(calls.get_evidence)
    search_evidence = _blocking(calls.search_evidence)
    get_receipt = _blocking(calls.get_receipt)
    get_workflow_receipt = _blocking(calls.get_workflow_receipt)
    get_workflow_status = _blocking(calls.get_workflow_status)
    list_workflows = _blocking(calls.list_workflows)
    list_keys = _blocking(calls.list_keys)
    rotate_key = _blocking(calls.rotate_key)
    revoke_key = _blocking(calls.revoke_key)
    affected_receipts = _blocking(calls.affected_receipts)
    export_affected = _blocking(calls.export_affected)
    place_hold = _blocking(calls.place_hold)
    release_hold = _blocking(calls.release_hold)
    list_holds = _blocking(calls.list_holds)
    erase_subject = _blocking(calls.erase_subject)
    get_erasure = _blocking(calls.get_erasure)
    list_erasures = _blocking(calls.list_erasures)
    run_retention = _blocking(calls.run_retention)
    audit_events = _blocking(calls.audit_events)
    audit_rows = _blocking(calls.audit_rows)
    audit_seals = _blocking(calls.audit_seals)
    trust_root = _blocking(calls.trust_root)
    pending_trust_root = _blocking(calls.pending_trust_root)
    publish_trust = _blocking(calls.publish_trust)
    timestamp = _blocking(calls.timestamp)
    who_am_i = _blocking(calls.who_am_i)
    status = _blocking(calls.status)
    ready = _blocking(calls.ready)

    def export_evidence(
        self, form: Form = "ndjson", *, after: str = "", **filters: Unpack[Filters]
    ) -> Generator[bytes, None, None]:
        """All evidence by what is given (`Filters`), as whole lines, however many there are; in constant memory.

        Where the connection breaks it goes on behind the last line.

        Args:
            form: `ndjson`, each line with evidence and receipt, or `csv`, with a head.
            after: the receipt that an earlier export ended with; CSV then has no head.
            filters: as of `search_evidence`.
        """
        received, patience = Received(form, after), Patience(self._retry)
        while True:
            try:
                with closing(self._transport.stream(calls.export_evidence(form, received.after, filters))) as chunks:
                    for chunk in chunks:
                        for line in received.feed(chunk):
                            yield line
                            patience.came_on()
                received.end()
            except NotaryError as error:
                time.sleep(patience.wait(error))
                received.begin_again()
            else:
                return

    def send(self, call: Call[T]) -> T:
        """Performs a call, again where that makes sense."""
        attempts = steps(call, self._retry)
        outcome: Any = None
        try:
            while True:
                wait = attempts.send(outcome)
                if wait is None:
                    outcome = self._transport.perform(call)
                else:
                    outcome = None
                    time.sleep(wait)
        except StopIteration as done:
            value: T = done.value
            return value

    def watch_receipts(self, cursor: str = "") -> Iterator[WatchedReceipt]:
        """Receipts as they are made or upgraded, each at least once, until the caller has enough.

        A connection that breaks is made anew, and goes on from the last cursor; whoever keeps that of what was dealt
        with last goes on from there tomorrow. Without a cursor: from now on.

        Raises:
            InvalidArgument: the cursor is none.
            OutOfRange: it is older than the notary keeps changes.
            NotaryError: it cannot be begun, or the caller may not go on.
        """
        return watch(self._transport, cursor, self._retry)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> NotaryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncNotaryClient(_Client[AsyncTransport]):
    """A notary, for asyncio: the methods of `NotaryClient`, to await. See there for the arguments."""

    _over_rest = AsyncRestTransport

    @staticmethod
    def _over_grpc(address: str, timeout: float, token: BearerToken | None, tls: ClientTls | None) -> AsyncTransport:
        from afdp.client.rpc import GrpcTransport  # the extra `rpc`

        return GrpcTransport(address, timeout, token, tls)

    sign = _awaitable(calls.sign)
    sign_batch = _awaitable(calls.sign_batch)
    validate = _awaitable(calls.validate)
    get_evidence = _awaitable(calls.get_evidence)
    search_evidence = _awaitable(calls.search_evidence)
    get_receipt = _awaitable(calls.get_receipt)
    get_workflow_receipt = _awaitable(calls.get_workflow_receipt)
    get_workflow_status = _awaitable(calls.get_workflow_status)
    list_workflows = _awaitable(calls.list_workflows)
    list_keys = _awaitable(calls.list_keys)
    rotate_key = _awaitable(calls.rotate_key)
    revoke_key = _awaitable(calls.revoke_key)
    affected_receipts = _awaitable(calls.affected_receipts)
    export_affected = _awaitable(calls.export_affected)
    place_hold = _awaitable(calls.place_hold)
    release_hold = _awaitable(calls.release_hold)
    list_holds = _awaitable(calls.list_holds)
    erase_subject = _awaitable(calls.erase_subject)
    get_erasure = _awaitable(calls.get_erasure)
    list_erasures = _awaitable(calls.list_erasures)
    run_retention = _awaitable(calls.run_retention)
    audit_events = _awaitable(calls.audit_events)
    audit_rows = _awaitable(calls.audit_rows)
    audit_seals = _awaitable(calls.audit_seals)
    trust_root = _awaitable(calls.trust_root)
    pending_trust_root = _awaitable(calls.pending_trust_root)
    publish_trust = _awaitable(calls.publish_trust)
    timestamp = _awaitable(calls.timestamp)
    who_am_i = _awaitable(calls.who_am_i)
    status = _awaitable(calls.status)
    ready = _awaitable(calls.ready)

    async def export_evidence(
        self, form: Form = "ndjson", *, after: str = "", **filters: Unpack[Filters]
    ) -> AsyncGenerator[bytes, None]:
        """As `NotaryClient.export_evidence`."""
        received, patience = Received(form, after), Patience(self._retry)
        while True:
            try:
                async with aclosing(
                    self._transport.stream(calls.export_evidence(form, received.after, filters))
                ) as chunks:
                    async for chunk in chunks:
                        for line in received.feed(chunk):
                            yield line
                            patience.came_on()
                received.end()
            except NotaryError as error:
                await asyncio.sleep(patience.wait(error))
                received.begin_again()
            else:
                return

    async def send(self, call: Call[T]) -> T:
        """Performs a call, again where that makes sense."""
        attempts = steps(call, self._retry)
        outcome: Any = None
        while True:
            try:
                wait = attempts.send(outcome)
            except StopIteration as done:
                value: T = done.value
                return value
            if wait is None:
                outcome = await self._transport.perform(call)
            else:
                outcome = None
                await asyncio.sleep(wait)

    def watch_receipts(self, cursor: str = "") -> AsyncIterator[WatchedReceipt]:
        """As `NotaryClient.watch_receipts`, to iterate over with `async for`."""
        return watch_async(self._transport, cursor, self._retry)

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncNotaryClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
