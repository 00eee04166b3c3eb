"""Measures the running service and writes bench/results.json.

The stack runs with OpenBao and a PostgreSQL that syncs to disk. After a warm-up, the real call and the empty call of
the same way alternate three times in one run, so that their ratio holds where the machine's speed drifts. Every answer
is a receipt, and every receipt is verified offline afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import httpx
import orjson

from afdp.embedded.stack import SERVICES, Stack, StackOptions, running_stack
from afdp.formats.trust import TrustRoot, read_trust_files
from bench.figures import Figure, Run, median_figure
from bench.grpc_load import run_grpc
from bench.rest_load import run_rest

RESULTS = Path(__file__).parent / "results.json"


def main(seconds: float, rounds: int, concurrency: int) -> None:
    """Runs the table and prints it."""
    with tempfile.TemporaryDirectory(prefix="afdp-bench-") as folder:
        Path(folder).chmod(0o711)
        figures, memory = asyncio.run(_measure(Path(folder) / "data", seconds, rounds, concurrency))
    report = {
        "machine": _machine(),
        "figures": [figure.to_object() for figure in figures],
        "memory_mib": memory,
    }
    RESULTS.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    for figure in figures:
        print(figure)
    print("resident MiB:", ", ".join(f"{name} {size:.0f}" for name, size in memory.items()))
    print(f"written to {RESULTS}")


async def _measure(
    folder: Path, seconds: float, rounds: int, concurrency: int
) -> tuple[list[Figure], dict[str, float]]:
    async with running_stack(StackOptions(folder, port_offset=1000, vault=True)) as stack:
        trust = await _trust(stack.url)
        figures = [
            *await _alternate("rest", stack, trust, seconds, rounds, concurrency),
            *await _alternate("grpc", stack, trust, seconds, rounds, concurrency),
        ]
        return figures, {name: _resident_mib(stack.server(name).pid) for name in SERVICES}


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
    ratios = [one.rate / other.rate for one, other in zip(signed, empty, strict=True)]
    return [
        median_figure(f"{way}_sign_{concurrency}", signed, ratios),
        median_figure(f"{way}_empty_{concurrency}", empty, []),
    ]


async def _trust(url: str) -> TrustRoot:
    async with httpx.AsyncClient(trust_env=False) as client:
        files = (await client.get(f"{url}/api/v1/trust-root")).raise_for_status().json()["files"]
    return read_trust_files({file["name"]: file["content"].encode() for file in files})


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return round(kib / 1024, 1)


def _machine() -> dict[str, object]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(cpu),
        "system": platform.platform(),
        "python": platform.python_version(),
        "afdp": version("afdp-notary"),
        "load_generator": "on the same cores",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=3, help="how often real and empty runs alternate")
    parser.add_argument("--concurrency", type=int, default=64, help="connections, or calls in flight")
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.rounds, arguments.concurrency)
