"""What the signer finds before its first start and after: nothing is made by looking."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from afdp.selfcheck import Finding
from afdp.signer import checking
from afdp.signer.config import SignerSettings
from afdp.signer.guard import CheckpointGuard
from tests.local_authority import LocalAuthority
from tests.local_keys import file_catalogue


async def looks(folder: Path, **settings: Any) -> dict[str, Finding]:
    told = SignerSettings(data_dir=folder, **settings)
    found = [*await checking.folder(told), *await checking.keys(told), *await checking.time(told)]
    return {finding.name: finding for finding in found}


async def test_before_the_first_start_all_is_good_and_nothing_is_made(tmp_path: Path) -> None:
    found = await looks(tmp_path / "data")

    assert all(finding.good for name, finding in found.items() if name != "clock")
    assert "made at the first start" in found["files"].detail
    assert not os.listdir(tmp_path)


async def test_keys_that_are_there_are_read(tmp_path: Path) -> None:
    file_catalogue(tmp_path)

    found = await looks(tmp_path)

    assert found["files"] == Finding("files", True, f"4 versions of 4 keys in {tmp_path / 'keys'}")


async def test_a_key_that_others_may_read_a_lost_one_and_a_wrong_passphrase_are_named(tmp_path: Path) -> None:
    file_catalogue(tmp_path)
    key = tmp_path / "keys" / "afdp-file-key.1.pem"
    key.chmod(0o644)
    assert "may be read or changed by others" in (await looks(tmp_path))["files"].detail
    key.rename(tmp_path / "moved")
    assert "cannot be read: No such file" in (await looks(tmp_path))["files"].detail
    (tmp_path / "moved").rename(key)
    key.chmod(0o600)
    (tmp_path / "passphrase").write_text("another")
    found = (await looks(tmp_path))["files"]
    assert not found.good
    assert "the passphrase is another" in found.detail


async def test_a_passphrase_that_is_named_and_not_there_is_wrong_before_the_first_start(tmp_path: Path) -> None:
    found = (await looks(tmp_path / "data", passphrase_file=tmp_path / "passphrase"))["files"]

    assert not found.good
    assert "AFDP_PASSPHRASE_FILE" in found.remedy


@pytest.mark.parametrize("name", ["revocations.json", "checkpoints/notary.localhost"])
async def test_a_memory_that_is_spoilt_is_to_be_restored_and_never_removed(tmp_path: Path, name: str) -> None:
    CheckpointGuard(tmp_path / "checkpoints", ())
    (tmp_path / name).write_text("garbage")

    found = (await looks(tmp_path))["memory"]

    assert not found.good
    assert name in found.detail
    assert "never remove it" in found.remedy


async def test_a_vault_that_is_away_hides_no_other_finding(tmp_path: Path, unused_tcp_port: int) -> None:
    settings = {"vault_addr": f"http://127.0.0.1:{unused_tcp_port}", "vault_token": "t"}
    found = await looks(tmp_path / "data", keys="vault", **settings)

    assert not found["vault"].good
    assert found["vault"].remedy
    assert found["files"].good


async def test_a_setting_that_vault_lacks_is_named(tmp_path: Path) -> None:
    found = await looks(tmp_path / "data", keys="vault")

    assert not found["vault"].good
    assert "AFDP_VAULT_TOKEN" in found["vault"].detail


async def test_certificates_say_when_the_first_of_them_ends(tmp_path: Path) -> None:
    from afdp.formats.certificates import to_pem

    file, authority = tmp_path / "chain.pem", LocalAuthority()
    file.write_text(to_pem(authority.certificates))
    ends = min(each.not_valid_after_utc for each in (authority.certificate, *authority.issuer.chain))

    found = (await looks(tmp_path / "data", tsa_chain_file=file))["certificates"]

    assert f"{ends:%Y-%m-%dT%H:%M:%SZ}" in found.detail
    assert found.good is (ends > datetime.now(UTC))
    file.write_text("no certificate")
    assert not (await looks(tmp_path / "data", tsa_chain_file=file))["certificates"].good
