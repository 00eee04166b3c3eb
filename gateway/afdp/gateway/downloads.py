"""Streams of answers as one download: the bytes of each, one after the other, in chunks (RFC 9112, section 7.1).

The next answer is read when the one before is on its way, so a slow client slows down its own stream and nothing else;
one that is too slow, or is gone, ends it. A download that breaks off is cut, so that nobody takes it for whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from starlette.types import Receive, Scope, Send

from afdp.errors import Internal, NotaryError
from afdp.gateway.descriptors import Api
from afdp.gateway.exchange import exchange_of
from afdp.gateway.streaming import first_of, gone

logger = logging.getLogger(__name__)


class Download:
    """How answers of one type become a download: each has one of several fields of bytes, of one media type each."""

    def __init__(self, api: Api, message: Descriptor) -> None:
        self._parse = api.message_class(message.full_name).FromString
        self._types = {body.field.name: body.media_type for body in api.raw_fields(message)}

    async def serve(
        self, answers: AsyncGenerator[bytes, None], patience: float, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serves one download, until it ends or its client goes.

        Args:
            answers: serialised; the first comes within `patience`, in seconds.

        Raises:
            NotaryError: there is no first answer, and nothing was sent.
        """
        async with aclosing(answers):
            first = await first_of(answers, patience)
            kind, data = self._bytes(first)
            exchange_of(scope).stand_aside()
            headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            leaving = asyncio.create_task(gone(receive))
            sending = asyncio.create_task(self._send(data, answers, send))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, data: bytes, answers: AsyncGenerator[bytes, None], send: Send) -> None:
        try:
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            async for answer in answers:
                _, data = self._bytes(answer)
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except NotaryError as error:  # without its end, the client knows that there is more
            logger.info("a download broke off", extra={"fields": {"code": error.code}})
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _bytes(self, answer: bytes) -> tuple[str, bytes]:
        try:
            message: Any = self._parse(answer)
        except DecodeError as error:
            raise Internal("the notary's answer could not be read") from error
        for name, kind in self._types.items():
            if message.HasField(name):
                return kind, getattr(message, name)
        raise Internal("the notary's answer could not be read")
