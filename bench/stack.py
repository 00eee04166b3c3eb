"""The whole service under load, over REST and over gRPC, each beside its empty call.

The stack runs with OpenBao and a PostgreSQL that syncs to disk. Every answer is a receipt, and each is verified offline
afterwards.
"""

from __future__ import annotations

from pathlib import Path

import httpx

from afdp.embedded.stack import SERVICES, Stack, StackOptions, running_stack
from afdp.formats.trust import TrustRoot, read_trust_files
from bench.figures import Figure, Run, median_figure
from bench.grpc_load import run_grpc
from bench.machine import resident_mib
from bench.rest_load import run_rest

WAYS = ("rest", "grpc")


async def measure_stack(
    folder: Path, ways: list[str], seconds: float, rounds: int, concurrency: int
) -> tuple[list[Figure], dict[str, float]]:
    """The figures of each way, and the memory that each service has then."""
    async with running_stack(StackOptions(folder, port_offset=1000, vault=True)) as stack:
        trust = await trust_of(stack.url)
        figures = [
            figure for way in ways for figure in await _alternate(way, stack, trust, seconds, rounds, concurrency)
        ]
        return figures, {name: resident_mib(stack.server(name).pid) for name in SERVICES}


async def _alternate(
    way: str, stack: Stack, trust: TrustRoot, seconds: float, rounds: int, concurrency: int
) -> list[Figure]:
    run = {"rest": run_rest, "grpc": run_grpc}[way]
    target = stack.url if way == "rest" else f"127.0.0.1:{stack.port('notary')}"
    await run(target, "sign", min(3.0, seconds), concurrency, trust)
    signed: list[Run] = []
    empty: list[Run] = []
    for _ in range(rounds):
        empty.append(await run(target, "empty", seconds / 2, concurrency, trust))
        signed.append(await run(target, "sign", seconds, concurrency, trust))
    beside = f"{way}_empty_{concurrency}"
    return [median_figure(f"{way}_sign_{concurrency}", signed, (beside, empty)), median_figure(beside, empty)]


async def trust_of(url: str) -> TrustRoot:
    """What a stack's receipts are verified against."""
    async with httpx.AsyncClient(trust_env=False) as client:
        files = (await client.get(f"{url}/api/v1/trust-root")).raise_for_status().json()["files"]
    return read_trust_files({file["name"]: file["content"].encode() for file in files})
