"""Calling a service: one way to open a channel, one transport for every generated client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Any

import grpc
import grpc.aio
import orjson
from opentelemetry import propagate, trace

from afdp.errors import DeadlineExceeded, Internal, InvalidArgument
from afdp.rpc.addresses import target
from afdp.rpc.codec import decoder, encoder
from afdp.rpc.descriptors import Method, method, pool
from afdp.rpc.secure import FollowingChannel
from afdp.rpc.status import from_rpc_error
from afdp.telemetry.context import deadline, request_id, traceparent
from afdp.tls.files import TlsFiles
from afdp.tls.plain import require_loopback

DEFAULT_TIMEOUT = 30.0
# Of an answer: to a batch of 16 MiB it has receipts that hold each package inside of a statement, in base64.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# What each hop keeps for itself, so that it can still answer when the next one runs out of time.
DEADLINE_SHAVE = 0.05


@asynccontextmanager
async def open_channel(
    address: str,
    max_message_bytes: int = 20 * 1024 * 1024,
    *,
    spread: bool = True,
    tls: TlsFiles | grpc.ChannelCredentials | None = None,
    service: str = "",
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service, which finds it again within a second of its return.

    Calls fail at once while the service is away. What the transport itself could not deliver is sent again, up to three
    times in all, for methods whose proto says that they may be (`idempotency_level`).

    Args:
        address: `host:port`, where the name may stand for several replicas; or the `ip:port` of each, with commas.
        max_message_bytes: the bound on requests, as the service has it; answers may be larger.
        spread: whether calls take turns among the replicas, and what one could not be given goes to the next.
            Otherwise all go to the first that is there, and to the next when it is gone.
        tls: what to show and whom to believe; none: plain text, which does not leave the machine.
        service: which service must be there, by its name in `AFDP_TLS_NAMES`; empty: whoever the address names.

    Raises:
        InvalidArgument: a list of addresses has a name in it.
        FailedPrecondition: it would be plain text to another machine.
    """
    options = [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.service_config", _service_config(spread)),
    ]
    async with _channel(address, options, tls, service) as channel:
        yield channel


def _channel(
    address: str, options: list[tuple[str, Any]], tls: TlsFiles | grpc.ChannelCredentials | None, service: str
) -> grpc.aio.Channel:
    spelt = target(address)
    if tls is None:
        require_loopback(address)
        return grpc.aio.insecure_channel(spelt, options=options)
    if isinstance(tls, grpc.ChannelCredentials):
        return grpc.aio.secure_channel(spelt, tls, options=options)
    # An address may change and be shared; what must hold is that the service itself is there.
    names = [name for name in tls.names.get(service, ()) if "://" not in name]
    named = [*options, ("grpc.ssl_target_name_override", names[0])] if names else options
    return FollowingChannel(tls, lambda shown: grpc.aio.secure_channel(spelt, shown, options=named))


@cache
def _service_config(spread: bool) -> str:
    services = ("notary", "signer", "transparency", "metadata")
    names = [
        {"service": service.full_name, "method": found.name}
        for name in services
        for service in pool().FindFileByName(f"afdp/{name}/v1/{name}.proto").services_by_name.values()
        for found in service.methods
        if method(f"/{service.full_name}/{found.name}").idempotent
    ]
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.05s",
        "maxBackoff": "0.5s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    balancing: list[dict[str, dict[str, str]]] = [{"round_robin" if spread else "pick_first": {}}]
    return orjson.dumps(
        {"methodConfig": [{"name": names, "retryPolicy": policy}], "loadBalancingConfig": balancing}
    ).decode()


class GrpcCaller:
    """The transport of the generated clients. Errors are those of `afdp.errors`.

    A call's time is what it is given or `DEFAULT_TIMEOUT`, and never more than what is left of the call being served.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stubs: dict[str, tuple[Any, Any, Any, str]] = {}

    async def unary_unary(
        self, method: str, request: Any, timeout: float | None, *, authorization: str | None = None
    ) -> Any:
        """One request, one answer; with credentials where the peer asks for some."""
        stub, encode, decode, peer = self._stub(method)
        metadata = _metadata() if authorization is None else [*_metadata(), ("authorization", authorization)]
        call = stub(encode(request), timeout=_remaining(timeout, peer), metadata=metadata)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, peer) from None
        return _decoded(decode, answer, peer)

    async def unary_stream(
        self, method: str, request: Any, timeout: float | None, *, authorization: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """One request, a stream of answers; with credentials where the peer asks for some."""
        stub, encode, decode, peer = self._stub(method)
        metadata = _metadata() if authorization is None else [*_metadata(), ("authorization", authorization)]
        call = stub(encode(request), timeout=timeout, metadata=metadata)
        async with aclosing(_answers(call, peer)) as answers:
            async for answer in answers:
                yield _decoded(decode, answer, peer)

    async def stream_unary(self, method: str, requests: AsyncIterator[Any], timeout: float | None) -> Any:
        """A stream of requests, one answer."""
        stub, encode, decode, peer = self._stub(method)
        call = stub(_encoded(encode, requests), timeout=_remaining(timeout, peer), metadata=_metadata())
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, peer) from None
        return _decoded(decode, answer, peer)

    async def stream_stream(
        self, method: str, requests: AsyncIterator[Any], timeout: float | None
    ) -> AsyncIterator[Any]:
        """A stream of requests, a stream of answers."""
        stub, encode, decode, peer = self._stub(method)
        call = stub(_encoded(encode, requests), timeout=timeout, metadata=_metadata())
        async for answer in _answers(call, peer):
            yield _decoded(decode, answer, peer)

    def _stub(self, full_name: str) -> tuple[Any, Any, Any, str]:
        found = self._stubs.get(full_name)
        if found is None:
            known: Method = method(full_name)
            peer = full_name.split(".")[1]
            shape = (
                f"{'stream' if known.client_streaming else 'unary'}_{'stream' if known.server_streaming else 'unary'}"
            )
            # Bytes go through as they are: the codec is called here, where its errors can be told apart.
            stub = getattr(self._channel, shape)(full_name)
            found = self._stubs[full_name] = (stub, encoder(known.request), decoder(known.response), peer)
        return found


async def _encoded(encode: Any, requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield encode(request)


async def _answers(call: Any, peer: str) -> AsyncGenerator[bytes, None]:
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from None
    finally:
        call.cancel()


def _decoded(decode: Any, answer: bytes, peer: str) -> Any:
    try:
        return decode(answer)
    except InvalidArgument as error:
        raise Internal(f"{peer} sent an answer that cannot be read") from error


def _remaining(timeout: float | None, peer: str) -> float:
    limit = DEFAULT_TIMEOUT if timeout is None else timeout
    until = deadline.get()
    if until is not None:
        limit = min(limit, until - asyncio.get_running_loop().time() - DEADLINE_SHAVE)
        if limit <= 0:
            raise DeadlineExceeded(f"no time is left to call {peer}")
    return limit


def _metadata() -> list[tuple[str, str]]:
    carrier: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        propagate.inject(carrier)  # the trace only: the span of this hop is the server's
    elif parent := traceparent.get():
        carrier["traceparent"] = parent
    if request := request_id.get():
        carrier["x-request-id"] = request
    return list(carrier.items())
