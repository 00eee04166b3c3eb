"""Who is at the other end of a call over TLS, and whether that one may make it.

A client from outside is known by its certificate, or by the one that the gateway has seen and hands on. The gateway
alone is believed in this: what anybody else hands on is refused, as it could be made up.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
import grpc.aio

from afdp.errors import NotaryError, PermissionDenied, Unauthenticated
from afdp.rpc.caller import Caller, PeerCertificate
from afdp.rpc.descriptors import Method
from afdp.rpc.status import to_status
from afdp.tls.files import TlsFiles
from afdp.tls.peers import Peer, PeerRefused, Peers

if TYPE_CHECKING:  # generic in its stubs only
    _Context = grpc.aio.ServicerContext[bytes, bytes]

logger = logging.getLogger(__name__)

FORWARDED_CERTIFICATE = "x-afdp-client-certificate"
"""Metadata: the certificate, as DER in base64, of the client that the gateway serves."""

FORWARDED_ADDRESS = "x-afdp-client-address"
"""Metadata: that client's IP address."""

_GATEWAY = "gateway"
_CERTIFICATE = "x509_pem_cert"  # as gRPC names it

Metadata = Iterable[tuple[str, str | bytes]]


class PeerCheck:
    """Judges the peer of each call."""

    def __init__(self, tls: TlsFiles) -> None:
        self._peers = Peers(tls)

    def caller(self, method: Method, context: _Context, authorization: str, metadata: Metadata) -> Caller:
        """Who calls.

        Raises:
            Unauthenticated: its certificate, or the one that is handed on, does not count.
            PermissionDenied: it is not one of those that the method is for, or hands on what only the gateway may.
        """
        certificate, address = _forwarded(metadata)
        peer = self.peer(method.full_name, context)
        service = peer.service if peer else ""
        if method.callers and service not in method.callers:
            raise self._denied("not one of the callers of this method", method, service)
        if service == _GATEWAY:
            client = self._peer(method.full_name, _der(certificate)) if certificate else None
            return Caller(authorization, _certificate(client), address)
        if certificate or address:
            raise self._denied("hands on a client, and is not the gateway", method, service)
        return Caller(authorization, _certificate(peer), address_of(context))

    def peer(self, method: str, context: Any) -> Peer | None:
        """The peer itself; None where clients need no certificate, and it has shown none.

        Raises:
            Unauthenticated: its certificate does not count.
        """
        shown = context.auth_context().get(_CERTIFICATE)
        return self._peer(method, shown[0]) if shown else None

    def _peer(self, method: str, certificate: bytes) -> Peer:
        try:
            return self._peers.of(certificate)
        except PeerRefused as refused:
            fields = {"reason": str(refused), "serial": refused.serial, "method": method}
            logger.warning("a peer is refused", extra={"fields": fields})
            raise Unauthenticated("the credentials are missing or not valid") from refused

    def _denied(self, reason: str, method: Method, service: str) -> PermissionDenied:
        fields = {"reason": reason, "method": method.full_name, "peer": service or "no service of this deployment"}
        logger.warning("a peer is refused", extra={"fields": fields})
        return PermissionDenied("this method is not for this caller")


def _certificate(peer: Peer | None) -> PeerCertificate | None:
    return PeerCertificate(peer.uris, peer.dns, peer.der, peer.ends) if peer else None


def plain_caller(context: Any, authorization: str, metadata: Metadata) -> Caller:
    """Who calls over plain text: nobody is known by a certificate there, and so nobody hands one on.

    Raises:
        PermissionDenied: a client is handed on.
    """
    if any(_forwarded(metadata)):
        raise PermissionDenied("this method is not for this caller")
    return Caller(authorization, None, address_of(context))


def _der(encoded: str) -> bytes:
    try:
        return b64decode(encoded, validate=True)
    except ValueError:
        return b""  # which no certificate can be read from


def _forwarded(metadata: Metadata) -> tuple[str, str]:
    certificate, address = "", ""
    for key, value in metadata:
        if key == FORWARDED_CERTIFICATE and isinstance(value, str):
            certificate = value
        elif key == FORWARDED_ADDRESS and isinstance(value, str):
            address = value
    return certificate, address


def address_of(context: Any) -> str:
    """The IP address that a call comes from, of gRPC's `ipv4:1.2.3.4:5` or `ipv6:%5B::1%5D:5`; empty for others."""
    return _address(context.peer())


@lru_cache(4096)  # of a connection it is the same for each call
def _address(peer: str) -> str:
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = unquote(rest).rpartition(":")[0].strip("[]")
    try:
        return str(ip_address(host))
    except ValueError:
        return ""


class OtherServices(grpc.aio.ServerInterceptor):
    """Health and reflection, which are not ours and so not asked on their way in: for any peer that counts."""

    def __init__(self, ours: Sequence[str], peers: PeerCheck) -> None:
        """`ours` are services that ask by themselves."""
        self._paths = tuple(f"/{service}/" for service in ours)
        self._peers = peers

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """As grpc.aio has it."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(self._paths):
            return handler
        return _checked(handler, lambda context: self._peers.peer(method, context))


def _checked(handler: Any, check: Callable[[Any], object]) -> Any:
    """The same handler, which asks first."""

    async def require(context: Any) -> None:
        try:
            check(context)
        except NotaryError as error:
            code, message, trailing = to_status(error, "")
            await context.abort(code, message, trailing)

    for shape in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        behaviour = getattr(handler, shape)
        if behaviour is None:
            continue
        codec = (handler.request_deserializer, handler.response_serializer)
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        guarded = _streaming if handler.response_streaming else _single
        return make(guarded(behaviour, require), *codec)
    return handler


def _single(behaviour: Any, require: Callable[[Any], Awaitable[None]]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        await require(context)
        return await behaviour(request, context)

    return answer


def _streaming(behaviour: Any, require: Callable[[Any], Awaitable[None]]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        await require(context)
        answers = behaviour(request, context)
        if hasattr(answers, "__aiter__"):
            async for each in answers:
                yield each
        else:
            await answers

    return answer
