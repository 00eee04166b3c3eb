"""The memory of key versions, without Vault."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from afdp.errors import DataLoss, FailedPrecondition
from afdp.signer.keys import P256, KeySpec, KeyVersion, Purpose
from afdp.signer.vault.memory import KeyMemory

SPEC = KeySpec("afdp-notary-key", Purpose.EVIDENCE, P256)


def version(number: int, spki: bytes | None = None) -> KeyVersion:
    return KeyVersion(
        key_id=f"{SPEC.name}:{number}",
        purpose=SPEC.purpose,
        algorithm=SPEC.algorithm,
        spki=spki or b"spki %d" % number,
        valid_from=datetime(2026, 11, 24, number, tzinfo=UTC),
        current=True,
    )


async def test_what_was_shown_once_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "vault-keys.json"
    await KeyMemory(path).completed(SPEC, {1: version(1), 2: version(2)})
    again = await KeyMemory(path).completed(SPEC, {2: version(2)})
    assert again == {1: replace(version(1), current=False), 2: version(2)}
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_version_that_changes_is_refused_and_what_was_kept_stays(tmp_path: Path) -> None:
    memory = KeyMemory(tmp_path / "vault-keys.json")
    await memory.completed(SPEC, {1: version(1)})
    with pytest.raises(FailedPrecondition, match="afdp-notary-key:1 is not the key that signed before"):
        await memory.completed(SPEC, {1: version(1, b"another"), 2: version(2)})
    assert await memory.completed(SPEC, {1: version(1)}) == {1: version(1)}


async def test_nothing_is_written_where_nothing_is_new(tmp_path: Path) -> None:
    path = tmp_path / "vault-keys.json"
    memory = KeyMemory(path)
    await memory.completed(SPEC, {1: version(1)})
    before = path.stat().st_ino
    for _ in range(3):
        await memory.completed(SPEC, {1: version(1)})
    assert path.stat().st_ino == before


async def test_two_keys_that_are_kept_at_once_are_both_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "vault-keys.json", replace(SPEC, name="afdp-tenant-acme")
    memory = KeyMemory(path)
    await asyncio.gather(memory.completed(SPEC, {1: version(1)}), memory.completed(other, {1: version(1)}))
    again = KeyMemory(path)
    assert 1 in await again.completed(SPEC, {})
    assert 1 in await again.completed(other, {})


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"a": []}', b'{"a": {"x": {}}}', b'{"a": {"1": {"spki": "!", "valid_from": "x"}}}']
)
def test_a_file_that_is_damaged_is_never_taken_for_an_empty_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vault-keys.json"
    path.write_bytes(content)
    with pytest.raises(DataLoss, match="restore it"):
        KeyMemory(path)
