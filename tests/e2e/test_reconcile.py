"""Records and logs held against each other: what crashes leave is closed, what a superuser does is named."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest_asyncio

from afdp.embedded.process import free_port
from afdp.embedded.stack import Stack, StackOptions, running_stack
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.e2e.test_logs import FIRST, FREEZE, OPEN, operate
from tests.local_entries import ENTRIES, fresh_request

SECOND = f"second.{FIRST}"
IN_FIRST, IN_SECOND, STRANGERS = 22, 4, 3

SETTINGS = {
    "signer": {"AFDP_LOG_ORIGINS": f"{FIRST},*.{FIRST}"},
    # What is left is left until the reconciler comes.
    "notary": {**NO_KEY_RECORDS, "AFDP_RECOVERY_INTERVAL_SECONDS": "3000"},
    "metadata": {"AFDP_ENCRYPTION": "off"},  # evidence is rewritten here; of sealed records: test_superuser.py
}


@dataclass
class Kept:
    """A stack with two logs, one after the other, and the receipts in them, oldest first."""

    stack: Stack
    receipts: list[dict[str, Any]]
    database: asyncpg.Connection

    async def reconcile(self, *arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
        """What `afdp reconcile --json` finds."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "afdp.cli", "reconcile", "--json", *arguments),
            env={**os.environ, **self.stack.settings("notary"), **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, error = await process.communicate()
        assert process.returncode == code, (out + error).decode()
        found: dict[str, Any] = json.loads(out) if out else {"said": error.decode()}
        return found

    async def tamper(self, statement: str, receipt: dict[str, Any], *more: object) -> None:
        """As a superuser, whom no trigger, grant or policy holds; the receipt's ID is $1."""
        await self.database.execute("SET session_replication_role = replica; SET search_path = afdp_metadata")
        done = await self.database.execute(statement, receipt["receipt_id"], *more)
        assert int(done.split()[-1]) >= 1, statement


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kept() -> AsyncIterator[Kept]:
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), settings=SETTINGS)
        async with (
            running_stack(options) as stack,
            httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest,
        ):
            receipts = [await notarised(rest) for _ in range(IN_FIRST)]
            for _ in range(STRANGERS):
                (await rest.post(ENTRIES, json=fresh_request())).raise_for_status()
            await operate(stack, *OPEN, SECOND, "--successor-of", FIRST)
            await operate(stack, *FREEZE, FIRST)
            receipts += [await notarised(rest) for _ in range(IN_SECOND)]
            database = await asyncpg.connect(stack.database_url)
            try:
                yield Kept(stack, receipts, database)
            finally:
                await database.close()


async def notarised(rest: httpx.AsyncClient) -> dict[str, Any]:
    answer = await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()})
    receipt: dict[str, Any] = answer.raise_for_status().json()["receipt"]
    assert receipt["state"] == "logged"
    return receipt


async def test_whole_records_and_logs_have_no_gap_and_entries_of_strangers_are_told_apart(kept: Kept) -> None:
    found = await kept.reconcile("--check")
    assert found["clean"]
    assert found["gaps"] == []
    assert (found["records"], found["entries_of_strangers"]) == (IN_FIRST + IN_SECOND, STRANGERS)
    assert found["entries"] == IN_FIRST + IN_SECOND + STRANGERS


async def test_what_a_crash_leaves_is_named_by_a_check_and_closed_without_it(kept: Kept) -> None:
    """As after a kill between append and complete, and as after one between prepare and append of another notary."""
    for receipt in (kept.receipts[0], kept.receipts[-1]):
        await kept.tamper("DELETE FROM log_entry WHERE receipt_id = $1", receipt)
        await kept.tamper(
            "INSERT INTO pending (receipt_id, tenant, notarized_at)"
            " SELECT receipt_id, tenant, notarized_at - interval '1 hour' FROM record WHERE receipt_id = $1",
            receipt,
        )
    await kept.tamper("UPDATE pending SET log_origin = $2 WHERE receipt_id = $1", kept.receipts[-1], SECOND)

    on_the_way = await kept.reconcile("--check", "--grace", "3600")
    named = await kept.reconcile("--check", "--grace", "0", code=1)
    closed = await kept.reconcile("--grace", "0")

    assert (on_the_way["clean"], on_the_way["on_the_way"]) == (True, 2)
    assert kinds(named) == {each["receipt_id"]: "unlogged" for each in (kept.receipts[0], kept.receipts[-1])}
    assert closed["closed"] == {"unlogged": 2}
    assert (await kept.reconcile("--check"))["clean"]
    await as_it_was(kept, kept.receipts[0], kept.receipts[-1])


async def test_a_record_that_lost_its_place_gets_it_back(kept: Kept) -> None:
    """In either log; nothing is appended, for the entry is there."""
    lost = [kept.receipts[1], kept.receipts[-2]]
    for receipt in lost:
        await kept.tamper("DELETE FROM log_entry WHERE receipt_id = $1", receipt)
    entries = (await kept.reconcile("--check", code=1))["entries"]
    named = await kept.reconcile("--check", code=1)
    closed = await kept.reconcile()
    after = await kept.reconcile("--check")
    assert kinds(named) == {receipt["receipt_id"]: "unplaced" for receipt in lost}
    assert closed["closed"] == {"unplaced": 2}
    assert (after["clean"], after["entries"]) == (True, entries)
    await as_it_was(kept, *lost)


async def test_a_run_that_was_interrupted_goes_on_where_it_was(kept: Kept, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    away = f"127.0.0.1:{free_port()}"
    said = await kept.reconcile("--check", "--state", str(state), code=3, AFDP_METADATA_ADDRESS=away)
    assert said["said"]
    begun = json.loads(state.read_text())
    assert begun["format"] == "afdp-reconcile/1"
    assert (await kept.reconcile("--check", "--state", str(state)))["clean"]
    assert not state.exists()
    state.write_text(json.dumps({**begun, "records": 7}))
    assert "is damaged" in (await kept.reconcile("--check", "--state", str(state), code=2))["said"]


TAMPERING = {
    "a record that is gone": ("DELETE FROM record WHERE receipt_id = $1", "incomplete"),
    "content that is gone": ("DELETE FROM record_content WHERE receipt_id = $1", "incomplete"),
    "another index": (
        "UPDATE log_entry SET log_index = 1000000, tree_size = 1000001 WHERE receipt_id = $1",
        "misplaced",
    ),
    "another size": ("UPDATE log_entry SET tree_size = tree_size + 1 WHERE receipt_id = $1", "misplaced"),
    "another proof": ("UPDATE log_entry SET proof = proof || sha256('') WHERE receipt_id = $1", "misplaced"),
    "another log": ("UPDATE log_entry SET origin = 'other.example' WHERE receipt_id = $1", "misplaced"),
    "another statement": (
        "UPDATE record_content SET statement ="
        " convert_to(replace(convert_from(statement, 'UTF8'), 'anonymous', 'mallory'), 'UTF8') WHERE receipt_id = $1",
        "altered",
    ),
    "another signature": (
        "UPDATE record_content SET signature = set_byte(signature, 20, get_byte(signature, 20) # 1)"
        " WHERE receipt_id = $1",
        "altered",
    ),
    "another leaf hash": ("UPDATE record_content SET leaf_hash = sha256(leaf_hash) WHERE receipt_id = $1", "altered"),
    "other evidence": ("UPDATE record_content SET evidence = evidence || ' ' WHERE receipt_id = $1", "altered"),
    "another tenant": ("UPDATE record SET tenant = 'other' WHERE receipt_id = $1", "altered"),
    "another event": ("UPDATE record SET event_type = 'ai.model.retired' WHERE receipt_id = $1", "altered"),
    "another timestamp": (
        "UPDATE record_content SET timestamp = set_byte(timestamp, octet_length(timestamp) - 1,"
        " get_byte(timestamp, octet_length(timestamp) - 1) # 1) WHERE receipt_id = $1",
        "altered",
    ),
    "another way to its evidence": (
        "UPDATE record SET evidence_key = evidence_key # 1 WHERE receipt_id = $1",
        "stray",
    ),
    "an artifact that does not lead to it": (
        "UPDATE record_artifact SET artifact_key = artifact_key # 1 WHERE receipt_id = $1",
        "stray",
    ),
    "a submitter that does not lead to it": (
        "UPDATE record_term SET term = decode(md5('mallory'), 'hex') WHERE receipt_id = $1",
        "stray",
    ),
    "no place held": ("DELETE FROM log_place WHERE receipt_id = $1", "stray"),
    "a batch that is not there": (
        "UPDATE record SET batch_id = gen_random_uuid() WHERE receipt_id = $1",
        "stray",
    ),
    "a part of another tenant": ("UPDATE record_content SET tenant = 'other' WHERE receipt_id = $1", "stray"),
    "a place, and waiting for one": (
        "INSERT INTO pending (receipt_id, tenant, notarized_at, log_origin)"
        " SELECT receipt_id, tenant, notarized_at, '' FROM record WHERE receipt_id = $1",
        "stray",
    ),
}


async def test_whatever_a_superuser_changes_in_one_row_is_named_and_never_written_over(kept: Kept) -> None:
    """One change to each of as many records; and one record that is gone from every table, and one entry replaced."""
    changed = dict(zip(TAMPERING, kept.receipts, strict=False))
    gone, replaced = kept.receipts[len(TAMPERING)], kept.receipts[-1]
    for name, (statement, _) in TAMPERING.items():
        await kept.tamper(statement, changed[name])
    for table in ("record", "record_content", "record_artifact", "record_term", "log_entry"):
        await kept.tamper(f"DELETE FROM {table} WHERE receipt_id = $1", gone)
    body = "(SELECT body FROM afdp_log.entry WHERE log_id = 2 AND leaf_index = 0)"
    await kept.tamper(
        f"UPDATE afdp_log.entry SET body = {body} WHERE log_id = 2 AND leaf_index ="
        " (SELECT log_index FROM log_entry WHERE receipt_id = $1)",
        replaced,
    )

    found = await kept.reconcile(code=1)

    expected = {changed[name]["receipt_id"]: kind for name, (_, kind) in TAMPERING.items()}
    expected[f"{FIRST} entry {gone['log_index']}"] = "unrecorded"
    expected[replaced["receipt_id"]] = "misplaced"
    expected[kept.receipts[IN_FIRST]["receipt_id"]] = "doubled"  # whose entry stands in the other's place, too
    beside = {"log_place": ("a record that is gone", "another index", "another log")}
    beside |= dict.fromkeys(("record_artifact", "record_term"), ("a record that is gone", "another tenant"))
    strays = [f"{table} {changed[name]['receipt_id']}" for table, names in beside.items() for name in names]
    expected |= dict.fromkeys([*strays, f"log_place {gone['receipt_id']}"], "stray")
    assert kinds(found) == expected
    assert found["closed"] == {}
    assert kinds(await kept.reconcile("--check", code=1)) == expected


def kinds(found: dict[str, Any]) -> dict[str, str]:
    """By whom it is about, what is amiss."""
    named = {gap["subject"]: gap["kind"] for gap in found["gaps"]}
    assert len(named) == len(found["gaps"]), found["gaps"]
    return named


async def as_it_was(kept: Kept, *receipts: dict[str, Any]) -> None:
    """The receipts are served as LOGGED, at the place where they were."""
    async with httpx.AsyncClient(base_url=kept.stack.url, trust_env=False, timeout=30) as rest:
        for receipt in receipts:
            answer = await rest.get(f"/api/v1/receipts/{receipt['receipt_id']}")
            again = answer.raise_for_status().json()["receipt"]
            same = ("state", "log_index", "rekor_log_id", "signature_b64")
            assert [again[name] for name in same] == [receipt[name] for name in same]
