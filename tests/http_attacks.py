"""Requests that two readers could take for different ones, and other bytes that are no request: for raw sockets."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
"""What a front that was misled would take for a body, or for nothing."""

_POST = b"POST /api/v1/evidence/sign HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
_CHUNK = b"\r\n2\r\n{}\r\n0\r\n\r\n"


def _te(value: bytes) -> bytes:
    return _POST + b"Transfer-Encoding: " + value + b"\r\n" + _CHUNK


def _chunked(body: bytes) -> bytes:
    return _POST + b"Transfer-Encoding: chunked\r\n\r\n" + body


LENGTHS = {
    "a length, then chunked": _POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then a length": _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "an unknown coding": _te(b"xchunked"),
    "chunked not last": _te(b"chunked, identity"),
    "identity beside a length": _POST + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "compressed, then chunked": _te(b"gzip, chunked"),
    "chunked, quoted": _te(b'"chunked"'),
    "chunked after a control character": _te(b"\x0bchunked"),
    "chunked on a folded line": _te(b"\r\n chunked"),
    "two codings": _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + _CHUNK,
    "chunked twice": _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + _CHUNK,
    "a space before the coding's colon": _POST + b"Transfer-Encoding : chunked\r\n" + _CHUNK,
    "chunked in HTTP/1.0": _te(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "the same length twice": _POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": _POST + b"Content-Length: 2\r\nContent-Length: 39\r\n\r\n{}",
    "a list of lengths": _POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": _POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": _POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hexadecimal": _POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length with a space in it": _POST + b"Content-Length: 1 2\r\n\r\n{}",
    "no length in its header": _POST + b"Content-Length:\r\n\r\n{}",
    "a length beyond all": _POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a length with a NUL": _POST + b"Content-Length: 2\0\r\n\r\n{}",
    "a chunk beyond all": _chunked(b"FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n"),
    "a negative chunk": _chunked(b"-1\r\n{}\r\n0\r\n\r\n"),
    "a chunk in C's hexadecimal": _chunked(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunks on bare line feeds": _chunked(b"2\n{}\n0\n\n"),
    "a line feed in a chunk's extension": _chunked(b"2;a\nxx\r\n{}\r\n0\r\n\r\n"),
    "a chunk without its end": _chunked(b"2\r\n{}X0\r\n\r\n"),
    "a length in the trailers": _chunked(b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n"),
}
"""Where the body ends."""

HEADS = {
    "bare line feeds": (_GET + b"\r\n").replace(b"\r\n", b"\n"),
    "one bare line feed": _GET + b"X: y\nZ: w\r\n\r\n",
    "a bare carriage return": _GET + b"X: y\rZ: w\r\n\r\n",
    "a folded line": _GET + b"X: y\r\n z\r\n\r\n",
    "a space before the colon": _GET + b"X : y\r\n\r\n",
    "a first header that is folded": b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n",
    "no colon": _GET + b"X\r\n\r\n",
    "a header without a name": _GET + b": y\r\n\r\n",
    "a NUL in a value": _GET + b"X: a\0b\r\n\r\n",
    "a control character in a value": _GET + b"X: a\x01b\r\n\r\n",
    "a NUL in a name": _GET + b"X\0: a\r\n\r\n",
    "no Host": b"GET /health HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "the same Host twice": b"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "a list of Hosts": b"GET /health HTTP/1.1\r\nHost: x,y\r\n\r\n",
    "an empty Host": b"GET /health HTTP/1.1\r\nHost:\r\n\r\n",
    "a Host that is a path": b"GET /health HTTP/1.1\r\nHost: x/y@z\r\n\r\n",
    "a URL of another host": b"GET http://evil.example/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a URL of another port": b"GET http://x:81/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a URL of another kind": b"GET ftp://x/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a URL with a fragment": b"GET /health#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in the URL": b"GET /health\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the URL": b"GET /hea\tlth HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/1.2": b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2 in words": b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "a verb that nobody knows": b"SMUGGLE /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a verb in lower case": b"get /health HTTP/1.1\r\nHost: x\r\n\r\n",
}
"""What the request is."""


async def exchange(port: int, *pieces: bytes, seconds: float = 10.0) -> bytes:
    """What a server answers to these bytes until it closes, or until it is silent for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while data := await reader.read(65536):
                    answer += data
        return answer
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """Of the answers that stand in what came back."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]
