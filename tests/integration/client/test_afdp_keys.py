"""`afdp keys`, against a notary behind its real gateway."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import pty
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.errors import InvalidArgument, NotFound, Unavailable
from afdp.formats.timestamps import format_timestamp
from afdp.messages import notary as pb
from tests.integration.client.conftest import Running, ScriptedNotary
from tests.integration.client.test_client import NOON, key_message

Afdp = Callable[..., Awaitable[Result]]

LATER = NOON + timedelta(days=1)
REVOKED = pb.KeyRevocation(LATER, NOON, "laptop stolen")


@pytest.fixture
def afdp(running: Running, notary: ScriptedNotary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Afdp:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFDP_URL", running.url)

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, [*arguments], prog_name="afdp")

    return run


# --- list -------------------------------------------------------------------------------------------------------------


async def test_every_version_is_listed_with_what_it_is_and_whether_it_signs(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out(
        "ListKeys",
        pb.ListKeysResponse(
            [
                key_message(current=False, valid_until=LATER, revoked=REVOKED),
                key_message(key_id="afdp-notary-key:2"),
                key_message(key_id="acme:1", tenants=["acme", "acme-test"], algorithm="PKIX_ECDSA_P384_SHA_384"),
                key_message(key_id="tsa:1", purpose=pb.KeyPurpose.TIMESTAMP),
                key_message(key_id="log:1", purpose=pb.KeyPurpose.LOG, algorithm="PKIX_ED25519"),
                key_message(key_id="tuf:1", purpose=pb.KeyPurpose.TRUST, algorithm="PKIX_ED25519"),
            ]
        ),
    )

    result = await afdp("keys", "list")

    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:5] == ["afdp-notary-key:1", "evidence", "P-256", "2026-11-24T12:00:00.250Z", "to"]
    assert lines[0][-1] == "revoked"
    assert " ".join(lines[1]).startswith("→ compromised since 2026-11-24T12:00:00.250Z, revoked 2026-11-25")
    assert " ".join(lines[1]).endswith(": laptop stolen")
    assert lines[2][-1] == "signs"
    assert " ".join(lines[3]).endswith("P-384 since 2026-11-24T12:00:00.250Z signs for acme, acme-test")
    assert [line[1] for line in lines[4:]] == ["timestamp", "log", "trust"]


async def test_the_list_as_json_has_every_field(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("ListKeys", pb.ListKeysResponse([key_message(revoked=REVOKED)]))

    [key] = json.loads((await afdp("keys", "list", "--json")).stdout)["keys"]

    assert key["key_id"] == "afdp-notary-key:1"
    assert (key["purpose"], key["current"], key["valid_until"]) == ("evidence", True, None)
    assert key["public_key_pem"].startswith("-----BEGIN PUBLIC KEY-----")
    assert key["revoked"] == {
        "at": "2026-11-25T12:00:00.250Z",
        "compromised_since": "2026-11-24T12:00:00.250Z",
        "reason": "laptop stolen",
    }


async def test_a_key_that_is_revoked_and_still_current_stands_out(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("ListKeys", pb.ListKeysResponse([key_message(revoked=pb.KeyRevocation(LATER, None, "old"))]))

    out = (await afdp("keys", "list")).stdout

    assert "revoked, and not rotated" in out
    assert "retired, revoked 2026-11-25T12:00:00.250Z: old" in out


# --- rotate -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "purpose", "name"),
    [
        ([], pb.KeyPurpose.UNSPECIFIED, ""),
        (["--key", "acme"], pb.KeyPurpose.UNSPECIFIED, "acme"),
        (["--purpose", "timestamp"], pb.KeyPurpose.TIMESTAMP, ""),
        (["--purpose", "trust", "--key", "tuf"], pb.KeyPurpose.TRUST, "tuf"),
    ],
)
async def test_the_key_that_was_asked_for_is_rotated(
    afdp: Afdp, notary: ScriptedNotary, arguments: list[str], purpose: pb.KeyPurpose, name: str
) -> None:
    notary.lay_out("RotateKey", pb.RotateKeyResponse(key_message(key_id="acme:2")))

    result = await afdp("keys", "rotate", *arguments)

    assert result.exit_code == 0
    assert "acme:2" in result.stdout
    assert result.stdout.splitlines()[-1] == "ROTATED"
    assert (notary.requests[0].purpose, notary.requests[0].name) == (purpose, name)


async def test_the_logs_key_is_none_of_the_purposes_that_rotate(afdp: Afdp, notary: ScriptedNotary) -> None:
    result = await afdp("keys", "rotate", "--purpose", "log")

    assert result.exit_code == 2
    assert not notary.requests


async def test_a_rotation_whose_answer_is_lost_says_how_to_find_out(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("RotateKey", Unavailable("the signer is away"))

    result = await afdp("keys", "rotate")

    assert result.exit_code == 3
    assert "afdp keys list" in result.stderr
    assert len(notary.requests) == 1


# --- revoke -----------------------------------------------------------------------------------------------------------


async def test_a_revocation_says_what_is_to_be_done_next(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("RevokeKey", pb.RevokeKeyResponse(key_message(revoked=REVOKED)))

    result = await afdp(
        "keys", "revoke", "afdp-notary-key:1", "--reason", "laptop stolen", "--compromised-since", "2026-11-24"
    )

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "REVOKED"
    request = notary.requests[0]
    assert (request.key_id, request.reason) == ("afdp-notary-key:1", "laptop stolen")
    assert request.compromised_since == datetime(2026, 11, 24, tzinfo=UTC)
    steps = result.stderr
    assert "1. It signs nothing from now on. Make a new version: afdp keys rotate --key afdp-notary-key" in steps
    assert "trust repository" in steps
    assert "afdp keys affected --key afdp-notary-key:1 --since 2026-11-24T12:00:00.250Z" in steps


async def test_a_version_that_does_not_sign_any_more_needs_no_rotation(afdp: Afdp, notary: ScriptedNotary) -> None:
    retired = pb.KeyRevocation(LATER, None, "old")
    notary.lay_out("RevokeKey", pb.RevokeKeyResponse(key_message(current=False, revoked=retired)))

    result = await afdp("keys", "revoke", "afdp-notary-key:1", "--reason", "old")

    assert "rotate" not in result.stderr
    assert notary.requests[0].compromised_since is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a:1"], "--reason"),
        (["--reason", "x"], "KEY_ID"),
        (["a:1", "--reason", "x", "--compromised-since", "yesterday"], "or a date such as 2026-11-24"),
    ],
)
async def test_a_revocation_that_is_not_whole_is_not_sent(
    afdp: Afdp, notary: ScriptedNotary, arguments: list[str], words: str
) -> None:
    result = await afdp("keys", "revoke", *arguments)

    assert result.exit_code == 2
    assert words in result.stderr
    assert not notary.requests


@pytest.mark.parametrize(
    ("error", "code"), [(NotFound("there is no such key version"), 1), (InvalidArgument.field("reason", "must"), 2)]
)
async def test_what_the_notary_refuses_is_said(afdp: Afdp, notary: ScriptedNotary, error: Exception, code: int) -> None:
    notary.lay_out("RevokeKey", error)

    result = await afdp("keys", "revoke", "nobody:1", "--reason", "x")

    assert result.exit_code == code


@pytest.mark.parametrize(("typed", "code", "sent"), [("n\n", 1, 0), ("y\n", 0, 1)])
async def test_on_a_terminal_it_asks_first(
    running: Running, notary: ScriptedNotary, typed: str, code: int, sent: int
) -> None:
    notary.lay_out("ListKeys", pb.ListKeysResponse([key_message()]))
    notary.lay_out("RevokeKey", pb.RevokeKeyResponse(key_message(revoked=REVOKED)))
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "--url", running.url),
        *("keys", "revoke", "afdp-notary-key:1", "--reason", "laptop stolen"),
        stdin=end,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(end)
    os.write(terminal, typed.encode())
    out, errors = await process.communicate()
    os.close(terminal)

    assert process.returncode == code, errors
    assert b"It is the version that signs now" in out
    assert b"It cannot be undone" in errors
    assert sum(isinstance(each, pb.RevokeKeyRequest) for each in notary.requests) == sent


# --- affected ---------------------------------------------------------------------------------------------------------


def line(at: int) -> bytes:
    time = format_timestamp(NOON - timedelta(minutes=at))
    return f"receipt-{at},{time},{at or ''},{at:064x}\r\n".encode()


def page(*numbers: int) -> pb.ExportAffectedReceiptsResponse:
    return pb.ExportAffectedReceiptsResponse(b"".join(map(line, numbers)))


@pytest.fixture
def three_pages(notary: ScriptedNotary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afdp.cli.affected._PAGE", 2)
    notary.lay_out("ExportAffectedReceipts", page(0, 1), page(2, 3), page(4))


@pytest.mark.usefixtures("three_pages")
async def test_every_page_is_listed_in_order_and_counted(afdp: Afdp, notary: ScriptedNotary) -> None:
    result = await afdp("keys", "affected", "--key", "k:1", "--since", "2026-11-20T10:00:00+01:00")

    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [f"receipt-{at}" for at in range(5)]
    assert "5 receipts signed with k:1 since 2026-11-20T09:00:00Z" in result.stderr
    assert [request.after for request in notary.requests] == ["", "receipt-1", "receipt-3"]
    assert {request.page_size for request in notary.requests} == {2}
    assert "not logged yet" in result.stdout.splitlines()[0]
    assert notary.requests[2].since == datetime(2026, 11, 20, 9, tzinfo=UTC)


@pytest.mark.usefixtures("three_pages")
async def test_a_csv_file_has_a_head_and_a_row_for_each(afdp: Afdp, tmp_path: Path) -> None:
    result = await afdp("keys", "affected", "--key", "k:1", "--csv", "affected.csv")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "5 receipts signed with k:1, written to affected.csv" in result.stderr
    with (tmp_path / "affected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["receipt_id"] for row in rows] == [f"receipt-{at}" for at in range(5)]
    assert rows[1] == {
        "receipt_id": "receipt-1",
        "notarized_at": "2026-11-24T11:59:00.250Z",
        "log_index": "1",
        "evidence_package_hash": f"{1:064x}",
    }


@pytest.mark.usefixtures("three_pages")
async def test_ndjson_goes_to_standard_output_one_receipt_a_line(afdp: Afdp) -> None:
    result = await afdp("keys", "affected", "--key", "k:1", "--ndjson", "-")

    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["log_index"] for each in found] == [None, 1, 2, 3, 4]
    assert found[0]["notarized_at"] == "2026-11-24T12:00:00.250Z"


@pytest.mark.usefixtures("three_pages")
async def test_json_is_one_document_with_the_count(afdp: Afdp) -> None:
    found = json.loads((await afdp("keys", "affected", "--key", "k:1", "--json")).stdout)

    assert (found["key_id"], found["since"], found["count"]) == ("k:1", None, 5)
    assert [each["receipt_id"] for each in found["receipts"]] == [f"receipt-{at}" for at in range(5)]


async def test_a_version_that_signed_nothing_gives_an_empty_list(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("ExportAffectedReceipts", page())

    assert json.loads((await afdp("keys", "affected", "--key", "k:1", "--json")).stdout)["receipts"] == []
    assert "0 receipts signed with k:1" in (await afdp("keys", "affected", "--key", "k:1")).stderr


async def test_a_last_page_that_is_full_is_followed_by_an_empty_one(
    afdp: Afdp, notary: ScriptedNotary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.cli.affected._PAGE", 2)
    notary.lay_out("ExportAffectedReceipts", page(0, 1), page())

    found = json.loads((await afdp("keys", "affected", "--key", "k:1", "--json")).stdout)

    assert [each["receipt_id"] for each in found["receipts"]] == ["receipt-0", "receipt-1"]
    assert found["count"] == 2


async def test_an_answer_that_is_no_export_is_refused(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("ExportAffectedReceipts", pb.ExportAffectedReceiptsResponse(b"<html>\r\n"))

    assert (await afdp("keys", "affected", "--key", "k:1")).exit_code == 1


async def test_an_export_that_breaks_off_leaves_the_file_as_it_was(
    afdp: Afdp, notary: ScriptedNotary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.cli.affected._PAGE", 2)
    (tmp_path / "affected.csv").write_text("of last week")
    notary.lay_out("ExportAffectedReceipts", page(0, 1), Unavailable("metadata is away", retry_after=60))

    result = await afdp("keys", "affected", "--key", "k:1", "--csv", "affected.csv")

    assert result.exit_code == 3
    assert (tmp_path / "affected.csv").read_text() == "of last week"
    assert os.listdir(tmp_path) == ["affected.csv"]


async def test_a_version_that_there_is_not_is_no_empty_list(afdp: Afdp, notary: ScriptedNotary, tmp_path: Path) -> None:
    notary.lay_out("ExportAffectedReceipts", NotFound("there is no such key version"))

    result = await afdp("keys", "affected", "--key", "k:11", "--csv", "affected.csv")

    assert result.exit_code == 1
    assert "there is no such key version" in result.stderr
    assert not os.listdir(tmp_path)


async def test_one_form_at_a_time(afdp: Afdp, notary: ScriptedNotary) -> None:
    result = await afdp("keys", "affected", "--key", "k:1", "--json", "--csv", "-")

    assert result.exit_code == 2
    assert not notary.requests
