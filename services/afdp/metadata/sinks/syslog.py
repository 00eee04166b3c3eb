"""Syslog over TLS 1.3 (RFC 5425).

Syslog has no acknowledgement. What there is instead is the end of a TLS connection: who answers our `close_notify` with
its own has read all that came before. So each batch is a connection, and is delivered once that answer is there. A
receiver that ends it otherwise may have read all, some or nothing.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import TypeVar

from afdp.audit.event import RecordedEvent
from afdp.audit.syslog import Originator, framed, syslog_message
from afdp.metadata.sinks.formats import FORMATS
from afdp.metadata.sinks.settings import SyslogSettings, split_address
from afdp.metadata.sinks.sink import OwnThread, SinkError
from afdp.metadata.sinks.tls import client_context, why_not

T = TypeVar("T")

_READ = 64 * 1024
_MOST_SAID = 64 * 1024  # bytes that a receiver may say, who is to say nothing
_GRACE = 2.0  # seconds that the thread has to see that its time is over


class SyslogSink:
    """A receiver of syslog."""

    def __init__(self, settings: SyslogSettings) -> None:
        self._settings = settings
        self._thread = OwnThread(f"syslog {settings.name}")
        self._form = FORMATS[settings.format]
        self._sender = Originator(
            settings.hostname or socket.gethostname(), str(os.getpid()), settings.facility, settings.enterprise
        )

    async def deliver(self, events: Sequence[RecordedEvent]) -> None:
        """As `Sink.deliver`."""
        seconds = self._settings.timeout_seconds
        await self._thread.run(lambda: self._send(map(self._frame, events), monotonic() + seconds), seconds + _GRACE)

    async def probe(self) -> str:
        """As `Sink.probe`: a connection without a message, to its end."""
        seconds = self._settings.timeout_seconds
        version = await self._thread.run(lambda: self._send([], monotonic() + seconds), seconds + _GRACE)
        return f"{self._settings.address} takes our certificate, over {version}"

    def _frame(self, event: RecordedEvent) -> bytes:
        return framed(syslog_message(event, self._form(event), self._sender))

    def _send(self, messages: Iterable[bytes], until: float) -> str:
        """Sends frames and sees to it that they were read. Gives the version of TLS. Blocks."""
        host, port = split_address(self._settings.address)
        context = client_context(self._settings.ca, self._settings.cert, self._settings.key)
        try:
            with socket.create_connection((host, port), _left(until)) as plain:
                connection = _Connection(plain, context, self._settings.server_name or host, until)
                connection.shake_hands()
                for message in messages:
                    connection.write(message)
                connection.end()
                return connection.version
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            raise SinkError(_UNCONFIRMED) from None
        except OSError as error:
            raise SinkError(f"{self._settings.address}: {why_not(error)}") from None


_UNCONFIRMED = (
    "it ended the connection without TLS's close_notify, so that nobody knows what it has read: it refuses our "
    "certificate, or never sends one (rsyslog does with its driver ossl, and does not with gtls)"
)


class _Connection:
    """TLS whose end can be told from its breaking off: `SSLSocket.unwrap` gives up waiting for it."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, name: str, until: float) -> None:
        self._plain = plain
        self._until = until
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._said = 0

    @property
    def version(self) -> str:
        """Such as `TLSv1.3`."""
        return self._tls.version() or ""

    def shake_hands(self) -> None:
        """The handshake, as the client sees it. In TLS 1.3 the server may still refuse our certificate."""
        self._do(self._tls.do_handshake)

    def write(self, data: bytes) -> None:
        """Sends bytes, sooner or later."""
        self._tls.write(data)
        if self._out.pending >= _READ:
            self._flush()

    def end(self) -> None:
        """Says that nothing more comes, and waits until the other side says so (RFC 5425, section 4.4).

        Raises:
            OSError: it refuses the connection (SSLError), ends it without a word (SSLEOFError) or not in time.
        """
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            self._flush()
        try:
            while self._do(lambda: self._tls.read(_READ)):
                pass  # nothing that a receiver says has a meaning
        except ssl.SSLZeroReturnError:
            return

    def _do(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                self._pull()

    def _flush(self) -> None:
        if data := self._out.read():
            self._plain.settimeout(_left(self._until))
            self._plain.sendall(data)

    def _pull(self) -> None:
        self._plain.settimeout(_left(self._until))
        data = self._plain.recv(_READ)
        self._said += len(data)
        if self._said > _MOST_SAID:
            raise OSError(0, "it says more than a receiver of syslog has to")
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()


def _left(until: float) -> float:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
