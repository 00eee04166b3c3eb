"""Receipts whose log is a Rekor 2: how fast they go out SIGNED, and how fast the queue is worked off.

The Rekor stands on the same machine, with a checkpoint a second, as others run theirs, so that it takes from the same
cores. What is signed is verified as SIGNED; what was logged is counted in the database once the queue is empty.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.trust import read_trust_files
from bench.figures import Figure, Run, median_figure
from bench.rest_load import run_rest
from tests.conftest import find_tool
from tests.rekor_servers import running_rekor2

IN_FLIGHT = 64  # entries on their way to the Rekor: the default

_CHECKPOINTS = 1000  # milliseconds


async def measure_external(folder: Path, seconds: float, rounds: int, connections: int) -> tuple[list[Figure], Any]:
    """The figures of receipts that go out SIGNED, and what is told of the queue behind; none without a Rekor."""
    program = find_tool("rekor-server-v2")
    if program is None:
        print("rekor-server-v2 is not here (`make tools` builds it): nothing is measured with it")
        return [], None
    (folder / "rekor").mkdir(parents=True)
    async with running_rekor2(lambda _: program, folder / "rekor", interval=_CHECKPOINTS) as rekor:
        known = {"name": "rekor", "url": f"http://127.0.0.1:{rekor.port}", "read_url": f"{rekor.url}/api/v2"}
        known |= {"public_key": str(rekor.public_key_file), "origin": rekor.origin}
        settings = {
            "notary": {
                "AFDP_LOG": "rekor",
                "AFDP_EXTERNAL_LOG_IN_FLIGHT": str(IN_FLIGHT),
                "AFDP_NOTARISE_KEYS": "false",
            },
            "transparency": {"AFDP_EXTERNAL_LOGS": json.dumps([known])},
        }
        async with running_stack(StackOptions(folder / "stack", port_offset=1000, settings=settings)) as stack:
            return await _measured(stack, seconds, rounds, connections)


async def _measured(stack: Stack, seconds: float, rounds: int, connections: int) -> tuple[list[Figure], Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        files = (await client.get(f"{stack.url}/api/v1/trust-root")).raise_for_status().json()["files"]
    trust = read_trust_files({file["name"]: file["content"].encode() for file in files})
    runs: list[Run] = []
    drained: list[float] = []
    for _ in range(rounds):
        runs.append(await run_rest(stack.url, "sign", seconds, connections, trust, "signed"))
        drained.append(await _drain_rate(stack.database_url))
    told = {"in_flight": IN_FLIGHT, "entries_per_second": round(sorted(drained)[len(drained) // 2], 1)}
    return [median_figure(f"external_signed_{connections}", runs)], told


async def _drain_rate(database: str) -> float:
    """Entries a second, from now until the queue is empty."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        began, waiting = time.perf_counter(), await connection.fetchval("SELECT count(*) FROM log_queue")
        async with asyncio.timeout(600):
            while await connection.fetchval("SELECT count(*) FROM log_queue"):  # noqa: ASYNC110 - another process's work
                await asyncio.sleep(0.1)
        return float(waiting / (time.perf_counter() - began))
    finally:
        await connection.close()
