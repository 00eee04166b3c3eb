"""Reading a request's body within its bounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from afdp.errors import FieldViolation, PayloadTooLarge, ResourceExhausted, UnsupportedMediaType
from afdp.gateway.metrics import BUFFERED, BUFFERED_LIMIT
from afdp.gateway.problems import RequestTimeout

JSON = "application/json"


def content_type_fault(
    content_type: str | None, content_encoding: str | None, expected: str = JSON
) -> UnsupportedMediaType | None:
    """What is wrong with how a body is said to be encoded: one media type is spoken, uncompressed, JSON in UTF-8."""
    if content_encoding not in (None, "", "identity"):
        return UnsupportedMediaType("the body must not be compressed: leave Content-Encoding out")
    if content_type == expected:
        return None
    if content_type is None:
        return UnsupportedMediaType(f"Content-Type is missing; it must be {expected}")
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind != expected:
        return UnsupportedMediaType(f"Content-Type must be {expected}")
    if expected == JSON and any(parameter.replace('"', "") not in ("charset=utf-8", "") for parameter in parameters):
        return UnsupportedMediaType(f"Content-Type must be {expected}, in UTF-8")
    return None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a body must arrive.

    Attributes:
        timeout: seconds for all of it.
        grace: seconds after which it must have come at `bytes_per_second`, on the whole.
        bytes_per_second: 0: `timeout` alone counts.
    """

    timeout: float
    grace: float
    bytes_per_second: int

    def seconds(self, received: int) -> float:
        """From its beginning, how long a body may take of which so many bytes are here."""
        if not self.bytes_per_second:
            return self.timeout
        return min(self.timeout, self.grace + received / self.bytes_per_second)


class BodyReader:
    """Reads bodies within three bounds: bytes of one, bytes of all that are held at once, and time.

    Args:
        limit: bytes of one body.
        budget: bytes of all bodies whose requests are being served.
        pace: how fast one must arrive.
    """

    def __init__(self, limit: int, budget: int, pace: Pace) -> None:
        self._limit = limit
        self._budget = budget
        self._pace = pace
        self._held = 0
        BUFFERED.set_function(lambda: self._held)
        BUFFERED_LIMIT.set(budget)

    async def read(self, receive: Receive, content_length: str | None, most: int = 0) -> bytes:
        """The whole body, of `most` bytes where that is not 0; it counts as held until `release`.

        Raises:
            PayloadTooLarge: it is over the limit; by `content_length`, before a byte is read.
            ResourceExhausted: too much is held for other requests.
            RequestTimeout: it did not arrive in time.
            ClientDisconnect: the client went away.
        """
        limit = min(most, self._limit) if most else self._limit
        if content_length is not None and (len(content_length) > 18 or int(content_length) > limit):
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        try:
            started = asyncio.get_running_loop().time()
            async with asyncio.timeout(self._pace.seconds(0)) as patience:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    chunks.append(chunk)
                    size += len(chunk)
                    self._held += len(chunk)
                    if size > limit:
                        raise _too_large(limit)
                    if more:
                        patience.reschedule(started + self._pace.seconds(size))
                    if self._held > self._budget:
                        raise ResourceExhausted("too many large requests at once; try again", retry_after=1.0)
        except BaseException as error:  # whatever ends the reading, what was counted is given back
            self._held -= size
            if isinstance(error, TimeoutError):
                raise RequestTimeout("the body did not arrive in time; send it faster") from None
            raise
        return b"".join(chunks)

    def release(self, body: bytes) -> None:
        """Gives back what a body held."""
        self._held -= len(body)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge("the request is too large", fields=[FieldViolation("body", f"is over {limit} bytes")])
