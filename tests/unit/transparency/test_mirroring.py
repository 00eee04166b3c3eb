"""Which files a mirror has at which size, without a server: those of the log written as a whole, and no other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from afdp.errors import NotaryError
from afdp.formats.merkle import consistency_proof, plan_consistency
from afdp.formats.tiles import TileRef, encode_bundle, encode_tile
from afdp.transparency.mirroring import MARK, Mirror
from afdp.transparency.values import LogIdentity, SignedCheckpoint
from tests.local_log import LocalLog


class Log:
    """A log in memory, as a mirror reads it."""

    def __init__(self, log: LocalLog) -> None:
        self.local = log

    def identity(self) -> LogIdentity:
        return LogIdentity(self.local.origin, self.local.log.public_key)

    async def checkpoint(self) -> SignedCheckpoint:
        return SignedCheckpoint.verified(self.local.checkpoint(), self.identity())

    async def consistency(self, old_size: int, new_size: int = 0) -> tuple[tuple[bytes, ...], int]:
        ranges = plan_consistency(old_size, new_size)
        stored = {(each.level, at): self.local.hashes[each.level, at] for each in ranges for at in range(*each[1:])}
        return consistency_proof(old_size, new_size, stored), new_size

    async def tile(self, ref: TileRef) -> bytes:
        span = range(ref.start(), ref.start() + ref.width)
        if ref.level is None:
            return encode_bundle([self.local.entries[at] for at in span])
        return encode_tile(self.local.hashes[ref.level, at] for at in span)


class Turns:
    async def hold(self, holder: str, seconds: float) -> bool:
        return True

    async def release(self, holder: str) -> None:
        pass


class Memory:
    """A mirror in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    async def write(self, path: str, data: bytes) -> None:
        self.files[path] = data

    async def write_once(self, path: str, data: bytes) -> None:
        assert self.files.get(path, data) == data, path
        self.files[path] = data

    async def remove_under(self, path: str) -> None:
        self.files = {name: data for name, data in self.files.items() if not name.startswith(path)}


async def mirrored(log: LocalLog, sink: Memory) -> None:
    """One turn; its failure is raised."""
    failures: list[NotaryError] = []
    mirror = Mirror(Log(log), Turns(), sink, log.origin, 60.0)
    mirror._failed = failures.append  # type: ignore[method-assign]
    running = asyncio.create_task(mirror.run())
    async with asyncio.timeout(60):
        while sink.files.get("checkpoint") != log.checkpoint().to_bytes() and not failures:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if failures:
        raise failures[0]


@pytest.mark.parametrize("sizes", [(1, 256), (255, 257), (300, 512, 65_536), (65_535, 65_537), (70_000, 131_072)])
async def test_a_mirror_holds_the_files_of_each_size_and_drops_what_became_full(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    log, sink = LocalLog(), Memory()
    for size in sizes:
        log.append(b"%d" % each for each in range(len(log.entries), size))
        await mirrored(log, sink)
        folder = log.write(tmp_path / str(size))
        files = {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
        left = set(sink.files) - set(files) - {MARK}
        assert {name: sink.files[name] for name in files} == files
        # Only narrower tiles of those that are still partial may be left: their checkpoints were served.
        assert all(".p/" in each and each.partition(".p/")[0] not in files for each in left)


async def test_a_mirror_of_another_history_of_the_same_log_is_refused() -> None:
    log, sink = LocalLog(), Memory()
    log.append([b"a", b"b", b"c"])
    await mirrored(log, sink)
    fork = LocalLog(key=log.key)
    fork.append([b"a", b"b", b"C", b"d"])

    with pytest.raises(NotaryError, match="does not go on from the mirror's checkpoint of size 3"):
        await mirrored(fork, sink)
    assert sink.files["checkpoint"] == log.checkpoint().to_bytes()
