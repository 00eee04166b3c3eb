"""`afdp sign` and `afdp trust export`, against a notary behind its real gateway."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.errors import AlreadyExists, FieldViolation, InvalidArgument, Unavailable
from afdp.formats.receipt import Receipt
from afdp.formats.trust import Revocation, TrustRoot, trust_files
from afdp.messages import notary as pb
from tests.integration.client.conftest import Running, ScriptedNotary
from tests.integration.client.test_client import RECEIPT, receipt_message
from tests.local_log import FOUNDED
from tests.local_notary import LocalNotary

Afdp = Callable[..., Awaitable[Result]]


@pytest.fixture
def afdp(running: Running, notary: ScriptedNotary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Afdp:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFDP_URL", running.url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    notary.lay_out(
        "SignEvidence",
        pb.SignEvidenceResponse("simple-signing-1", receipt_message(), pb.WorkflowStatus.COMPLETED),
    )
    (tmp_path / "model.bin").write_bytes(b"weights")

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, [*arguments], prog_name="afdp")

    return run


# --- sign -------------------------------------------------------------------------------------------------------------


async def test_a_file_is_named_hashed_and_notarised(afdp: Afdp, notary: ScriptedNotary, tmp_path: Path) -> None:
    result = await afdp("sign", "model.bin", "--metadata", "build=7", "--metadata", "note=a=b", "-o", "receipt.json")

    assert result.exit_code == 0, result.output
    package = notary.requests[0].evidence_package
    assert package.spec_version == "1.0.0"
    assert package.event_type == "ai.artifact.notarized"
    assert (package.actor.actor_type, package.actor.id) == ("human", getpass.getuser())
    assert [(each.name, each.hash_sha256) for each in package.artifacts] == [
        ("model.bin", sha256(b"weights").hexdigest())
    ]
    assert package.metadata.plain == {"build": "7", "note": "a=b"}
    assert Receipt.from_json((tmp_path / "receipt.json").read_bytes()) == RECEIPT
    assert result.stdout.splitlines()[-1] == "LOGGED"


async def test_what_was_asked_for_is_what_is_sent(afdp: Afdp, notary: ScriptedNotary) -> None:
    result = await afdp(
        "sign", "model.bin", "--event-type", "ai.model.released", "--actor", "workload:ci:7",
        "--wait-for", "signed", "--idempotency-key", "release-7", "--json",
    )  # fmt: skip

    [request] = notary.requests
    assert request.evidence_package.event_type == "ai.model.released"
    assert (request.evidence_package.actor.actor_type, request.evidence_package.actor.id) == ("workload", "ci:7")
    assert request.wait_for == pb.ReceiptState.SIGNED
    assert request.idempotency_key == "release-7"
    answer = json.loads(result.stdout)
    assert answer["workflow_id"] == "simple-signing-1"
    assert Receipt.from_object(answer["receipt"]) == RECEIPT


async def test_files_are_added_to_the_evidence_that_is_given(
    afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    evidence = {
        "spec_version": "1.0.0",
        "timestamp_utc": "2026-11-24T04:09:28Z",
        "event_type": "ai.model.released",
        "actor": {"type": "human", "id": "alice"},
        "artifacts": [{"name": "card.md", "hash_sha256": "ab" * 32}],
    }
    (tmp_path / "evidence.json").write_text(json.dumps(evidence))

    assert (await afdp("sign", "model.bin", "--evidence", "evidence.json")).exit_code == 0
    assert [each.name for each in notary.requests[0].evidence_package.artifacts] == ["card.md", "model.bin"]

    evidence["artifacts"] = [{"name": "model.bin", "hash_sha256": "ab" * 32}]
    (tmp_path / "evidence.json").write_text(json.dumps(evidence))
    refused = await afdp("sign", "model.bin", "--evidence", "evidence.json")
    assert refused.exit_code == 2
    assert f"model.bin has SHA-256 {sha256(b'weights').hexdigest()}; the evidence says {'ab' * 32}" in refused.stderr


async def test_files_of_one_name_keep_their_paths(afdp: Afdp, notary: ScriptedNotary, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.bin").write_bytes(b"older weights")

    await afdp("sign", "model.bin", "old/model.bin")

    assert [each.name for each in notary.requests[0].evidence_package.artifacts] == ["model.bin", "old/model.bin"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one FILE"),
        (["missing.bin"], "missing.bin: No such file or directory"),
        (["model.bin", "--actor", "alice"], "must be TYPE:ID"),
        (["model.bin", "--metadata", "build"], "must be K=V"),
        (["model.bin", "--metadata", "a=1", "--metadata", "a=2"], "'a' stands twice"),
        (["--evidence", "model.bin"], "model.bin is not an evidence package"),
        (["--evidence", "model.bin", "--event-type", "a.b"], "stand in the evidence package"),
        (["model.bin", "--wait-for", "later"], "--wait-for"),
        (["model.bin", "--url", "ftp://x"], "must start with http"),
    ],
)
async def test_input_that_is_not_right_exits_2_and_sends_nothing(
    arguments: list[str], words: str, afdp: Afdp, notary: ScriptedNotary
) -> None:
    result = await afdp("sign", *arguments)

    assert result.exit_code == 2
    assert words in result.stderr
    assert not notary.requests


async def test_a_field_that_the_notary_refuses_is_named_and_exits_2(afdp: Afdp, notary: ScriptedNotary) -> None:
    fault = FieldViolation("evidence_package.event_type", "must be dotted")
    notary.lay_out("SignEvidence", InvalidArgument("the request is not valid", fields=[fault]))

    result = await afdp("sign", "model.bin", "--event-type", "released")

    assert result.exit_code == 2
    assert "evidence_package.event_type must be dotted (request " in result.stderr


async def test_a_refusal_of_the_notary_exits_1(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", AlreadyExists("the key was used with other evidence"))

    result = await afdp("sign", "model.bin", "--idempotency-key", "used")

    assert result.exit_code == 1
    assert "the key was used with other evidence" in result.stderr


async def test_a_notary_that_nobody_listens_for_exits_3(afdp: Afdp, unused_port: int) -> None:
    result = await afdp("--url", f"http://127.0.0.1:{unused_port}", "sign", "model.bin")

    assert result.exit_code == 3
    assert f"http://127.0.0.1:{unused_port}" in result.stderr


async def test_a_notary_that_cannot_answer_now_exits_3_and_says_how_to_go_on(
    afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    notary.lay_out("SignEvidence", Unavailable("the signer is away", retry_after=60))
    (tmp_path / "evidence.json").write_text("{}")

    result = await afdp("sign", "--evidence", "evidence.json", "--idempotency-key", "again")
    assert result.exit_code == 2  # not even sent: what has no time and no actor is no evidence package

    evidence = {"timestamp_utc": "2026-11-24T04:09:28Z", "actor": {"type": "human", "id": "alice"}}
    (tmp_path / "evidence.json").write_text(json.dumps(evidence))
    result = await afdp("sign", "--evidence", "evidence.json", "--idempotency-key", "again")
    assert result.exit_code == 3
    assert "the signer is away" in result.stderr
    assert "--idempotency-key again" in result.stderr


async def test_a_receipt_that_cannot_be_written_is_an_error_of_its_own(afdp: Afdp, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")

    result = await afdp("sign", "model.bin", "-o", "taken/receipt.json")

    assert result.exit_code == 2
    assert "taken" in result.stderr


# --- trust export -----------------------------------------------------------------------------------------------------


def lay_out_trust(notary: ScriptedNotary, root: TrustRoot) -> dict[str, str]:
    files = trust_files(root)
    notary.lay_out("GetTrustRoot", pb.GetTrustRootResponse([pb.TrustFile(*each) for each in files.items()]))
    return files


LOCAL = LocalNotary()


async def test_the_trust_root_is_written_and_verify_finds_it(
    afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    lay_out_trust(notary, LOCAL.trust)
    (tmp_path / "receipt.json").write_bytes(LOCAL.notarise().to_json())

    exported = await afdp("trust", "export")

    assert exported.exit_code == 0
    assert LOCAL.evidence_key.hint in exported.stdout
    assert str(LOCAL.log.log.vkey) in exported.stdout
    assert (await afdp("verify", "receipt.json")).exit_code == 0


async def test_the_trust_root_is_written_where_asked_file_by_file(
    afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    files = lay_out_trust(notary, LOCAL.trust)

    result = await afdp("trust", "export", "-o", "here", "--json")

    assert json.loads(result.stdout)["keys"] == [{"key_id": "afdp-notary-key:3", "hint": LOCAL.evidence_key.hint}]
    assert {
        path.relative_to(tmp_path / "here").as_posix(): path.read_text() for path in (tmp_path / "here").rglob("*.*")
    } == files


REVOKED = replace(LOCAL.evidence_key, revoked=Revocation(FOUNDED + timedelta(days=9), None, "retired"))


async def test_a_newer_trust_root_with_more_keys_and_revocations_takes_the_old_ones_place(
    afdp: Afdp, notary: ScriptedNotary
) -> None:
    lay_out_trust(notary, LOCAL.trust)
    await afdp("trust", "export")
    more = LocalNotary(key_id="afdp-notary-key:4").evidence_key
    lay_out_trust(notary, replace(LOCAL.trust, keys=(REVOKED, more)))

    result = await afdp("trust", "export")

    assert result.exit_code == 0
    assert "afdp-notary-key:4" in result.stdout
    assert "revoked" in result.stdout


@pytest.mark.parametrize(
    ("newer", "words"),
    [
        (LOCAL.trust, "the revocation of afdp-notary-key:3"),
        (TrustRoot((LocalNotary().evidence_key,), (LOCAL.log.log,)), "the key afdp-notary-key:3"),
        (TrustRoot((REVOKED,), (LocalNotary().log.log,)), f"the log {LOCAL.log.log.vkey}"),
    ],
    ids=["a revocation", "a key", "a log"],
)
async def test_a_trust_root_that_takes_something_back_is_taken_only_on_request(
    newer: TrustRoot, words: str, afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    old = lay_out_trust(notary, TrustRoot((REVOKED,), (LOCAL.log.log,)))
    await afdp("trust", "export", "-o", "trust")
    lay_out_trust(notary, newer)

    refused = await afdp("trust", "export", "-o", "trust")
    assert refused.exit_code == 1
    assert words in refused.stderr
    assert (tmp_path / "trust/keys.json").read_text() == old["keys.json"]

    assert (await afdp("trust", "export", "-o", "trust", "--replace")).exit_code == 0
    assert (tmp_path / "trust/keys.json").read_text() == trust_files(newer)["keys.json"]


async def test_a_trust_root_whose_files_disagree_is_not_written(
    afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    files = trust_files(LOCAL.trust) | {"log.vkey": f"{LocalNotary().log.log.vkey}\n"}
    notary.lay_out("GetTrustRoot", pb.GetTrustRootResponse([pb.TrustFile(*each) for each in files.items()]))

    result = await afdp("trust", "export", "-o", "trust")

    assert result.exit_code == 2
    assert "log.vkey does not have the keys" in result.stderr
    assert not (tmp_path / "trust").exists()


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "keys/../../escape", "a/b/c", ".hidden"])
async def test_a_file_that_would_leave_the_folder_is_not_written(
    name: str, afdp: Afdp, notary: ScriptedNotary, tmp_path: Path
) -> None:
    files = trust_files(LOCAL.trust) | {name: "x"}
    notary.lay_out("GetTrustRoot", pb.GetTrustRootResponse([pb.TrustFile(*each) for each in files.items()]))

    result = await afdp("trust", "export", "-o", "trust")

    assert result.exit_code == 2
    assert not (tmp_path / "trust").exists()
