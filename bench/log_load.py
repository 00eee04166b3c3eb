"""One caller of two logs, who appends to one and to the other in turn, each answer proven when the time is over.

What else the machine does falls on both alike.
"""

from __future__ import annotations

import sys
import time

import uvloop

from afdp.formats.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from afdp.messages.transparency import AppendRequest, AppendResponse, TransparencyServiceClient
from afdp.rpc import GrpcCaller, open_channel
from bench.child import leave_result
from bench.filled_log import random_entry


class Caller:
    """Appends batches to one log, as a notary does."""

    def __init__(self, client: TransparencyServiceClient, batch: int) -> None:
        self.latencies: list[float] = []
        self._client = client
        self._batch = batch
        self._size = 0
        self._answers: list[tuple[bytes, AppendResponse]] = []

    async def append(self) -> None:
        """One batch of entries that are made now: the log is told of the size that it had in its last answer."""
        entries = [random_entry() for _ in range(self._batch)]
        request = AppendRequest(entries, made_after_size=self._size)
        sent = time.perf_counter()
        answer = await self._client.append(request, timeout=30)
        self.latencies.append(time.perf_counter() - sent)
        assert answer.checkpoint
        self._size = answer.checkpoint.size
        self._answers.append((entries[-1], answer))

    def verify(self) -> None:
        """The last entry of each answer; what is not proven raises."""
        for entry, answer in self._answers:
            found, checkpoint = answer.results[-1].inclusion, answer.checkpoint
            assert found
            assert checkpoint
            path = [found.proof[at : at + HASH_SIZE] for at in range(0, len(found.proof), HASH_SIZE)]
            verify_inclusion(found.leaf_index, checkpoint.size, leaf_hash(entry), path, checkpoint.root)


async def _load(one: str, other: str, batch: int, seconds: float) -> dict[str, object]:
    async with open_channel(one) as first, open_channel(other) as second:
        callers = [Caller(TransparencyServiceClient(GrpcCaller(channel)), batch) for channel in (first, second)]
        for caller in callers:
            await caller.append()
            caller.latencies.clear()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for caller in callers:
                await caller.append()
    for caller in callers:
        caller.verify()
    return {"latencies": [caller.latencies for caller in callers]}


if __name__ == "__main__":
    file, one, other, batch, seconds = sys.argv[1:]
    leave_result(file, uvloop.run(_load(one, other, int(batch), float(seconds))))
