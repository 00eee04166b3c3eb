"""Measures the running service and writes bench/results.json.

After a warm-up, what is measured and what it is set in proportion to alternate in one run, three times, so that their
ratio holds where the machine's speed drifts. `--only` measures a part, and keeps what stands of the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import orjson

from bench.access import measure_access
from bench.affected import measure_affected
from bench.entries import measure_entries
from bench.external import measure_external
from bench.figures import Figure
from bench.log import measure_log
from bench.machine import machine
from bench.reads import measure_reads
from bench.search import measure_search
from bench.signer import measure_signer
from bench.stack import WAYS, measure_stack

RESULTS = Path(__file__).parent / "results.json"
PARTS = (*WAYS, "access", "reads", "entries", "signer", "affected", "search", "external")
LONG = ("log",)  # by name only: it takes some fifteen minutes and twelve gigabytes


def main(arguments: argparse.Namespace) -> None:
    """Measures the parts, one after the other, and prints their rows."""
    with tempfile.TemporaryDirectory(prefix="afdp-bench-") as folder:
        Path(folder).chmod(0o711)
        figures, more = asyncio.run(_measure(Path(folder), arguments))
    _write(figures, more, whole=set(arguments.only) >= set(PARTS))
    for figure in figures:
        print(figure)
    for name, told in more.items():
        print(f"{name}: {told}")
    print(f"written to {RESULTS}")


async def _measure(folder: Path, arguments: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """The rows, and what is told beside them."""
    figures: list[Figure] = []
    more: dict[str, Any] = {}
    seconds, rounds = arguments.seconds, arguments.rounds
    if ways := [part for part in WAYS if part in arguments.only]:
        figures, memory = await measure_stack(folder / "stack", ways, seconds, rounds, arguments.concurrency)
        more["memory_mib"] = memory
    if "access" in arguments.only:
        figures += await measure_access(folder / "access", seconds, rounds, arguments.concurrency)
    if "reads" in arguments.only:
        figures += await measure_reads(folder / "reads", seconds / 2, rounds, arguments.concurrency)
    if "entries" in arguments.only:
        figures += await measure_entries(folder, seconds / 3, rounds)
    if "signer" in arguments.only:
        figures += await measure_signer(folder, seconds / 4, rounds)
    if "affected" in arguments.only:
        listed, more["affected"] = await measure_affected(folder / "affected", arguments.records)
        figures += listed
    if "search" in arguments.only:
        found, more["search"] = await measure_search(folder / "search", arguments.records)
        figures += found
    if "log" in arguments.only:
        grown, more["log"] = await measure_log(folder, arguments.entries, seconds, rounds)
        figures += grown
    if "external" in arguments.only:
        signed, more["external_queue"] = await measure_external(
            folder / "external", seconds / 2, rounds, arguments.concurrency
        )
        figures += signed
    return figures, more


def _write(figures: list[Figure], more: dict[str, Any], *, whole: bool) -> None:
    """Replaces the rows that were measured; all of them where the others are of another machine."""
    report: dict[str, Any] = {"machine": machine(), "figures": []}
    if not whole and RESULTS.exists():
        before = orjson.loads(RESULTS.read_bytes())
        if before["machine"] == report["machine"]:
            report = before
    rows = {row["name"]: row for row in report["figures"]} | {figure.name: figure.to_object() for figure in figures}
    report = {**report, "figures": list(rows.values()), **more}
    RESULTS.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=(*PARTS, *LONG), default=list(PARTS), help="what to measure")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="length of a run; a third, of the signer's a quarter"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often the two of a ratio alternate")
    parser.add_argument("--concurrency", type=int, default=64, help="connections, or calls in flight")
    parser.add_argument(
        "--records", type=int, default=1_000_000, help="of the version that is compromised, and that are searched"
    )
    parser.add_argument("--entries", type=int, default=10_000_000, help="that the log is grown to")
    main(parser.parse_args())
