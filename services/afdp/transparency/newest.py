"""One question that many ask at once, such as how far the log is: a flood of readers costs one query at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from afdp.errors import NotaryError
from afdp.transparency.queue import again

T = TypeVar("T")


class Newest(Generic[T]):
    """Asks for something that changes; whoever calls gets an answer that was asked for after the call."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._calls = 0
        self._answered = 0  # the last call that the answer is for
        self._answer: T | NotaryError | None = None

    async def __call__(self) -> T:
        """The answer.

        Raises:
            NotaryError: what was asked has raised it.
        """
        self._calls += 1
        call = self._calls
        async with self._asking:
            if self._answered < call:
                last, answer = self._calls, await self._outcome()
                self._answered, self._answer = last, answer
            else:
                answer = self._answer  # type: ignore[assignment]  # there is one
        if isinstance(answer, NotaryError):
            raise again(answer)
        return answer

    async def _outcome(self) -> T | NotaryError:
        try:
            return await self._ask()
        except NotaryError as error:
            return error
