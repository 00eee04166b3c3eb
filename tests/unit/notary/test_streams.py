"""Streams: bounded, in any order, and never left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from afdp.errors import Internal, InvalidArgument
from afdp.notary.streams import answer_each


async def numbers(count: int, taken: list[int] | None = None) -> AsyncIterator[int]:
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield number


async def test_every_request_is_answered() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    answers = [answer async for answer in answer_each(numbers(500), double, 7)]

    assert sorted(answers) == [number * 2 for number in range(500)]


async def test_a_slow_request_does_not_hold_up_the_others() -> None:
    release = asyncio.Event()

    async def first_is_slow(number: int) -> int:
        if number == 0:
            await release.wait()
        return number

    answers = []
    async for answer in answer_each(numbers(3), first_is_slow, 8):
        answers.append(answer)
        if len(answers) == 2:
            release.set()

    assert answers == [1, 2, 0]


async def test_a_reader_that_does_not_read_stops_the_writer() -> None:
    taken: list[int] = []

    async def same(number: int) -> int:
        return number

    async with aclosing(answer_each(numbers(1000, taken), same, 5)) as answers:
        await anext(answers)
        for _ in range(50):
            await asyncio.sleep(0)

    assert len(taken) <= 7


async def test_an_error_of_the_answerer_ends_the_stream() -> None:
    async def broken(number: int) -> int:
        raise Internal("broken")

    with pytest.raises(Internal, match="broken"):
        [answer async for answer in answer_each(numbers(3), broken, 8)]


async def test_a_request_that_cannot_be_read_ends_the_stream_with_its_error() -> None:
    async def unreadable() -> AsyncIterator[int]:
        yield 1
        raise InvalidArgument.field("body", "is not a message")

    async def same(number: int) -> int:
        return number

    with pytest.raises(InvalidArgument, match="body"):
        [answer async for answer in answer_each(unreadable(), same, 8)]


async def test_closing_the_stream_ends_the_work_under_way() -> None:
    ended = asyncio.Event()

    async def endless(number: int) -> int:
        if number == 0:
            return 0
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return number

    async with aclosing(answer_each(numbers(2), endless, 8)) as answers:
        assert await anext(answers) == 0

    async with asyncio.timeout(30):
        await ended.wait()
