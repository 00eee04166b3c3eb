from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from tests.local_notary import CARD, MODEL, LocalNotary
from tests.tampering import EVERY_TAMPERING, Tampering

EVIDENCE = {
    "spec_version": "1.0.0",
    "timestamp_utc": "2026-11-24T04:09:28.250Z",
    "event_type": "ai.model.deployment.completed",
    "actor": {"type": "workload", "id": "ci@acme"},
    "artifacts": [],
    "metadata": {"build": 7},
}

Afdp = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    notary = LocalNotary()
    receipt = notary.notarise()
    (folder / "receipt.json").write_bytes(receipt.to_json())
    (folder / "bundle.json").write_bytes(receipt.bundle.to_json())
    (folder / "model.bin").write_bytes(MODEL)
    (folder / "model.md").write_bytes(CARD)
    statement = json.loads(receipt.bundle.envelope.payload)
    (folder / "evidence.json").write_bytes(orjson.dumps(statement["predicate"]["evidence"]))
    (folder / "policy.yaml").write_text("tenant: acme\n")
    notary.write_trust(folder / "trust")
    LocalNotary().write_trust(folder / "other-trust")
    return folder


@pytest.fixture
def afdp(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Afdp:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("AFDP_TRUST", raising=False)
    monkeypatch.delenv("AFDP_URL", raising=False)
    return lambda *arguments, **settings: CliRunner().invoke(cli, [*arguments], prog_name="afdp", **settings)


def test_a_receipt_that_holds_is_verified_check_by_check(afdp: Afdp) -> None:
    result = afdp("verify", "receipt.json", "--artifact", "model.bin", "--trust", "trust")

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "  ✓ envelope     DSSE, in-toto statement v1"
    assert lines[5].startswith("  ✓ artifact     model.bin  sha256 ")
    assert lines[6] == "  – approvals    none asked for"
    assert lines[-1] == "VERIFIED"


def test_output_that_is_piped_has_no_colours_and_a_terminals_has(afdp: Afdp) -> None:
    assert "\x1b[" not in afdp("verify", "receipt.json", "--trust", "trust").stdout
    assert "\x1b[32m" in afdp("verify", "receipt.json", "--trust", "trust", color=True).stdout


def test_no_color_is_respected(afdp: Afdp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b[" not in afdp("verify", "receipt.json", "--trust", "trust", color=True).stdout


@pytest.mark.parametrize("tampering", EVERY_TAMPERING, ids=lambda each: each.name)
def test_a_receipt_that_was_changed_is_not_verified_and_exits_1(
    tampering: Tampering, afdp: Afdp, folder: Path, tmp_path: Path
) -> None:
    receipt: dict[str, Any] = json.loads((folder / "receipt.json").read_bytes())
    tampering.change(receipt)
    (tmp_path / "changed.json").write_text(json.dumps(receipt))

    result = afdp("verify", str(tmp_path / "changed.json"), "--trust", "trust")

    assert result.exit_code == 1
    assert f"  ✗ {tampering.check}" in result.stdout
    assert result.stdout.splitlines()[-1] == "NOT VERIFIED"


def test_a_changed_artifact_is_not_verified(afdp: Afdp, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"other weights")

    result = afdp("verify", "receipt.json", "--artifact", str(tmp_path / "model.bin"), "--trust", "trust")

    assert result.exit_code == 1
    assert "✗ artifact     model.bin has changed" in result.stdout


def test_changed_evidence_is_not_verified(afdp: Afdp, folder: Path, tmp_path: Path) -> None:
    same = afdp("verify", "receipt.json", "--evidence", "evidence.json", "--trust", "trust")
    (tmp_path / "other.json").write_text(json.dumps(EVIDENCE))
    other = afdp("verify", "receipt.json", "--evidence", str(tmp_path / "other.json"), "--trust", "trust")

    assert same.exit_code == 0
    assert other.exit_code == 1
    assert "✗ evidence     the evidence that was given is not what was notarised" in other.stdout


def test_the_wrong_key_is_not_verified_and_says_what_to_do(afdp: Afdp) -> None:
    result = afdp("verify", "receipt.json", "--trust", "other-trust")

    assert result.exit_code == 1
    assert "→ get the notary's newest keys with `afdp trust export`" in result.stdout


def test_json_has_the_same_facts(afdp: Afdp) -> None:
    result = afdp("verify", "receipt.json", "--trust", "trust", "--json")

    answer = json.loads(result.stdout)
    assert answer["verified"] is True
    [one] = answer["results"]
    assert one["file"] == "receipt.json"
    assert [check["name"] for check in one["checks"]] == [
        "envelope", "signature", "time", "key", "evidence", "artifact", "approvals", "log", "checkpoint", "witnesses",
        "anchors",
    ]  # fmt: skip
    assert {check["status"] for check in one["checks"]} == {"pass", "absent"}


def test_json_may_be_asked_for_before_the_command(afdp: Afdp) -> None:
    assert json.loads(afdp("--json", "verify", "receipt.json", "--trust", "trust").stdout)["verified"] is True


def test_several_receipts_are_verified_each_under_its_name(afdp: Afdp) -> None:
    result = afdp("verify", "receipt.json", "receipt.json", "--trust", "trust")

    assert result.exit_code == 0
    assert result.stdout.splitlines().count("receipt.json") == 2
    assert result.stdout.splitlines().count("VERIFIED") == 2


def test_a_receipt_can_come_from_standard_input(afdp: Afdp, folder: Path) -> None:
    assert afdp("verify", "-", "--trust", "trust", input=(folder / "receipt.json").read_bytes()).exit_code == 0


def test_one_that_cannot_be_read_exits_2_and_the_others_are_verified_all_the_same(afdp: Afdp) -> None:
    result = afdp("verify", "receipt.json", "bundle.json", "--trust", "trust")

    assert result.exit_code == 2
    assert "VERIFIED" in result.stdout
    assert "bundle.json cannot be read: is a bare Sigstore bundle, not a receipt" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.json"], "missing.json cannot be read: No such file or directory"),
        (["model.bin"], "model.bin cannot be read: not JSON"),
        (["receipt.json", "--artifact", "missing.bin"], "missing.bin: No such file or directory"),
        (["receipt.json", "--evidence", "model.bin"], "model.bin is not an evidence package"),
        (["receipt.json", "--evidence", "receipt.json"], "receipt.json is not an evidence package"),
        (["receipt.json", "--policy", "evidence.json"], "the policy evidence.json cannot be used: actor is unknown"),
    ],
)
def test_what_cannot_be_read_exits_2_and_is_named(arguments: list[str], words: str, afdp: Afdp) -> None:
    result = afdp("verify", *arguments, "--trust", "trust")

    assert result.exit_code == 2
    assert words in result.stderr


def test_without_a_trust_root_it_exits_2_and_names_the_command_that_gets_one(afdp: Afdp) -> None:
    result = afdp("verify", "receipt.json")

    assert result.exit_code == 2
    assert "afdp trust export" in result.stderr


def test_the_trust_root_may_come_from_the_environment_or_the_users_configuration(
    afdp: Afdp, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "afdp").mkdir()
    (tmp_path / "afdp" / "trust").symlink_to(folder / "trust")
    assert afdp("verify", "receipt.json").exit_code == 0

    monkeypatch.setenv("AFDP_TRUST", "other-trust")
    assert afdp("verify", "receipt.json").exit_code == 1


def test_a_trust_root_whose_files_disagree_exits_2(afdp: Afdp, folder: Path, tmp_path: Path) -> None:
    trust = LocalNotary().write_trust(tmp_path / "trust")
    (trust / "log.vkey").write_bytes((folder / "trust" / "log.vkey").read_bytes())

    result = afdp("verify", "receipt.json", "--trust", str(trust))

    assert result.exit_code == 2
    assert "log.vkey does not have the keys that trusted_root.json has" in result.stderr


def test_the_policy_and_the_tenant_are_enforced(afdp: Afdp) -> None:
    assert afdp("verify", "receipt.json", "--trust", "trust", "--policy", "policy.yaml").exit_code == 0
    assert afdp("verify", "receipt.json", "--trust", "trust", "--tenant", "initech").exit_code == 1


def test_words_that_a_stranger_chose_cannot_steer_the_terminal(afdp: Afdp, tmp_path: Path) -> None:
    notary = LocalNotary(tenant="acme\x1b[2Jok")
    (tmp_path / "receipt.json").write_bytes(notary.notarise().to_json())
    notary.write_trust(tmp_path / "trust")

    result = afdp("verify", str(tmp_path / "receipt.json"), "--trust", str(tmp_path / "trust"))

    assert "\x1b" not in result.stdout
    assert "tenant acme\ufffd[2Jok" in result.stdout


def test_a_lone_verification_loads_nothing_that_it_does_not_need(folder: Path) -> None:
    program = (
        "import sys; from afdp.cli.__main__ import cli\n"
        "try: cli(['verify', 'receipt.json', '--trust', 'trust'])\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)

    loaded = set(run.stderr.split())
    assert "cryptography" in loaded
    assert not loaded & {"grpc", "betterproto2", "google", "sigstore", "httpx", "rich", "yaml", "asyncio", "pydantic"}
