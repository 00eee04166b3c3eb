"""uvicorn's HTTP/1.1 with the bounds it lacks: on a request's head, on connections, on who does not read."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from afdp.errors import HeadersTooLarge, InvalidArgument, NotaryError, Unavailable

_SLOWEST_READER = 1024  # bytes per second
_RESET = struct.pack("ii", 1, 0)  # do not linger


def bounded_protocol(
    head_seconds: float, head_bytes: int, max_connections: int, refusal: Callable[[NotaryError], bytes]
) -> type[HttpToolsProtocol]:
    """uvicorn's protocol for clients that are slow, or many, or say too much before they say what they want.

    Args:
        head_seconds: from a connection's begin, or the first byte of a further request, to the end of the head; also
            how long the rest of a request may take that was answered before it was complete; and how often it is looked
            whether a client still takes its answer, 1 KiB a second at least.
        head_bytes: request line and headers.
        max_connections: open at once; requests on further ones are refused.
        refusal: the whole answer to a request that is refused here.
    """

    class BoundedProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None
            self._in_head = True
            self._head = 0  # bytes of the head that is being read
            self._refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_write_timer()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            self._stop_write_timer()
            self._start_write_timer()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._stop_write_timer()
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                self._head += len(data)
                self._start_timer()
            super().data_received(data)
            if self._in_head and self._head > head_bytes:
                self._refuse(_head_too_large(head_bytes))

        def on_headers_complete(self) -> None:
            self._stop_timer()
            self._in_head, self._head = False, 0
            if len(self.connections) > max_connections:
                self._refuse(Unavailable("too many connections are open; try again", retry_after=1.0))
            elif len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > head_bytes:
                self._refuse(_head_too_large(head_bytes))
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_head = True
            self._stop_timer()
            if not self._refused:
                super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._in_head:
                self._start_timer()

        def send_400_response(self, msg: str) -> None:
            self._refuse(InvalidArgument("this is not an HTTP/1.1 request"))

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(head_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

        def _start_write_timer(self) -> None:
            unread = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(head_seconds, self._require_reading, unread)

        def _stop_write_timer(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

        def _require_reading(self, unread: int) -> None:
            """An answer that nobody takes would stay in memory for as long as the connection does."""
            if unread - self.transport.get_write_buffer_size() < _SLOWEST_READER * head_seconds:
                # So that the system forgets what it has of the answer, too.
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self.transport.abort()
            else:
                self._start_write_timer()

        def _refuse(self, error: NotaryError) -> None:
            """Answers without the application and closes: what else is on the connection cannot be told apart."""
            self._refused = True
            if not self.transport.is_closing():
                self.transport.write(refusal(error))
                self.transport.close()

    return BoundedProtocol


def _head_too_large(limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"the request's line and headers are over {limit} bytes")
