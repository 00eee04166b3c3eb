"""Receipts that are read again over REST: from copies in Redis, beside the same from PostgreSQL.

Two stacks alternate in one run, one with a cache of records. The first run warms up; of each run a
hundred receipts are verified.
"""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import orjson

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.trust import TrustRoot
from bench.child import result_of
from bench.figures import Figure, Run, median_figure, run_of
from bench.rest_load import run_rest
from bench.stack import trust_of
from bench.verified import require_verified

_RECEIPTS = 500


async def measure_reads(folder: Path, seconds: float, rounds: int, concurrency: int) -> list[Figure]:
    """`rest_read_N_cached` with its ratio to the same without a cache."""
    without, cached = list[Run](), list[Run]()
    _open(folder)
    async with (
        running_stack(StackOptions(folder / "without", port_offset=6000)) as one,
        running_stack(StackOptions(folder / "cached", port_offset=7000, redis=True)) as other,
    ):
        trusts = await trust_of(one.url), await trust_of(other.url)
        for stack, trust in zip((one, other), trusts, strict=True):
            await run_rest(stack.url, "sign", min(3.0, seconds), concurrency, trust)
        files = await _listed(one, folder / "one"), await _listed(other, folder / "other")
        for length, kept in [(min(3.0, seconds), False), *[(seconds, True)] * rounds]:
            runs = (
                await _run(one.url, files[0], length, concurrency, trusts[0]),
                await _run(other.url, files[1], length, concurrency, trusts[1]),
            )
            if kept:
                without.append(runs[0])
                cached.append(runs[1])
    name = f"rest_read_{concurrency}"
    return [median_figure(name, without), median_figure(f"{name}_cached", cached, (name, without))]


async def _listed(stack: Stack, file: Path) -> Path:
    """A file with the IDs of the newest receipts."""
    found: list[str] = []
    token = ""
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as client:
        while len(found) < _RECEIPTS:
            page = await client.get("/api/v1/evidence", params={"page_size": 100, "page_token": token})
            answer = page.raise_for_status().json()
            found += [each["receipt_id"] for each in answer["evidence"]]
            token = answer.get("next_page_token", "")
            if not token:
                break
    return _left(file, found)


def _open(folder: Path) -> None:
    """A new folder that a server under another account may walk through."""
    folder.mkdir(parents=True)
    folder.chmod(0o711)


def _left(file: Path, found: list[str]) -> Path:
    file.write_bytes(orjson.dumps(found))
    return file


async def _run(url: str, file: Path, seconds: float, concurrency: int, trust: TrustRoot) -> Run:
    result = await result_of("bench.read_load", url, str(file), str(seconds), str(concurrency))
    receipts = {each["receipt_id"]: each for each in (orjson.loads(body)["receipt"] for body in result["answers"])}
    require_verified(random.sample(list(receipts.values()), min(100, len(receipts))), trust)
    return run_of(result["latencies"], result["seconds"])
