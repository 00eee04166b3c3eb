"""uvicorn's HTTP/1.1 with the bounds it lacks, and without what two readers of a request could understand differently.

llhttp, uvicorn's parser, refuses most of what requests are smuggled with: both lengths, two lengths, bare line feeds,
folded lines, a space before the colon. It lets pass a Host that is absent, doubled or another than the URL's, transfer
codings before `chunked`, endless chunk extensions, trailers (which uvicorn adds to the headers) and foreign versions.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import Counter, Gauge
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from afdp.errors import HeadersTooLarge, InvalidArgument, NotaryError, ResourceExhausted, Unavailable
from afdp.refusals import REFUSALS
from afdp.tls.serving import extensions_of

logger = logging.getLogger(__name__)

REFUSED = Counter("afdp_http_refusals_total", "Requests and connections refused before the application.", ["reason"])

CONNECTIONS = Gauge("afdp_http_connections", "Open HTTP connections.")
_limit = Gauge("afdp_http_connections_limit", "How many HTTP connections may be open.")

_SLOWEST_READER = 1024  # bytes per second
_RESET = struct.pack("ii", 1, 0)  # do not linger
_SPARE = 64  # connections over a bound that are still told so; further ones are cut
_LINGERING = 1024  # connections that have had their last answer and wait for the client to close; others do not wait
_DISCARDED = 64 * 1024 * 1024  # bytes that are read from one of them
_CHUNK_ROOM = 16  # bytes of framing for each byte of a body
# uri-host [":" port], RFC 9110, section 7.2; never empty in an http URL (section 4.2.1).
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(:[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may do, and how many there may be.

    Attributes:
        head_seconds: from a connection's begin, or the first byte of a further request, to the end of the head; also
            how long the rest of a request may take that was answered before it was complete, and a client to close
            after its last answer; and how often it is looked whether a client still takes its answer, 1 KiB a second at
            least.
        head_bytes: request line and headers; also trailers.
        connections: open at once; requests on further ones are refused.
        headers: lines in one head.
        connections_per_address: open at once from one IP address; 0: as many as there may be in all.
        pipelined: requests that wait on one connection for the answer of an earlier one.
        trusted: whether an address is one of our own proxies, which speaks for many.
    """

    head_seconds: float
    head_bytes: int
    connections: int
    headers: int = 100
    connections_per_address: int = 0
    pipelined: int = 64
    trusted: Callable[[str], bool] = lambda _: False


def bounded_protocol(bounds: Bounds, refusal: Callable[[NotaryError], bytes]) -> type[HttpToolsProtocol]:
    """uvicorn's protocol for clients that are slow, or many, or say too much before they say what they want.

    Args:
        bounds: what is allowed.
        refusal: the whole answer to a request that is refused here.
    """
    addresses: Tally[str] = Tally()
    _limit.set(bounds.connections)
    lingering: set[asyncio.Protocol] = set()

    class BoundedProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None
            self._in_head = True
            self._read = 0  # bytes of the request that is being read, but for its body
            self._body = 0  # bytes of its body
            self._unanswered = 0  # requests, with those that wait in the pipeline
            self._refused: NotaryError | None = None
            self._address = ""  # counted in `addresses`
            self._left = False  # the last answer is written
            self._discarded = 0  # bytes that came after it

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            CONNECTIONS.inc()
            self._count_address()
            self._extensions = extensions_of(transport)
            self._start_timer()
            if self._over(_SPARE) is not None:  # who opens so many does not read what they are told
                _count("connections", self._peer)
                self._reset()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_write_timer()
            self._uncount_address()
            lingering.discard(self)
            CONNECTIONS.dec()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            self._stop_write_timer()
            self._start_write_timer()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._stop_write_timer()
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            if self._left:
                self._discard(data)
                return
            if self._refused is not None:
                return
            self._read += len(data)
            if self._in_head:
                self._start_timer()
            super().data_received(data)
            if self._refused is not None:
                return
            if self._in_head and self._read > bounds.head_bytes:
                self._refuse(_head_too_large(bounds.head_bytes), "head")
            elif self._read > bounds.head_bytes + _CHUNK_ROOM * self._body:
                self._refuse(InvalidArgument("there is too much around the body's chunks"), "chunks")

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_head:  # else a trailer, which is no header and is not read
                super().on_header(name, value)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._extensions:
                self.scope["extensions"] = self._extensions

        def on_headers_complete(self) -> None:
            self._stop_timer()
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._in_head, self._read, self._body = False, max(0, self._read - size), 0
            if (refused := self._refused_head(size)) is not None:
                self._in_head = True  # it has no cycle of its own
                self._refuse(*refused)
                raise _Refused  # ends the parser
            super().on_headers_complete()
            if self.cycle.scope["method"] != "HEAD":
                self.cycle.transport = _InOnePiece(self.transport, self._leave)
            self._unanswered += 1
            if self.parser.should_upgrade():  # to nothing here: it is answered as if nobody had asked, and is the last
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            self._body += len(body)
            self._read = max(0, self._read - len(body))
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_head, self._read = True, 0
            self._stop_timer()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._unanswered -= 1
            if self._left:
                self.server_state.total_requests += 1
                return
            super().on_response_complete()
            if self._refused is not None and not self._unanswered:
                self._send_refusal()
            elif not self._in_head:
                self._start_timer()

        def shutdown(self) -> None:
            if self._left:
                self.transport.close()
            else:
                super().shutdown()

        def send_400_response(self, msg: str) -> None:
            if self._refused is None:
                self._refuse(InvalidArgument("this is not an HTTP/1.1 request"), "malformed")

        def _refused_head(self, size: int) -> tuple[NotaryError, str] | None:
            """What is wrong with a head that is complete, and what it is counted as."""
            if (over := self._over(0)) is not None:
                return over, "connections"
            if size > bounds.head_bytes:
                return _head_too_large(bounds.head_bytes), "head"
            if len(self.headers) > bounds.headers:
                return HeadersTooLarge(f"the request has over {bounds.headers} headers"), "head"
            if len(self.pipeline) >= bounds.pipelined:
                many = f"over {bounds.pipelined} requests wait on this connection"
                return ResourceExhausted(many, retry_after=1.0), "pipelined"
            if (fault := _ambiguity(self.parser.get_http_version(), self.url, self.headers)) is not None:
                return InvalidArgument(fault), "ambiguous"
            if self.parser.should_upgrade() and _has_body(self.headers):  # the parser would not read it as one
                return InvalidArgument(
                    "an upgrade is not made here; send the request in HTTP/1.1 without it"
                ), "upgrade"
            return None

        def _over(self, spare: int) -> NotaryError | None:
            if len(self.connections) - len(lingering) > bounds.connections + spare:
                return Unavailable("too many connections are open; try again", retry_after=1.0)
            most = bounds.connections_per_address
            if most and self._address and addresses[self._address] > most + spare:
                return ResourceExhausted(f"over {most} connections are open from one address", retry_after=1.0)
            return None

        @property
        def _peer(self) -> str:
            return self.client[0] if self.client else ""

        def _count_address(self) -> None:
            if self._peer and not bounds.trusted(self._peer):
                self._address = self._peer
                addresses[self._address] += 1

        def _uncount_address(self) -> None:
            if self._address:
                addresses[self._address] -= 1
                if addresses[self._address] <= 0:
                    del addresses[self._address]
                self._address = ""

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(bounds.head_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                _count("slow", self._peer)
                self.transport.close()

        def _start_write_timer(self) -> None:
            unread = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(bounds.head_seconds, self._require_reading, unread)

        def _stop_write_timer(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

        def _require_reading(self, unread: int) -> None:
            """An answer that nobody takes would stay in memory for as long as the connection does."""
            if unread - self.transport.get_write_buffer_size() < _SLOWEST_READER * bounds.head_seconds:
                _count("unread", self._peer)
                self._reset()
            else:
                self._start_write_timer()

        def _reset(self) -> None:
            """Ends the connection so that the system forgets what it has of the answer, too."""
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

        def _refuse(self, error: NotaryError, reason: str) -> None:
            """Answers without the application and closes: what else is on the connection cannot be told apart.

            Requests before it on the connection are answered first, so that each answer is that of its request.
            """
            _count(reason, self._peer, error)
            self._refused = error
            self._stop_timer()
            own = None if self._in_head else self.cycle
            if own is not None and self.pipeline and self.pipeline[0][0] is own:
                self.pipeline.popleft()
                self._unanswered -= 1
            elif own is not None:  # the application reads its body already
                self._send_refusal(started=own.response_started)
                return
            if self._unanswered:
                self.flow.pause_reading()
            else:
                self._send_refusal()

        def _send_refusal(self, *, started: bool = False) -> None:
            if not self._left and not self.transport.is_closing():
                if self._refused is not None and not started:
                    self.transport.write(refusal(self._refused))
                self._leave()

        def _leave(self) -> None:
            """Closes once the client has, for a while: what it still sends would reset the answer away (RFC 9112, 9.6).

            Over TLS nothing is closed by halves, so there who has sent all is not waited for.
            """
            if self._left or self.transport.is_closing():
                return
            self._left = True
            self._stop_timer()
            self._unset_keepalive_if_required()
            if self.cycle is not None and not self.cycle.response_complete:  # nothing more is read or written for it
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            halves = self.transport.can_write_eof()
            if len(lingering) >= _LINGERING or not (halves or self._refused is not None or not self._in_head):
                self.transport.close()
                return
            lingering.add(self)
            self._uncount_address()
            if halves:
                self.transport.write_eof()
            self.flow.resume_reading()
            self._timer = self.loop.call_later(bounds.head_seconds, self.transport.close)

        def _discard(self, data: bytes) -> None:
            self._discarded += len(data)
            if self._discarded > _DISCARDED:
                self.transport.close()

    return BoundedProtocol


class _InOnePiece(asyncio.Transport):
    """An answer's transport: uvicorn writes its head and then its body, which are one write of the system's here."""

    def __init__(self, transport: asyncio.Transport, leave: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._leave = leave
        self._head = b""
        self._begun = False

    def write(self, data: bytes) -> None:  # type: ignore[override]  # as uvicorn has it
        """The head waits for what follows it."""
        if not self._begun and not data.startswith(_INTERIM):
            self._begun, self._head = True, data
        elif self._head and len(data) <= _JOINED:
            data, self._head = self._head + data, b""
            self._transport.write(data)
        else:
            self._flush()
            self._transport.write(data)

    def close(self) -> None:
        """Sends a head that nothing follows, and leaves the connection."""
        self._flush()
        self._leave()

    def is_closing(self) -> bool:
        """As the transport's."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""


_INTERIM = b"HTTP/1.1 100 "
_JOINED = 64 * 1024  # bytes; what is larger costs more to copy than to write by itself


class _Refused(Exception):
    """Nothing more is read from this connection."""


def _head_too_large(limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"the request's line and headers are over {limit} bytes")


def _ambiguity(version: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> str | None:
    """What another reader of this head could understand differently (RFC 9112, sections 2.3, 3.2, 3.3 and 6.1)."""
    if version not in ("1.0", "1.1"):
        return "HTTP/1.1 is spoken here"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1") or not all(_HOST.fullmatch(host) for host in hosts):
        return "a request has one Host, and it must be valid"
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        return "the only transfer coding is chunked"
    if b"#" in url:
        return "a request's URL has no fragment"
    if url[:1] == b"/" or not _ABSOLUTE.match(url):
        return None
    whole = urlsplit(url)
    if whole.scheme not in (b"http", b"https") or [whole.netloc.lower()] != [host.lower() for host in hosts]:
        return "the URL and Host must be the same"
    return None


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


_SILENTLY = {
    "connections": "far too many connections are open",
    "slow": "its head did not come in time",
    "unread": "nobody takes its answer",
}
"""Why a connection is ended without a word."""

_last_told: dict[str, float] = {}


def _count(reason: str, address: str, error: NotaryError | None = None) -> None:
    """Counts a refusal; the log has one line a second of each kind, since a flood of them shall not flood it."""
    REFUSED.labels(reason).inc()
    REFUSALS.add("limit", f"before it was a request: {error or _SILENTLY[reason]}", address=address)
    if (now := monotonic()) - _last_told.get(reason, -1.0) >= 1.0:
        _last_told[reason] = now
        fields = {"reason": reason, "address": address, "detail": str(error) if error else ""}
        logger.warning("refused before it was a request", extra={"fields": fields})
