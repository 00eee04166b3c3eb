"""What waits: bounded, in order, in whole calls."""

import asyncio

import pytest

from afdp.errors import ResourceExhausted, Unavailable
from afdp.transparency.queue import Backlog, Limits, Queue, pauses
from afdp.transparency.values import Leaf

LIMITS = Limits(queue_entries=10, queue_bytes=100, group_entries=4, group_bytes=50)


def leaves(count: int, size: int = 1) -> list[Leaf]:
    return [Leaf(bytes(32), bytes(size))] * count


async def test_a_group_takes_whole_calls_in_order_up_to_its_bounds() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    for count in (1, 2, 2, 1):
        queue.put(leaves(count))

    taken = []
    while group := queue.take():
        taken.append([len(call.leaves) for call in group])

    assert taken == [[1, 2], [2, 1]]


async def test_a_group_is_bounded_by_bytes_too() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    for size in (30, 30, 20):
        queue.put(leaves(1, size))

    assert [call.size for call in queue.take()] == [30]
    assert [call.size for call in queue.take()] == [30, 20]


async def test_a_call_larger_than_a_group_goes_alone() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    queue.put(leaves(9))
    queue.put(leaves(1))

    assert [len(call.leaves) for call in queue.take()] == [9]
    assert [len(call.leaves) for call in queue.take()] == [1]


@pytest.mark.parametrize("more", [leaves(6), leaves(1, 96)])
async def test_a_full_queue_refuses_and_accepts_again_once_there_is_room(more: list[Leaf]) -> None:
    queue = Queue(LIMITS, "notary.localhost")
    queue.put(leaves(5))
    with pytest.raises(ResourceExhausted) as full:
        queue.put(more)
    assert full.value.retry_after

    queue.take()
    queue.put(more)

    assert len(queue) == 1


async def test_a_call_that_would_never_fit_is_let_in_where_nothing_waits() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    queue.put(leaves(50, 10))

    assert [len(call.leaves) for call in queue.take()] == [50]


async def test_callers_that_gave_up_take_no_room_in_a_group() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    answers = [queue.put(leaves(3)) for _ in range(3)]
    answers[0].cancel()
    answers[1].cancel()

    assert [call.answer for call in queue.take()] == [answers[2]]
    assert queue.take() == []
    queue.put(leaves(10))
    assert len(queue) == 1


async def test_each_caller_of_a_failed_group_gets_an_error_of_its_own() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    answers = [queue.put(leaves(1)) for _ in range(2)]
    for call in queue.take():
        call.fail(Unavailable("away", retry_after=2.0))

    one, other = (answer.exception() for answer in answers)
    assert isinstance(one, Unavailable)
    assert isinstance(other, Unavailable)
    assert one is not other
    assert (one.message, one.retry_after) == (other.message, other.retry_after) == ("away", 2.0)


async def test_an_unsigned_tree_is_due_at_once_and_after_a_failure_a_little_later() -> None:
    backlog = Backlog()
    assert backlog.due_in() is None
    backlog.begin()
    assert backlog.is_due()

    backlog.begin(Unavailable("the signer is away"))

    wait = backlog.due_in()
    assert wait is not None
    assert 0 < wait <= 0.12
    assert backlog.error
    backlog.end()
    assert backlog.due_in() is None
    assert backlog.error is None


async def test_a_tree_seen_unsigned_twice_at_one_size_is_taken_up() -> None:
    backlog = Backlog()

    assert [backlog.notice(size) for size in (None, 5, 6, 6)] == [False, False, False, True]
    assert backlog.is_due()


def test_pauses_grow_to_two_seconds_and_no_further() -> None:
    waits = [pause for pause, _ in zip(pauses(), range(20), strict=False)]

    assert waits[0] <= 0.12
    assert all(1.6 <= each <= 2.4 for each in waits[6:])


async def test_a_caller_that_was_answered_is_not_answered_again() -> None:
    queue = Queue(LIMITS, "notary.localhost")
    answer = queue.put(leaves(1))
    (call,) = queue.take()
    answer.cancel()
    call.fail(Unavailable("away"))

    with pytest.raises(asyncio.CancelledError):
        await answer
