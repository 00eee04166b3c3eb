from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.formats.merkle import leaf_hash
from afdp.formats.tlog_proof import TlogProof
from tests.local_notary import LocalNotary

Afdp = Callable[..., Result]


@pytest.fixture(scope="module")
def notary() -> LocalNotary:
    return LocalNotary()


@pytest.fixture
def afdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Afdp:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **settings: CliRunner().invoke(cli, [*arguments], prog_name="afdp", **settings)


def test_a_receipt_becomes_a_tlog_proof_that_holds_by_the_logs_key_alone(
    notary: LocalNotary, afdp: Afdp, tmp_path: Path
) -> None:
    receipt = notary.notarise()
    (tmp_path / "receipt.json").write_bytes(receipt.to_json())

    result = afdp("export", "receipt.json")

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "EXPORTED"
    proof = TlogProof.parse((tmp_path / "receipt.tlog-proof").read_bytes())
    assert proof.extra is not None
    assert leaf_hash(proof.extra).hex() == receipt.rekor_log_id
    checkpoint, _ = proof.verify(bytes.fromhex(receipt.rekor_log_id), notary.log.log.vkey)
    assert checkpoint.origin == notary.log.origin


def test_an_implementation_that_is_not_ours_verifies_what_was_exported_and_refuses_what_was_changed(
    notary: LocalNotary, afdp: Afdp, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "receipt.json").write_bytes(notary.notarise(crowd=400).to_json())
    assert afdp("export", "receipt.json").exit_code == 0
    changed = (tmp_path / "receipt.tlog-proof").read_text().replace("\nindex ", "\nindex 1")
    (tmp_path / "changed.tlog-proof").write_text(changed)

    def theirs(proof: str) -> subprocess.CompletedProcess[str]:
        command = [tool("tlog-proof"), tmp_path / proof, str(notary.log.log.vkey)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert theirs("receipt.tlog-proof").stdout.startswith("verified an entry of ")
    assert "proof verification failed" in theirs("changed.tlog-proof").stderr


def test_the_proof_goes_to_standard_output_and_the_facts_into_json(
    notary: LocalNotary, afdp: Afdp, tmp_path: Path
) -> None:
    receipt = notary.notarise()
    (tmp_path / "receipt.json").write_bytes(receipt.to_json())

    written = afdp("export", "receipt.json", "--format", "tlog-proof", "-o", "-")
    said = json.loads(afdp("export", "receipt.json", "-o", "proof.txt", "--json").stdout)

    assert written.stdout_bytes == (tmp_path / "proof.txt").read_bytes()
    assert said["leaf_hash"] == receipt.rekor_log_id
    assert (said["file"], said["log_index"]) == ("proof.txt", receipt.log_index)


def test_a_receipt_whose_proof_was_changed_is_not_exported(notary: LocalNotary, afdp: Afdp, tmp_path: Path) -> None:
    changed = json.loads(notary.notarise().to_json())
    entry = changed["bundle"]["verificationMaterial"]["tlogEntries"][0]
    entry["logIndex"] = entry["inclusionProof"]["logIndex"] = str(int(entry["logIndex"]) + 1)
    (tmp_path / "receipt.json").write_text(json.dumps(changed))

    result = afdp("export", "receipt.json")

    assert result.exit_code == 1
    assert "the receipt's proof does not hold" in result.stderr
    assert not (tmp_path / "receipt.tlog-proof").exists()


def test_a_receipt_that_is_not_in_a_log_yet_and_what_is_no_receipt_exit_2(
    notary: LocalNotary, afdp: Afdp, tmp_path: Path
) -> None:
    early = json.loads(notary.notarise().to_json())
    early["state"] = "signed"
    early["bundle"]["verificationMaterial"]["tlogEntries"] = []
    (tmp_path / "early.json").write_text(json.dumps(early))
    (tmp_path / "other.json").write_text("{}")

    assert "is signed and not in a log yet" in afdp("export", "early.json").stderr
    assert afdp("export", "early.json").exit_code == 2
    assert afdp("export", "other.json").exit_code == 2
    assert afdp("export", "missing.json").exit_code == 2
