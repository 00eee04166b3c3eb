"""Load on one log: a few calls in flight, as notaries send their batches, each proven when the time is over."""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

from afdp.formats.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from afdp.messages.transparency import AppendRequest, AppendResponse, TransparencyServiceClient
from afdp.rpc import GrpcCaller, open_channel
from bench.child import leave_result
from bench.filled_log import random_entry


async def _load(address: str, callers: int, batch: int, seconds: float) -> dict[str, object]:
    latencies: list[float] = []
    answers: list[tuple[bytes, AppendResponse]] = []
    async with open_channel(address) as channel:
        client = TransparencyServiceClient(GrpcCaller(channel))
        answer = await client.append(AppendRequest([random_entry()]))
        size = answer.checkpoint.size if answer.checkpoint else 0
        began = time.perf_counter()

        async def caller() -> None:
            nonlocal size
            while time.perf_counter() < began + seconds:
                made_after = size  # as a notary does: the size in the last answer, and then the entries are made
                entries = [random_entry() for _ in range(batch)]
                sent = time.perf_counter()
                answer = await client.append(AppendRequest(entries, made_after_size=made_after), timeout=30)
                latencies.append(time.perf_counter() - sent)
                assert answer.checkpoint
                size = max(size, answer.checkpoint.size)
                answers.append((entries[-1], answer))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(caller())
        took = time.perf_counter() - began
    for entry, answer in answers:
        _verify(entry, answer)
    return {"seconds": took, "latencies": latencies}


def _verify(entry: bytes, answer: AppendResponse) -> None:
    """The last entry of an answer; what is not proven raises."""
    found, checkpoint = answer.results[-1].inclusion, answer.checkpoint
    assert found
    assert checkpoint
    path = [found.proof[at : at + HASH_SIZE] for at in range(0, len(found.proof), HASH_SIZE)]
    verify_inclusion(found.leaf_index, checkpoint.size, leaf_hash(entry), path, checkpoint.root)


if __name__ == "__main__":
    file, address, callers, batch, seconds = sys.argv[1:]
    leave_result(file, uvloop.run(_load(address, int(callers), int(batch), float(seconds))))
