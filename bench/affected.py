"""A key is compromised: how long it takes to list a million receipts that it signed, and in how much memory.

A running stack's database is filled through its own schema with copies of one real record, each of its own time, ID and
hash, and with as many again by another version. Then everything that the version signed is listed: page by page over
gRPC, and by the command `afdp keys affected`. PostgreSQL says by which index it finds the first page and the last.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.timestamps import format_timestamp
from afdp.messages.notary import ListAffectedReceiptsRequest, NotaryServiceClient
from afdp.metadata.postgres.search import search_statement, signed_statement
from afdp.metadata.values import Position, Search
from afdp.rpc import GrpcCaller, open_channel
from bench.figures import Figure, median_figure, run_of
from bench.machine import peak_mib
from bench.packages import evidence
from tests.many_records import fill_records

PAGE = 1000
_OTHER = "afdp-file-key:999"
_READS = re.compile(r"(Seq Scan on \w+|(?<= using )\w+|(?<=Bitmap Index Scan on )\w+)")


async def measure_affected(folder: Path, records: int) -> tuple[list[Figure], dict[str, Any]]:
    """The pages' figure, and what listing all takes."""
    quiet = {
        "notary": {"AFDP_NOTARISE_KEYS": "false", "AFDP_AUDIT_ANCHORS": "false"},  # so the list stays as it is
        "metadata": {"AFDP_ENCRYPTION": "off"},  # the others are copies of one record, which sealed would not open
    }
    async with running_stack(StackOptions(folder, port_offset=2000, settings=quiet)) as stack:
        async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as client:
            signed = await client.post("/api/v1/evidence/sign", json={"evidence_package": evidence()})
        key_id = signed.raise_for_status().json()["receipt"]["key_id"]
        since = datetime.now(UTC) - timedelta(days=1 + records / 86_400)
        connection = await asyncpg.connect(stack.database_url)
        try:
            await fill_records(connection, key_id, _OTHER, records)
            count = await connection.fetchval(
                "SELECT count(*) FROM record WHERE key_id = $1 AND notarized_at >= $2", key_id, since
            )
            plans = await _plans(connection, key_id, since)
        finally:
            await connection.close()
        figure, seconds = await _list(stack, key_id, since, count)
        command = await asyncio.to_thread(_run_command, stack.url, key_id, since, folder / "affected.csv", count)
        peaks = {name: peak_mib(stack.server(name).pid) for name in ("gateway", "notary", "metadata")}
    told = {"records": count, "seconds_grpc": seconds, **command, "peak_mib": peaks, "plans": plans}
    return [figure], told


async def _plans(connection: asyncpg.Connection, key_id: str, since: datetime) -> dict[str, Any]:
    """By what PostgreSQL finds the first page and the last, of the list and of the export, and in what time."""
    query = Search("default", key_id=key_id, start_time=since)
    told = {}
    for name, statement, size in (("list", search_statement, PAGE), ("export", signed_statement, 10 * PAGE)):
        for place, after in (("first", None), ("last", await _near_the_end(connection, key_id, size))):
            sql, parameters = statement(query, after, size)
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", *parameters.values)
            lines = [row["QUERY PLAN"] for row in rows]
            told[f"{name}, {place} page"] = {"reads": _READS.findall("\n".join(lines)), "took": lines[-1]}
    return told


async def _near_the_end(connection: asyncpg.Connection, key_id: str, size: int) -> Position | None:
    row = await connection.fetchrow(
        "SELECT notarized_at, receipt_id FROM record WHERE key_id = $1 "
        "ORDER BY notarized_at, receipt_id LIMIT 1 OFFSET $2",
        key_id,
        size,
    )
    return Position(row["notarized_at"], UUID(str(row["receipt_id"]))) if row else None


async def _list(stack: Stack, key_id: str, since: datetime, count: int) -> tuple[Figure, float]:
    latencies, seen, token = [], set(), ""
    async with open_channel(f"127.0.0.1:{stack.port('notary')}") as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        began = time.perf_counter()
        while True:
            sent = time.perf_counter()
            page = await client.list_affected_receipts(
                ListAffectedReceiptsRequest(key_id, since, PAGE, token), timeout=30
            )
            latencies.append(time.perf_counter() - sent)
            seen.update(receipt.receipt_id for receipt in page.receipts)
            if not (token := page.next_page_token):
                break
        seconds = time.perf_counter() - began
    if len(seen) != count:
        raise SystemExit(f"{len(seen)} receipts were listed of {count}")
    return median_figure(f"affected_pages_{PAGE}", [run_of(latencies, seconds)], None, "pages/s"), round(seconds, 2)


# What a process is told to have used counts its parent until it has begun, so a small one starts it and watches it.
_WATCH = "import os, subprocess, sys; _, s, u = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0); print(s, u.ru_maxrss)"


def _run_command(url: str, key_id: str, since: datetime, file: Path, count: int) -> dict[str, float]:
    """The command's time, and its largest memory."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "afdp.cli", "--url", url, "keys", "affected", "--key", key_id]
    command += ["--since", format_timestamp(since), "--csv", str(file)]
    watched = subprocess.run(
        [sys.executable, "-c", _WATCH, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    seconds = time.perf_counter() - began
    status, peak_kib = map(int, watched.stdout.split())
    with file.open() as lines:
        listed = sum(1 for _ in lines) - 1
    if status or listed != count:
        raise SystemExit(f"`afdp keys affected` ended with {status} and listed {listed} of {count}")
    return {"seconds_command": round(seconds, 2), "peak_mib_command": round(peak_kib / 1024, 1)}
