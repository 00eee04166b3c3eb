"""What the signer remembers of key versions that nothing holds any more."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from afdp.errors import DataLoss, FailedPrecondition
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import GRACE, P256, KeyCatalogue, KeySpec, Purpose, Revocation, Signature
from afdp.signer.service import SignedStatement, Signer, Stamped, Statement
from afdp.signer.status import KeyStatus
from afdp.signer.version_memory import VersionMemory
from tests.local_keys import EVIDENCE, LOG, SPECS, STAMPS, TRUST, catalogue, file_catalogue

OWN = KeySpec("own-key", Purpose.EVIDENCE, P256, ("acme",))
STATEMENT = Statement("acme", b'{"_type":"https://in-toto.io/Statement/v1"}')


def elsewhere(folder: Path) -> KeyCatalogue:
    """The same signer after another holder has got the evidence key; the others stay where they were."""
    new = replace(EVIDENCE, name="afdp-notary-key")
    return file_catalogue(folder, specs=(new, LOG, STAMPS, TRUST))


async def test_versions_of_a_holder_that_was_given_up_are_listed_for_ever_with_an_end(tmp_path: Path) -> None:
    before = file_catalogue(tmp_path)
    await before.rotate(EVIDENCE)
    old = await before.versions(Purpose.EVIDENCE)

    listed = await elsewhere(tmp_path).versions(Purpose.EVIDENCE)

    assert [each.key_id for each in listed] == ["afdp-file-key:1", "afdp-file-key:2", "afdp-notary-key:1"]
    assert [each.current for each in listed] == [False, False, True]
    assert [(each.spki, each.valid_from, each.tenants) for each in listed[:2]] == [
        (each.spki, each.valid_from, each.tenants) for each in old
    ]
    ends = [each.valid_until for each in listed]
    assert ends[2] is None
    assert all(each and abs(each - datetime.now(UTC) - GRACE) < timedelta(minutes=1) for each in ends[:2])
    assert await elsewhere(tmp_path).versions(Purpose.EVIDENCE) == listed  # as after another start


async def test_a_key_that_is_taken_up_again_signs_only_with_a_new_version_since_verifiers_know_its_end(
    tmp_path: Path,
) -> None:
    await file_catalogue(tmp_path).versions()
    ended = (await elsewhere(tmp_path).versions(Purpose.EVIDENCE))[0]
    keys = file_catalogue(tmp_path)

    [refused] = await keys.sign(EVIDENCE, [bytes(32)])
    [part] = [each for each in await KeyStatus(keys).status() if each.name == "key afdp-file-key"]
    fresh = await keys.rotate(EVIDENCE)
    [signed] = await keys.sign(EVIDENCE, [bytes(32)])

    assert isinstance(refused, FailedPrecondition)
    assert "was given up, and verifiers know its end: afdp keys rotate --key afdp-file-key" in refused.message
    assert not part.good
    assert isinstance(signed, Signature)
    assert signed.key.key_id == fresh.key_id == "afdp-file-key:2"
    listed = {each.key_id: each for each in await keys.versions(Purpose.EVIDENCE)}
    assert listed["afdp-file-key:1"].valid_until == ended.valid_until
    assert listed["afdp-file-key:2"].valid_until is None


async def test_a_logs_key_has_no_end_that_anybody_would_know_of(tmp_path: Path) -> None:
    """One start with wrong settings must not be the end of a log."""
    before = await file_catalogue(tmp_path).versions(Purpose.LOG)
    new = replace(LOG, name="afdp-log-key")
    await file_catalogue(tmp_path, specs=(EVIDENCE, new, STAMPS, TRUST)).versions()
    keys = file_catalogue(tmp_path)

    [signed] = await keys.sign(LOG, [b"message"])

    assert isinstance(signed, Signature)
    assert [each for each in await keys.versions(Purpose.LOG) if each.current] == before


async def test_who_only_looks_ends_nothing_whatever_the_settings(tmp_path: Path) -> None:
    await file_catalogue(tmp_path).versions()
    content = (tmp_path / "key-versions.json").read_bytes()
    looking = VersionMemory(tmp_path / "key-versions.json", keeps=False)

    await looking.completed([], None)

    assert (tmp_path / "key-versions.json").read_bytes() == content


async def test_a_version_that_was_given_up_can_be_revoked_and_its_signatures_are_known_as_ours(tmp_path: Path) -> None:
    guard = CheckpointGuard(tmp_path / "checkpoints", [])
    [made] = await Signer(file_catalogue(tmp_path), guard, []).sign_statements([STATEMENT])
    await file_catalogue(tmp_path).versions()
    assert isinstance(made, Stamped)
    keys = elsewhere(tmp_path)
    signer = Signer(keys, guard, [])

    revoked = await signer.revoke("afdp-file-key:1", None, "left on a train")
    await signer.require_own(SignedStatement(STATEMENT.payload, made.signature.value, "afdp-file-key:1"))

    assert revoked.revoked
    [first] = [each for each in await keys.versions() if each.key_id == "afdp-file-key:1"]
    assert isinstance(first.revoked, Revocation)
    [part] = [each for each in await KeyStatus(keys).status() if each.name == "key afdp-file-key"]
    assert (part.good, part.detail) == (True, "evidence, given up; 1 version verifies for ever")


async def test_a_tenants_key_that_was_given_up_still_says_whose_it_was(tmp_path: Path) -> None:
    await file_catalogue(tmp_path, OWN).versions()

    [own, current] = await file_catalogue(tmp_path).versions(Purpose.EVIDENCE)

    assert (own.key_id, own.tenants, own.current) == ("own-key:1", ("acme",), False)
    assert (current.key_id, current.valid_until) == ("afdp-file-key:1", None)


async def test_a_key_that_was_made_anew_under_the_name_of_a_lost_one_signs_nothing(tmp_path: Path) -> None:
    await file_catalogue(tmp_path).versions()
    shutil.rmtree(tmp_path / "keys")
    keys = file_catalogue(tmp_path)

    [answer] = await keys.sign(EVIDENCE, [bytes(32)])

    assert isinstance(answer, FailedPrecondition)
    assert "afdp-file-key:1 is not the key that signed before" in answer.message
    with pytest.raises(FailedPrecondition, match="is not the key that signed before"):
        await keys.versions()


async def test_a_version_that_may_yet_be_withdrawn_is_not_remembered(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    await keys.rotate(EVIDENCE)
    [first, second] = await keys.versions(Purpose.EVIDENCE)
    memory = VersionMemory(tmp_path / "memory.json")

    await memory.completed([replace(first, current=True), replace(second, current=False)], None)

    assert [each.key_id for each in await memory.completed([], None)] == [first.key_id]


async def test_a_version_that_is_out_of_sight_while_its_key_is_held_is_not_given_up(tmp_path: Path) -> None:
    """As in a token, while two replicas make the same one and neither has withdrawn its own."""
    keys = file_catalogue(tmp_path)
    await keys.rotate(EVIDENCE)
    [first, second] = await keys.versions(Purpose.EVIDENCE)
    memory = VersionMemory(tmp_path / "key-versions.json")

    listed = await memory.completed([first], Purpose.EVIDENCE)

    assert {each.key_id: each.valid_until for each in listed}[second.key_id] is None
    memory.require_signing(second)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a:1": {}}', '{"a:1": {"purpose": "evidence", "spki": 7}}'])
def test_a_memory_that_cannot_be_read_stops_the_signer(tmp_path: Path, content: str) -> None:
    (tmp_path / "key-versions.json").write_text(content)

    with pytest.raises(DataLoss, match="restore it, do not remove it"):
        VersionMemory(tmp_path / "key-versions.json")


async def test_nothing_is_written_while_nothing_is_new(tmp_path: Path) -> None:
    keys = catalogue(tmp_path, dict.fromkeys(SPECS, file_catalogue(tmp_path).keyrings[0]))
    await keys.versions()
    before = (tmp_path / "key-versions.json").stat().st_ino

    await keys.versions(Purpose.EVIDENCE)
    [answer] = await keys.sign(EVIDENCE, [bytes(32)])

    assert isinstance(answer, Signature)
    assert (tmp_path / "key-versions.json").stat().st_ino == before
