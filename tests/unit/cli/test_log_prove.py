from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.formats.merkle import leaf_hash
from afdp.formats.tlog_proof import TlogProof
from tests.local_log import LocalLog
from tests.local_notary import LocalNotary


@pytest.fixture
def afdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli, ["log", *arguments], prog_name="afdp")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalLog, Path]:
    folder, log = tmp_path_factory.mktemp("written"), LocalLog()
    for size in (300, 69_000, 70_000):
        log.append(b"entry %d" % number for number in range(len(log.entries), size))
        (folder / f"{size}.checkpoint").write_bytes(log.checkpoint().to_bytes())
    log.write(folder / "log")
    (folder / "vkey").write_text(str(log.log.vkey))
    return log, folder


@pytest.fixture
def log(written: tuple[LocalLog, Path], tmp_path: Path) -> LocalLog:
    """A log of 70,000 entries in the folder `log`, its key in `vkey`, its checkpoints at 300 and 69,000 in files."""
    log, folder = written
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return log


def holds(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["holds"]
    return answer


def refusal(result: Result) -> str:
    assert result.exit_code == 1, result.output
    return result.stderr


# --- inclusion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 299, 65_536, 69_999])
def test_an_entry_is_proven_and_the_proof_holds_without_the_log(afdp, log: LocalLog, tmp_path, index: int) -> None:
    made = afdp("prove", "inclusion", "log", "--index", str(index), "-o", "proof", "--vkey", "vkey", "--json")
    (tmp_path / "log").rename(tmp_path / "gone")

    assert made.exit_code == 0
    said = holds(afdp("verify-proof", "proof", "--vkey", "vkey", "--json"))
    assert (said["proof"], said["index"], said["size"]) == ("inclusion", index, 70_000)
    assert said["leaf_hash"] == leaf_hash(log.entries[index]).hex()
    assert TlogProof.parse((tmp_path / "proof").read_bytes()).extra == log.entries[index]


def test_an_entry_is_found_by_its_leaf_hash_and_by_itself(afdp, log: LocalLog, tmp_path) -> None:
    (tmp_path / "entry").write_bytes(log.entries[66_000])
    for option in (("--leaf-hash", leaf_hash(log.entries[66_000]).hex()), ("--entry", "entry")):
        assert afdp("prove", "inclusion", "log", *option, "-o", "proof").exit_code == 0
        assert holds(afdp("verify-proof", "proof", "--vkey", "vkey", *option, "--json"))["index"] == 66_000

    missing = afdp("prove", "inclusion", "log", "--leaf-hash", "ab" * 32)

    assert "no entry of 70000 has the leaf hash" in refusal(missing)


def test_an_entry_is_proven_in_the_tree_of_an_older_checkpoint(afdp, log: LocalLog) -> None:
    made = afdp("prove", "inclusion", "log", "--index", "200", "--checkpoint", "300.checkpoint", "-o", "proof")

    assert made.exit_code == 0, made.output
    assert holds(afdp("verify-proof", "proof", "--vkey", "vkey", "--json"))["size"] == 300
    later = afdp("prove", "inclusion", "log", "--index", "300", "--checkpoint", "300.checkpoint")
    assert "there is no entry 300 in a tree of 300" in refusal(later)


def test_a_receipts_entry_is_proven_and_no_other_is_taken_for_it(afdp, tmp_path) -> None:
    notary = LocalNotary()
    receipts = [notary.notarise(crowd=3), notary.notarise(crowd=0)]
    for number, receipt in enumerate(receipts):
        (tmp_path / f"receipt-{number}.json").write_text(json.dumps(receipt.to_object()))
    log = notary.log
    log.write(tmp_path / "log")
    (tmp_path / "vkey").write_text(str(log.log.vkey))

    made = afdp("prove", "inclusion", "log", "--receipt", "receipt-0.json", "-o", "proof")
    right = afdp("verify-proof", "proof", "--vkey", "vkey", "--receipt", "receipt-0.json", "--json")
    wrong = afdp("verify-proof", "proof", "--vkey", "vkey", "--receipt", "receipt-1.json")

    assert made.exit_code == 0, made.output
    assert holds(right)["index"] == receipts[0].bundle.entry.log_index
    assert "another root hash" in refusal(wrong)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/000", "tile/1/001.p/17", "tile/entries/000"])
def test_a_log_that_lies_proves_nothing(afdp, log: LocalLog, tmp_path, path: str) -> None:
    data = bytearray((tmp_path / "log" / path).read_bytes())
    data[40] ^= 1
    (tmp_path / "log" / path).write_bytes(data)

    result = afdp("prove", "inclusion", "log", "--index", "3", "-o", "proof", "--vkey", "vkey")

    assert path in refusal(result)
    assert not (tmp_path / "proof").exists()


# --- consistency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(300, 69_000), (300, 70_000), (69_000, 70_000), (300, 300)])
def test_two_checkpoints_are_proven_to_be_of_one_log(afdp, log: LocalLog, old: int, new: int) -> None:
    made = afdp(
        "prove", "consistency", "log", "--from", f"{old}.checkpoint", "--to", f"{new}.checkpoint", "-o", "proof"
    )

    assert made.exit_code == 0, made.output
    said = holds(afdp("verify-proof", "proof", "--vkey", "vkey", "--json"))
    assert (said["old_size"], said["new_size"]) == (old, new)


def test_a_checkpoint_of_another_history_is_not_proven(afdp, log: LocalLog, tmp_path) -> None:
    fork = LocalLog(key=log.key)
    fork.append([b"other", *log.entries[1:300]])
    (tmp_path / "fork").write_bytes(fork.checkpoint().to_bytes())
    afdp("prove", "consistency", "log", "--from", "300.checkpoint", "-o", "proof")
    content = json.loads((tmp_path / "proof").read_text())
    (tmp_path / "forged").write_text(json.dumps({**content, "old": str(fork.checkpoint())}))

    assert "forked" in refusal(afdp("prove", "consistency", "log", "--from", "fork"))
    assert "old root hash" in refusal(afdp("verify-proof", "forged", "--vkey", "vkey"))


# --- completeness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bodies", [True, False])
@pytest.mark.parametrize("old", [None, 300, 69_000])
def test_all_entries_between_two_checkpoints_are_proven_to_be_all(
    afdp, log: LocalLog, bodies: bool, old: int | None
) -> None:
    options = [*(("--from", f"{old}.checkpoint") if old else ()), *(("--bodies",) if bodies else ())]
    made = afdp("prove", "completeness", "log", *options, "-o", "proof")

    assert made.exit_code == 0, made.output
    leaf = ("--leaf-hash", leaf_hash(log.entries[69_500]).hex())
    said = holds(afdp("verify-proof", "proof", "--vkey", "vkey", *leaf, "--json"))
    assert (said["old_size"], said["entries"]) == (old or 0, 70_000 - (old or 0))
    assert "no entry in it is that of" in refusal(
        afdp("verify-proof", "proof", "--vkey", "vkey", "--leaf-hash", "ab" * 32)
    )


def left_out(lines: list[bytes]) -> list[bytes]:
    return [*lines[:5], *lines[6:]]


def added(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:5], lines[6], lines[5], *lines[7:]]


def cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][:-4]]


def of_another_edge(lines: list[bytes]) -> list[bytes]:
    return [re.sub(rb'"edge":\["....', b'"edge":["AAAA', lines[0]), *lines[1:]]


@pytest.mark.parametrize("change", [left_out, added, swapped, cut, of_another_edge], ids=lambda each: each.__name__)
def test_a_list_of_entries_that_was_changed_proves_nothing(
    afdp, log: LocalLog, tmp_path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    afdp("prove", "completeness", "log", "--from", "69000.checkpoint", "-o", "proof")
    lines = (tmp_path / "proof").read_bytes().splitlines(keepends=True)
    (tmp_path / "proof").write_bytes(b"".join(change(lines)))

    refusal(afdp("verify-proof", "proof", "--vkey", "vkey"))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]\n", b'{"format": "https://afdp.dev/log-completeness/v1"}\n', b"\xff"]
)
def test_what_is_no_proof_cannot_be_read(afdp, log: LocalLog, tmp_path, data: bytes) -> None:
    (tmp_path / "proof").write_bytes(data)

    result = afdp("verify-proof", "proof", "--vkey", "vkey")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: proof: ")


def test_of_several_trusted_keys_the_one_of_the_proofs_log_is_taken(afdp, log: LocalLog, tmp_path) -> None:
    (tmp_path / "vkey").write_text(f"{LocalLog(origin='other.localhost').log.vkey}\n{log.log.vkey}\n")
    for made in (("inclusion", "--index", "1"), ("consistency", "--from", "300.checkpoint"), ("completeness",)):
        proof = afdp("prove", made[0], "log", *made[1:], "-o", "proof", "--vkey", "vkey")

        assert proof.exit_code == 0, proof.output
        assert holds(afdp("verify-proof", "proof", "--vkey", "vkey", "--json"))["log"] == "notary.localhost"


def test_a_proof_of_another_log_is_refused(afdp, log: LocalLog, tmp_path) -> None:
    afdp("prove", "consistency", "log", "--from", "300.checkpoint", "-o", "proof")
    (tmp_path / "vkey").write_text(str(LocalLog().log.vkey))

    assert "not signed by a known key" in refusal(afdp("verify-proof", "proof", "--vkey", "vkey"))
