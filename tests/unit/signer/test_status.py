"""What the signer says of itself, with keys in real files."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from afdp.errors import Unavailable
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import KeyCatalogue, Purpose
from afdp.signer.part import Part
from afdp.signer.service import Signer
from afdp.signer.status import KeyStatus, StatusReport
from tests.local_keys import file_catalogue


async def parts(keys: KeyCatalogue) -> dict[str, Part]:
    report = StatusReport({"keys": KeyStatus(keys), **{each.kind: each for each in keys.keyrings}})
    return {part.name: part for part in await report.parts()}


async def test_each_key_says_its_purpose_its_version_and_its_age(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    await keys.rotate(keys.named(Purpose.EVIDENCE))

    found = await parts(keys)

    assert found["key afdp-file-key"] == Part("key afdp-file-key", True, "evidence, version 2, 0 days old, 1 older")
    assert found["key afdp-file-log-key"].detail == "log, version 1, 0 days old"
    assert found["files"] == Part("files", True, f"5 versions of 4 keys in {tmp_path / 'keys'}")
    assert all(part.good for part in found.values())


async def test_a_key_that_is_revoked_and_not_rotated_says_what_to_do(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    signer = Signer(keys, CheckpointGuard(tmp_path / "checkpoints", ["log.example"]), ["log.example"])
    await signer.revoke("afdp-file-key:1", None, "left on a train")
    assert (await parts(keys))["key afdp-file-key"] == Part(
        "key afdp-file-key",
        False,
        "version 1 is revoked, so that nothing is signed with it",
        "make a new version: afdp keys rotate --key afdp-file-key",
    )

    await signer.rotate(Purpose.EVIDENCE, "")

    assert (await parts(keys))["key afdp-file-key"].good


async def test_a_key_file_that_others_may_read_is_named(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    (tmp_path / "keys" / "afdp-file-log-key.1.pem").chmod(0o644)

    found = (await parts(keys))["files"]

    assert not found.good
    assert "afdp-file-log-key.1.pem may be read or changed by others" in found.detail
    assert "mode 600" in found.remedy


async def test_a_part_that_fails_or_hangs_is_reported_and_holds_up_no_other() -> None:
    class Away:
        async def status(self) -> Sequence[Part]:
            raise Unavailable("Vault cannot be reached")

    class Hung:
        async def status(self) -> Sequence[Part]:
            await asyncio.Event().wait()
            return []

    class Fine:
        async def status(self) -> Sequence[Part]:
            return [Part("clock", True, "synchronised")]

    found = await StatusReport({"vault": Away(), "hsm": Hung(), "clock": Fine()}, patience=0.05).parts()

    assert [(part.name, part.good) for part in found] == [("vault", False), ("hsm", False), ("clock", True)]
    assert found[0].detail == "Vault cannot be reached"
    assert found[1].detail == "gave no answer within 0.05 seconds"
