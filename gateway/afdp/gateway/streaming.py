"""What all streams of answers have in common: how they begin, and that their client may go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Receive

from afdp.errors import DeadlineExceeded, Unavailable


async def first_of(answers: AsyncGenerator[bytes, None], patience: float) -> bytes:
    """The first answer, within `patience` seconds.

    Raises:
        DeadlineExceeded, Unavailable: there is none.
        NotaryError: the notary's own.
    """
    try:
        async with asyncio.timeout(patience):
            return await anext(answers)
    except TimeoutError:
        raise DeadlineExceeded("the notary did not answer in time") from None
    except StopAsyncIteration:
        raise Unavailable("the notary ended the stream: try again", retry_after=1.0) from None


async def gone(receive: Receive) -> None:
    """Returns once the client is."""
    while (await receive())["type"] != "http.disconnect":
        pass
