"""Serving: one builder that every service uses.

It gives a servicer health, reflection, deadlines, request IDs, typed errors, metrics, traces, message limits and a
graceful end. A servicer is a subclass of its generated base: methods from message to message that raise `NotaryError`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from afdp.config import ServiceSettings
from afdp.errors import NotaryError
from afdp.rpc.client import MAX_ANSWER_BYTES
from afdp.rpc.descriptors import service_methods
from afdp.rpc.handlers import Admit, Room, method_handlers
from afdp.rpc.health import ReasonedHealth
from afdp.rpc.peers import OtherServices, PeerCheck
from afdp.rpc.reflecting import ReflectionPool
from afdp.rpc.relayed import SERVICE as RELAY
from afdp.rpc.relayed import Relay
from afdp.rpc.secure import server_credentials
from afdp.rpc.tracing import SampledCalls
from afdp.telemetry import Telemetry
from afdp.tls.files import TlsFiles

logger = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]

LIVENESS = "liveness"
"""The name under which `grpc.health.v1` says SERVING for as long as the process answers, whatever it depends on."""

_CHECK_EVERY = 1.0  # seconds
_CHECK_TIMEOUT = 3.0
_CONNECTION_AGE = 300_000  # milliseconds
_HANDSHAKE = 10_000  # milliseconds until a connection must speak HTTP/2
_PING_STRIKES = 5


class Servicer(Protocol):
    """A subclass of a generated base."""

    SERVICE: str


async def serve(
    servicer: Servicer,
    settings: ServiceSettings,
    telemetry: Telemetry,
    check: Check | None = None,
    admit: Admit | None = None,
    tls: TlsFiles | None = None,
    *,
    relay: bool = False,
    beside: Sequence[Servicer] = (),
    leave: Callable[[], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then lets the calls under way end, for at most `drain_seconds`.

    `check` raises a `NotaryError` while a dependency is away: `grpc.health.v1` then says NOT_SERVING, and calls that
    can do without it go on. `admit` is asked who may call; none: whoever reaches the port. `tls` is what the server
    shows, and whom it believes; none: plain text. With `relay` the gateway's unary calls are taken many on one stream
    too (`relayed.py`). `beside` are internal services that are served, too. `leave` is called when the end begins:
    streams that would go on for ever end then.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(
        servicer, settings, telemetry, check, admit, tls, relay=relay, beside=beside, leave=leave
    ) as port:
        logger.info("serving", extra={"fields": {"host": settings.host, "port": port}})
        await stop.wait()
        logger.info("draining", extra={"fields": {"seconds": settings.drain_seconds}})


@asynccontextmanager
async def running_server(
    servicer: Servicer,
    settings: ServiceSettings,
    telemetry: Telemetry,
    check: Check | None = None,
    admit: Admit | None = None,
    tls: TlsFiles | None = None,
    *,
    relay: bool = False,
    beside: Sequence[Servicer] = (),
    leave: Callable[[], None] | None = None,
) -> AsyncIterator[int]:
    """A server that runs while the context is open; gives the port it listens on.

    Raises:
        OSError: the address is taken or not ours.
    """
    server, relaying = _build(servicer, settings, telemetry, admit, PeerCheck(tls) if tls else None, beside)
    if relay:
        server.add_generic_rpc_handlers((relaying.handler(),))
    health = ReasonedHealth()
    await health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (servicer.SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    shown: Any = ReflectionPool()
    reflection.enable_server_reflection(names, server, pool=shown)
    port = _bind(server, settings, tls)
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(_watch_health(health, servicer.SERVICE, check))
        try:
            yield port
        finally:
            watch.cancel()
            for name in ("", servicer.SERVICE):  # not `liveness`: what drains is alive, and shall not be killed
                await health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
            relaying.leave()
            if leave is not None:
                leave()
            await server.stop(settings.drain_seconds)


def _build(
    servicer: Servicer,
    settings: ServiceSettings,
    telemetry: Telemetry,
    admit: Admit | None,
    peers: PeerCheck | None,
    beside: Sequence[Servicer],
) -> tuple[grpc.aio.Server, Relay]:
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Our own channels ping every 20 seconds, also with no call under way; who pings much oftener is sent away.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", _PING_STRIKES),
        ("grpc.max_concurrent_streams", settings.max_streams),
        ("grpc.max_allowed_incoming_connections", settings.max_grpc_connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE),
        # Callers then ask the name's addresses again, and so find replicas that were added; calls under way go on.
        ("grpc.max_connection_age_ms", _CONNECTION_AGE),
    ]
    sampled = SampledCalls(servicer.SERVICE, telemetry)
    interceptors: list[grpc.aio.ServerInterceptor] = [sampled]
    if peers is not None:
        interceptors.append(OtherServices((servicer.SERVICE, RELAY, *(each.SERVICE for each in beside)), peers))
    server = grpc.aio.server(interceptors=interceptors, options=options)
    room = Room(settings.max_calls)
    bounds = settings.request_timeout_seconds, settings.stalled_stream_seconds
    # Nobody is asked who may call what is `beside`: its methods name the services that may.
    found = [
        _handlers(servicer, bounds, admit, peers, room),
        *(_handlers(each, bounds, None, peers, room) for each in beside),
    ]
    server.add_generic_rpc_handlers(found)

    async def bare(details: grpc.HandlerCallDetails) -> Any:
        return next(filter(None, (each.service(details) for each in found)), None)

    async def traced(details: grpc.HandlerCallDetails) -> Any:
        return await sampled.intercept_service(bare, details)

    return server, Relay(traced, _CONNECTION_AGE / 1000, settings.max_message_bytes, peers)


def _handlers(
    servicer: Servicer, bounds: tuple[float, float], admit: Admit | None, peers: PeerCheck | None, room: Room
) -> grpc.GenericRpcHandler:
    timeout, stalled = bounds
    handlers = method_handlers(servicer, service_methods(servicer.SERVICE), timeout, admit, peers, room, stalled)
    return grpc.method_handlers_generic_handler(servicer.SERVICE, handlers)


def _bind(server: grpc.aio.Server, settings: ServiceSettings, tls: TlsFiles | None) -> int:
    if tls is None:
        return _listen(server, settings, settings.port, None)
    asked, outside = settings.grpc_clients
    if settings.grpc_token_port:
        unasked = server_credentials(tls, ask_clients=False, callers_from_outside=outside)
        _listen(server, settings, settings.grpc_token_port, unasked)
    shown = server_credentials(tls, ask_clients=asked, callers_from_outside=outside)
    return _listen(server, settings, settings.port, shown)


def _listen(
    server: grpc.aio.Server, settings: ServiceSettings, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    address = f"{settings.host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is it in use?") from error


async def _watch_health(health: ReasonedHealth, service: str, check: Check | None) -> None:
    said: int | None = None
    while True:
        health.reason = await _reason(check)
        serving = health_pb2.HealthCheckResponse.SERVING
        status = health_pb2.HealthCheckResponse.NOT_SERVING if health.reason else serving
        if status != said:
            logger.log(
                logging.INFO if status == health_pb2.HealthCheckResponse.SERVING else logging.WARNING,
                "health changed",
                extra={"fields": {"status": health_pb2.HealthCheckResponse.ServingStatus.Name(status)}},
            )
            for name in ("", service):
                await health.set(name, status)
            said = status
        await asyncio.sleep(_CHECK_EVERY)


async def _reason(check: Check | None) -> str:
    """Why the service cannot serve; empty if it can."""
    if check is not None:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await check()
        except (NotaryError, TimeoutError) as error:
            reason = str(error) or "a dependency does not answer in time"
            logger.debug("a dependency is away", extra={"fields": {"reason": reason}})
            return reason
    return ""
