"""Rekor v2's API over our log beside Rekor v2 itself: the same requests by the same client, one, 64 and 512 in flight.

Both hold their keys in files and sync what they write: Rekor v2 in a folder, with a checkpoint a second, ours in
PostgreSQL. Every answer is verified afterwards: the proof, the checkpoint, the log's signature.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import StackOptions, running_stack
from afdp.formats.bundle import LogEntry
from afdp.formats.note import VerifierKey
from afdp.formats.spki import from_pem, load_ed25519
from afdp.verify.log import check_checkpoint, check_inclusion
from bench.child import result_of
from bench.figures import Figure, Run, median_figure, run_of
from tests.conftest import find_tool
from tests.rekor_servers import running_rekor2

IN_FLIGHT = (1, 64, 512)

_CHECKPOINTS = 1000  # milliseconds between two of Rekor v2


@dataclass(frozen=True)
class Server:
    """Where entries are written, and the key of the log that they are then in.

    Attributes:
        fresh: entries for each second, made before the clock starts; a run ends early where they do not suffice.
    """

    url: str
    vkey: VerifierKey
    fresh: int


async def measure_entries(folder: Path, seconds: float, rounds: int) -> list[Figure]:
    """The figures of ours, and of Rekor v2 where it is here."""
    async with running_stack(StackOptions(folder / "entries", port_offset=1000)) as stack:
        async with httpx.AsyncClient(trust_env=False) as client:
            vkey = (await client.get(f"{stack.url}/log/vkey")).raise_for_status().text.strip()
        ours = Server(stack.url, VerifierKey.parse(vkey), 4000)
        async with _rekor(folder / "rekor2") as theirs:
            return [figure for count in IN_FLIGHT for figure in await _alternate(ours, theirs, count, seconds, rounds)]


async def _alternate(ours: Server, theirs: Server | None, count: int, seconds: float, rounds: int) -> Sequence[Figure]:
    await _writing(ours, count, seconds / 4)
    written: list[Run] = []
    beside: list[Run] = []
    # Of one at a time Rekor v2 has some answers only, whose time is that of its checkpoints: one longer run tells more.
    lengths = [seconds] * rounds if count > 1 else [seconds * rounds]
    for length in lengths:
        if theirs:
            beside.append(await _writing(theirs, count, length))
        written.append(await _writing(ours, count, length))
    name, other, unit = f"entries_{count}", f"rekor2_entries_{count}", "entries/s"
    if not beside:
        return [median_figure(name, written, None, unit)]
    return [median_figure(name, written, (other, beside), unit), median_figure(other, beside, None, unit)]


async def _writing(server: Server, count: int, seconds: float) -> Run:
    fresh = count + int(min(server.fresh, count * 500) * seconds)
    result = await result_of("bench.entry_load", server.url, str(seconds), str(count), str(fresh))
    await asyncio.to_thread(_require_logged, result["answers"], server.vkey)
    return run_of(result["latencies"], result["seconds"])


def _require_logged(answers: Iterable[str], vkey: VerifierKey) -> None:
    """Verifies each answer offline."""
    for text in answers:
        answer = orjson.loads(text)
        proof = answer["inclusionProof"]
        entry = LogEntry(
            log_index=int(answer["logIndex"]),
            log_id=b64decode(answer["logId"]["keyId"]),
            body=b64decode(answer["canonicalizedBody"]),
            tree_size=int(proof["treeSize"]),
            root_hash=b64decode(proof["rootHash"]),
            hashes=[b64decode(each) for each in proof["hashes"]],
            checkpoint=proof["checkpoint"]["envelope"],
        )
        check_inclusion(entry)
        check_checkpoint(entry, vkey)


@asynccontextmanager
async def _rekor(folder: Path) -> AsyncIterator[Server | None]:
    program = find_tool("rekor-server-v2")
    if program is None:
        print("rekor-server-v2 is not here (`make tools` builds it): no figures beside its own")
        yield None
        return
    async with running_rekor2(lambda _: program, folder, interval=_CHECKPOINTS) as rekor:
        key = VerifierKey(rekor.origin, load_ed25519(from_pem(rekor.public_key)))
        yield Server(f"http://{LOOPBACK}:{rekor.port}", key, 1000)
