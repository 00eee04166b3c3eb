"""When keys rotate by themselves, with keys in real files and a clock in the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from afdp.errors import FailedPrecondition, Unavailable
from afdp.signer.config import SignerSettings
from afdp.signer.files import FileKeyring
from afdp.signer.keys import KeyCatalogue, KeyVersion, Purpose
from afdp.signer.rotation import EVERY, SPREAD, KeyRotation
from afdp.signer.status import KeyStatus
from tests.local_keys import file_catalogue

KEY = "afdp-file-key"
QUARTER = timedelta(days=90)


class Clock:
    """Time that passes when the test says so. `waits` are the pauses that were asked for."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)
        self.waits: list[float] = []
        self._asked = asyncio.Semaphore(0)
        self._passed = asyncio.Semaphore(0)
        self.before_pause: Callable[[float], object] = lambda seconds: None

    def now(self) -> datetime:
        return self.time

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        if seconds < EVERY:  # the pause before a rotation: what another signer does meanwhile
            await asyncio.ensure_future(self._meanwhile(seconds))
            return
        self._asked.release()
        await self._passed.acquire()

    async def _meanwhile(self, seconds: float) -> None:
        outcome = self.before_pause(seconds)
        if asyncio.iscoroutine(outcome):
            await outcome

    async def looked(self) -> None:
        """Waits until a look is over."""
        await self._asked.acquire()

    async def pass_time(self, time: timedelta) -> None:
        """Lets time pass, and a look follow."""
        self.time += time
        self._passed.release()
        await self.looked()


@asynccontextmanager
async def rotating(keys: KeyCatalogue, clock: Clock, **days: int) -> AsyncIterator[None]:
    oldest = {Purpose(name): timedelta(days=count) for name, count in days.items()}
    task = asyncio.create_task(KeyRotation(keys, oldest, now=clock.now, wait=clock.wait).run())
    async with asyncio.timeout(10):
        await clock.looked()
        yield
    task.cancel()


async def versions(keys: KeyCatalogue, purpose: Purpose = Purpose.EVIDENCE) -> list[str]:
    return [version.key_id for version in await keys.versions(purpose)]


async def test_a_key_rotates_once_when_it_is_as_old_as_its_policy_says(tmp_path: Path) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()
    async with rotating(keys, clock, evidence=90):
        await clock.pass_time(QUARTER - timedelta(seconds=2))
        assert await versions(keys) == [f"{KEY}:1"]

        await clock.pass_time(timedelta(seconds=2))
        assert await versions(keys) == [f"{KEY}:1", f"{KEY}:2"]
        assert [version.current for version in await keys.versions(Purpose.EVIDENCE)] == [False, True]

    # The pause before it is short, and each signer's own.
    assert len([seconds for seconds in clock.waits if seconds != EVERY]) == 1
    assert all(0 <= seconds < SPREAD for seconds in clock.waits if seconds != EVERY)


async def test_keys_of_other_purposes_are_left_alone(tmp_path: Path) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()
    async with rotating(keys, clock, timestamp=30):
        await clock.pass_time(timedelta(days=4000))

    assert len(await versions(keys, Purpose.TIMESTAMP)) == 2
    for purpose in (Purpose.EVIDENCE, Purpose.LOG, Purpose.TRUST):
        assert len(await versions(keys, purpose)) == 1


async def test_without_a_policy_nothing_rotates(tmp_path: Path) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()
    async with rotating(keys, clock):
        await clock.pass_time(timedelta(days=4000))

    assert len(await keys.versions()) == 4


async def test_a_signer_that_finds_it_rotated_by_another_does_not_rotate_again(tmp_path: Path) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()

    class TheirTime(FileKeyring):
        """Another signer's new version, begun at the time that the test says it is."""

        async def versions(self, name: str) -> list[KeyVersion]:
            found = list(await super().versions(name))
            return [*found[:1], *(replaced(each, clock.time) for each in found[1:])]

    keys = file_catalogue(tmp_path, keyring=TheirTime)
    clock.before_pause = lambda seconds: keys.rotate(keys.named(Purpose.EVIDENCE))
    async with rotating(keys, clock, evidence=90):
        await clock.pass_time(QUARTER)
        assert await versions(keys) == [f"{KEY}:1", f"{KEY}:2"]


def replaced(version: KeyVersion, began: datetime) -> KeyVersion:
    from dataclasses import replace

    return replace(version, valid_from=began)


@pytest.mark.parametrize("error", [FailedPrecondition("no admin token"), Unavailable("Vault cannot be reached")])
async def test_a_rotation_that_fails_is_counted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()
    before = rotations("failed")

    async def refuse(self: FileKeyring, name: str) -> KeyVersion:
        raise error

    async with rotating(keys, clock, evidence=90):
        with monkeypatch.context() as patch:
            patch.setattr(FileKeyring, "rotate", refuse)
            await clock.pass_time(QUARTER)
            await clock.pass_time(timedelta(seconds=EVERY))
            assert rotations("failed") == before + 2
            assert await versions(keys) == [f"{KEY}:1"]

        await clock.pass_time(timedelta(seconds=EVERY))
        assert await versions(keys) == [f"{KEY}:1", f"{KEY}:2"]


async def test_keys_that_cannot_be_asked_do_not_end_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()

    async def away(self: FileKeyring, name: str) -> list[KeyVersion]:
        raise Unavailable("Vault cannot be reached")

    async with rotating(keys, clock, evidence=90):
        with monkeypatch.context() as patch:
            patch.setattr(FileKeyring, "versions", away)
            await clock.pass_time(QUARTER)
        await clock.pass_time(timedelta(seconds=EVERY))
        assert len(await versions(keys)) == 2


async def test_how_old_each_key_is_is_a_metric(tmp_path: Path) -> None:
    keys, clock = file_catalogue(tmp_path), Clock()
    async with rotating(keys, clock, evidence=90):
        clock.time += timedelta(days=7)
        assert age(KEY) == pytest.approx(7 * 86_400, abs=5)
        assert age("afdp-file-log-key") == pytest.approx(7 * 86_400, abs=5)


async def test_a_key_whose_rotation_is_overdue_says_so(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    (tmp_path / "keys" / "keyring.json").write_text(
        (tmp_path / "keys" / "keyring.json").read_text().replace(f"{datetime.now(UTC):%Y-}", "2020-")
    )
    [part] = [
        part
        for part in await KeyStatus(file_catalogue(tmp_path), {Purpose.EVIDENCE: QUARTER}).status()
        if part.name == f"key {KEY}"
    ]

    assert not part.good
    assert part.detail.endswith("its schedule says 90 days")
    assert f"afdp keys rotate --key {KEY}" in part.remedy
    assert all(each.good for each in await KeyStatus(keys, {Purpose.EVIDENCE: QUARTER}).status())


def test_the_schedule_is_read_from_a_line_or_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SignerSettings().key_rotation == {}
    monkeypatch.setenv("AFDP_KEY_ROTATION", "evidence=90d, timestamp=36h")
    assert SignerSettings().key_rotation == {"evidence": QUARTER, "timestamp": timedelta(hours=36)}
    assert SignerSettings(key_rotation={"evidence": "1d"}).key_rotation == {"evidence": timedelta(days=1)}  # type: ignore[dict-item]


@pytest.mark.parametrize("text", ["evidence", "evidence=90", "evidence=0d", "log=90d", "trust=90d", "x=1d"])
def test_a_schedule_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AFDP_KEY_ROTATION", text)
    with pytest.raises(ValidationError, match="key_rotation"):
        SignerSettings()


def age(key: str) -> float | None:
    return REGISTRY.get_sample_value("afdp_signer_key_age_seconds", {"key": key})


def rotations(outcome: str) -> float:
    labels = {"key": KEY, "outcome": outcome}
    return REGISTRY.get_sample_value("afdp_signer_key_rotations_total", labels) or 0.0
