"""CPU time of a notarisation, by process: what a change costs or saves, whatever else the machine does meanwhile.

`make bench-cpu` starts the stack with OpenBao, loads it by REST or gRPC, alternating with the empty call (and with
`--auth`, by REST, with a stack that asks for tokens), and prints for each process the CPU time of one call in
microseconds, and how often its threads were put to sleep and woken again. To set two trees side by side, run it in
both, in turn: the figures hold on a busy machine too, within some per cent, while those of the clock do not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import orjson

from afdp.embedded.stack import METRICS_PORTS, PORTS, SERVICES, Stack, StackOptions, running_stack
from bench.access import running_guarded
from bench.child import result_of
from bench.stack import trust_of
from bench.verified import require_verified

_TICK = os.sysconf("SC_CLK_TCK")  # a second
_WARM = 3.0  # seconds
_PORT_OFFSET = 1000


@dataclass(frozen=True)
class Use:
    """What a process has used: CPU seconds, and switches of its threads from sleep to work."""

    cpu: float
    wakes: int

    def __sub__(self, other: Use) -> Use:
        return Use(self.cpu - other.cpu, self.wakes - other.wakes)


@dataclass(frozen=True)
class Cost:
    """A run: calls, batches (0 for the empty call), and what each process used."""

    calls: int
    batches: int
    uses: Mapping[str, Use]

    def cpu_us(self, name: str) -> float:
        """Of one call."""
        return self.uses[name].cpu / self.calls * 1e6

    def wakes(self, name: str) -> float:
        """Of one call."""
        return self.uses[name].wakes / self.calls


def main(arguments: argparse.Namespace) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory(prefix="afdp-bench-") as folder:
        Path(folder).chmod(0o711)
        costs = asyncio.run(_alternate(Path(folder), arguments))
    _print(costs)


async def _alternate(folder: Path, arguments: argparse.Namespace) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {"sign": [], "empty": []}
    way, concurrency = arguments.way, arguments.concurrency
    async with AsyncExitStack() as open_:
        settings = {"metadata": {"AFDP_ENCRYPTION": arguments.encryption}}
        options = StackOptions(folder / "stack", port_offset=_PORT_OFFSET, vault=True, settings=settings)
        stack = await open_.enter_async_context(running_stack(options))
        await _measured(stack, way, "sign", _WARM, concurrency)
        if arguments.auth:
            guarded, token = await open_.enter_async_context(running_guarded(folder / "guarded"))
            await _measured(guarded, way, "sign", _WARM, concurrency, token)
        for _ in range(arguments.rounds):
            for kind, seconds in (("empty", arguments.seconds / 4), ("sign", arguments.seconds)):
                costs[kind].append(await _measured(stack, way, kind, seconds, concurrency))
            if arguments.auth:
                cost = await _measured(guarded, way, "sign", arguments.seconds, concurrency, token)
                costs.setdefault("sign, auth", []).append(cost)
    return costs


async def _measured(stack: Stack, way: str, kind: str, seconds: float, concurrency: int, token: str = "") -> Cost:
    target = stack.url if way == "rest" else f"127.0.0.1:{stack.port('notary')}"
    before, batches = _uses(stack), await _batches(stack)
    credentials = [token] if token else []
    result = await result_of(f"bench.{way}_load", target, kind, str(seconds), str(concurrency), *credentials)
    used = {name: use - before[name] for name, use in _uses(stack).items()}
    batches = await _batches(stack) - batches
    if kind == "sign":
        receipts = result.get("receipts") or [orjson.loads(answer)["receipt"] for answer in result["answers"]]
        require_verified(receipts, await trust_of(stack.url))
    used["load generator"] = Use(result["cpu"], 0)
    return Cost(len(result["latencies"]), batches, used)


def _uses(stack: Stack) -> dict[str, Use]:
    """Of every process so far; PostgreSQL's are counted together."""
    found = {name: _use(stack.server(name).pid) for name in (*SERVICES, "openbao")}
    postmaster = stack.server("postgres").pid
    backends = [_use(pid) for pid in _children(postmaster)]
    of_postgres = [_use(postmaster), *backends]
    found["postgres"] = Use(sum(each.cpu for each in of_postgres), sum(each.wakes for each in of_postgres))
    return found


def _use(pid: int) -> Use:
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(") ")[2].split()
    wakes = sum(_voluntary_switches(task) for task in (process / "task").iterdir())
    return Use((int(fields[11]) + int(fields[12])) / _TICK, wakes)


def _voluntary_switches(task: Path) -> int:
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


async def _batches(stack: Stack) -> int:
    """How many the notary has begun."""
    async with httpx.AsyncClient(trust_env=False) as client:
        offset = stack.port("notary") - PORTS["notary"]
        answer = await client.get(f"http://127.0.0.1:{METRICS_PORTS['notary'] + offset}/metrics")
    line = next(line for line in answer.text.splitlines() if line.startswith("afdp_notary_batch_items_count"))
    return int(float(line.split()[1]))


def _print(costs: Mapping[str, Sequence[Cost]]) -> None:
    """Medians over the rounds, each figure by itself."""
    signed = costs["sign"]
    names = list(signed[0].uses)
    print(f"{'CPU µs and wakes of a call':<28}" + "".join(f"{kind:>10}{'wakes':>7}" for kind in costs))
    totals = dict.fromkeys(costs, 0.0)
    for name in names:
        row = ""
        for kind, runs in costs.items():
            cpu = median(run.cpu_us(name) for run in runs)
            totals[kind] += cpu
            row += f"{cpu:>10.0f}{median(run.wakes(name) for run in runs):>7.2f}"
        print(f"{name:<28}{row}")
    print(f"{'together':<28}" + "".join(f"{total:>10.0f}{'':>7}" for total in totals.values()))
    if "sign, auth" in totals:
        print(f"access costs {totals['sign, auth'] / totals['sign'] - 1:.1%} of CPU", end="; ")
    print(f"ratio {totals['empty'] / totals['sign']:.3f}; {sum(run.calls for run in signed)} notarised", end=", ")
    batches = [median(run.calls / run.batches for run in runs) for runs in costs.values() if runs[0].batches]
    print(" and ".join(f"{size:.1f}" for size in batches), "in a batch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--way", choices=("rest", "grpc"), default="rest")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one run; of the empty one, a quarter")
    parser.add_argument("--rounds", type=int, default=3, help="how often the two alternate")
    parser.add_argument("--concurrency", type=int, default=64, help="connections, or calls in flight")
    parser.add_argument("--auth", action="store_true", help="by REST: also with tokens, authorisation and audit log")
    parser.add_argument("--encryption", choices=("on", "off"), default="on", help="whether records are sealed at rest")
    main(parser.parse_args())
