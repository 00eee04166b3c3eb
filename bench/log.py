"""A log of ten million entries beside an empty one, in one PostgreSQL, each with a signer and a service of its own.

The large one is filled by COPY with a genuine tree, which its service then signs. Appends to both alternate; start-up
and memory are compared; the bytes per entry are what PostgreSQL says that the whole schema takes; fsck recomputes all.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

from afdp.embedded.postgres import running_postgres
from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from afdp.rpc.probe import probe
from bench.child import result_of
from bench.figures import Figure, Run, median_figure, run_of
from bench.filled_log import fill_log
from bench.machine import resident_mib

BATCH = 64
STARTS = 3
_STARTS_WITHIN = 60.0  # seconds
_DISK = 1_200  # bytes per entry while it is filled, the write-ahead log included
_SERVICE = "afdp.transparency.v1.TransparencyService"


@dataclass(frozen=True)
class Place:
    """Where one log is: its database and its settings."""

    name: str
    database: str
    address: str
    settings: Mapping[str, str]
    log: Path


async def measure_log(folder: Path, entries: int, seconds: float, rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of appending, and what is told of the rest."""
    if shutil.disk_usage(folder).free < (needed := 5 * 1024**3 + _DISK * entries):
        raise SystemExit(f"a log of {entries} entries needs {needed / 1024**3:.0f} GiB free at {folder}")
    async with running_postgres(folder / "postgres") as postgres, AsyncExitStack() as stack:
        empty, full = [
            await stack.enter_async_context(_place(folder, name, await postgres.create_database(f"log_{name}")))
            for name in ("empty", "full")
        ]
        told = await _fill(full, entries)
        figures = await _alternate(empty, full, seconds, rounds, entries)
        told |= await _starts(empty, full)
        told["bytes_per_entry"] = await _bytes_per_entry(full)
        told |= await _fsck(full)
    return figures, told


async def _fill(place: Place, entries: int) -> dict[str, Any]:
    async with _running(place):  # makes the log
        pass
    connection = await asyncpg.connect(place.database)
    try:
        seconds = await fill_log(connection, entries, lambda done: print(f"\r{done} entries", end="", file=sys.stderr))
    finally:
        await connection.close()
    print(file=sys.stderr)
    async with _running(place):  # signs the tree
        pass
    return {"entries": entries, "seconds_to_fill": round(seconds)}


async def _alternate(empty: Place, full: Place, seconds: float, rounds: int, entries: int) -> list[Figure]:
    async with _running(empty), _running(full):
        await _appending(empty, full, seconds / 2)
        runs = [await _appending(empty, full, seconds) for _ in range(rounds)]
    beside = f"log_append_{BATCH}_empty"
    name = f"log_append_{BATCH}_at_{entries / 1_000_000:g}m"
    of_empty, of_full = zip(*runs, strict=True)
    unit = "entries/s of one caller"
    return [median_figure(name, of_full, (beside, of_empty), unit), median_figure(beside, of_empty, None, unit)]


async def _appending(one: Place, other: Place, seconds: float) -> tuple[Run, Run]:
    """Appends to both in turn. The rate is that of the median call: one that the machine held up says nothing."""
    result = await result_of("bench.log_load", one.address, other.address, str(BATCH), str(seconds))
    first, second = (run_of(each, sum(each), BATCH) for each in result["latencies"])
    return replace(first, rate=1000 * BATCH / first.p50_ms), replace(second, rate=1000 * BATCH / second.p50_ms)


async def _starts(empty: Place, full: Place) -> dict[str, Any]:
    """How long each takes from its start until it serves, and its memory after some appends."""
    starts: dict[str, list[float]] = {empty.name: [], full.name: []}
    memory: dict[str, list[float]] = {empty.name: [], full.name: []}
    for _ in range(STARTS):
        async with AsyncExitStack() as stack:
            processes: dict[str, ServerProcess] = {}
            for place in (empty, full):
                began = time.perf_counter()
                processes[place.name] = await stack.enter_async_context(_running(place))
                starts[place.name].append(time.perf_counter() - began)
            await _appending(empty, full, 3.0)
            for name, process in processes.items():
                memory[name].append(resident_mib(process.pid))
    return {
        "seconds_to_start": {name: round(median(each), 2) for name, each in starts.items()},
        "resident_mib": {name: round(median(each), 1) for name, each in memory.items()},
    }


async def _bytes_per_entry(place: Place) -> dict[str, float]:
    connection = await asyncpg.connect(place.database, server_settings={"search_path": "afdp_log"})
    try:
        size = await connection.fetchval("SELECT size FROM tree WHERE log_id = 1")
        stored = await connection.fetchval(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relnamespace = 'afdp_log'::regnamespace AND relkind = 'r'"
        )
        leaf = await connection.fetchval(
            "SELECT avg(octet_length(body)) FROM entry WHERE leaf_index >> 21 = 0", timeout=600
        )
    finally:
        await connection.close()
    return {
        "stored": round(float(stored) / size, 1),
        "leaf": round(float(leaf), 1),
        "allowed": round(1.25 * (float(leaf) + 64), 1),
    }


async def _fsck(place: Place) -> dict[str, Any]:
    """The command `fsck` over the whole log: entries a second."""
    began = time.perf_counter()
    process = await _spawn("fsck", "afdp.transparency", place.log.with_name("fsck.log"), place.settings, "fsck")
    if await process.wait():
        raise SystemExit(f"fsck: {process.last_words()}")
    seconds = time.perf_counter() - began
    checked = next(int(word) for word in process.last_words(1).split() if word.isdigit())
    return {"fsck_entries_per_second": round(checked / seconds), "fsck_seconds": round(seconds)}


@asynccontextmanager
async def _place(folder: Path, name: str, database: str) -> AsyncIterator[Place]:
    """A database with a signer that runs."""
    signer, log = free_port(), free_port()
    own = {
        "AFDP_PORT": str(signer),
        "AFDP_TLS": "off",
        "AFDP_METRICS_PORT": "0",
        "AFDP_DATA_DIR": str(folder / f"{name}-signer"),
    }
    process = await _spawn(f"{name}-signer", "afdp.signer", folder / f"{name}-signer.log", own)
    try:
        await process.until(
            lambda: _serves(f"{LOOPBACK}:{signer}", "afdp.signer.v1.SignerService"), deadline=_STARTS_WITHIN
        )
        settings = {
            "AFDP_PORT": str(log),
            "AFDP_TLS": "off",
            "AFDP_HTTP_PORT": str(free_port()),
            "AFDP_METRICS_PORT": "0",
            "AFDP_SIGNER_ADDRESS": f"{LOOPBACK}:{signer}",
            "AFDP_DATABASE_URL": database,
        }
        yield Place(name, database, f"{LOOPBACK}:{log}", settings, folder / f"{name}.log")
    finally:
        await process.stop()


@asynccontextmanager
async def _running(place: Place) -> AsyncIterator[ServerProcess]:
    """The service, from when it serves."""
    process = await _spawn(place.name, "afdp.transparency", place.log, place.settings)
    try:
        await process.until(lambda: _serves(place.address, _SERVICE), deadline=_STARTS_WITHIN)
        yield process
    finally:
        await process.stop()


async def _spawn(name: str, module: str, log: Path, settings: Mapping[str, str], *command: str) -> ServerProcess:
    return await ServerProcess.spawn(
        name, [sys.executable, "-m", module, *command], log=log, environment={"PATH": "/usr/bin:/bin", **settings}
    )


async def _serves(address: str, service: str) -> bool:
    return await probe(address, service) == "serving"
