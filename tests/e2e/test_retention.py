"""Records that are past their retention go, through the whole stack, with a certificate; what is held stays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import httpx
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package

MARCH = datetime(2021, 3, 5, 12, tzinfo=UTC)
POLICY = """
classes:
  short: 90 days
  years: 7 years
rules:
  - {event_type: "test.short.*", class: short}
  - {event_type: "test.years.*", class: years}
"""


@dataclass
class Aged:
    """A stack, and a way to make its records old, which only a superuser has."""

    stack: Stack
    rest: httpx.AsyncClient
    database: asyncpg.Connection

    async def notarised(self, event_type: str, actor: str = "ci@acme.example") -> dict[str, Any]:
        evidence = package() | {"event_type": event_type, "actor": {"actor_type": "workload", "id": actor}}
        answer = await self.rest.post("/api/v1/evidence/sign", json={"evidence_package": evidence})
        receipt: dict[str, Any] = answer.raise_for_status().json()["receipt"]
        assert receipt["state"] == "logged"
        return receipt

    async def aged(self, receipt_id: str) -> str:
        """The ID that the record has once it is of March 2021."""
        old = f"{round(MARCH.timestamp() * 1000):012x}"
        moved = f"{old[:8]}-{old[8:]}{receipt_id[13:]}"
        tables = await self.database.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'afdp_metadata'::regnamespace "
            "AND (relkind = 'p' OR relname = 'log_place')"
        )
        await self.database.execute("SET search_path = afdp_metadata; SET session_replication_role = replica")
        await self.database.fetchval("SELECT make_months(ARRAY[$1::text::uuid])", moved)
        for table in (row["relname"] for row in tables):
            await self.database.execute(
                f"UPDATE {table} SET receipt_id = $2::text::uuid WHERE receipt_id = $1::text::uuid", receipt_id, moved
            )
        for table in ("record", "record_artifact", "record_term"):
            await self.database.execute(
                f"UPDATE {table} SET notarized_at = $2 WHERE receipt_id = $1::text::uuid", moved, MARCH
            )
        return moved

    async def afdp(self, *arguments: str) -> Any:
        """What a command of `afdp` says with --json."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "afdp.cli", *arguments, "--json"),
            env={**os.environ, **self.stack.settings("notary"), "AFDP_URL": self.stack.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            out, error = await process.communicate()
        assert process.returncode == 0, (out + error).decode()
        return json.loads(out)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world() -> AsyncIterator[Aged]:
    with open_folder() as folder:
        policy = folder / "retention.yaml"
        policy.write_text(POLICY)
        policy.chmod(0o644)
        folder.chmod(0o755)
        settings = {
            "notary": {**NO_KEY_RECORDS, "AFDP_RETENTION": str(policy)},
            "metadata": {"AFDP_ENCRYPTION": "off"},  # a superuser makes records older here, which then would not open
        }
        options = StackOptions(folder / "data", free_offset(), settings=settings)
        async with (
            running_stack(options) as stack,
            httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=60) as rest,
        ):
            database = await asyncpg.connect(stack.database_url)
            try:
                yield Aged(stack, rest, database)
            finally:
                await database.close()


async def test_what_is_due_goes_with_a_certificate_that_anyone_verifies_and_a_hold_keeps_the_rest(world: Aged) -> None:
    gone = [await world.notarised("test.short.lived") for _ in range(3)]
    held = await world.notarised("test.short.lived", actor="mallory")
    kept = await world.notarised("test.years.lived")
    other = await world.notarised("test.of.no.class")
    leaves = {
        row["receipt_id"]: row["leaf_hash"]
        for row in await world.database.fetch("SELECT receipt_id::text, leaf_hash FROM afdp_metadata.record_content")
    }
    moved = {each["receipt_id"]: await world.aged(each["receipt_id"]) for each in (*gone, held, kept, other)}

    placed = await world.afdp("holds", "place", "--case", "4711", "--reason", "a court asks", "--actor", "mallory")
    assert placed["records"] == 1
    planned = (await world.afdp("retention", "run", "--dry-run"))["expired"]
    assert planned == [{"month": "2021-03", "tenant": "default", "records": 3, "kept": 2, "held": 1, "certificate": ""}]
    [expired] = (await world.afdp("retention", "run"))["expired"]
    assert (expired["records"], expired["kept"], expired["held"]) == (3, 2, 1)
    assert (await world.afdp("retention", "run"))["expired"] == []

    # What went is told of, to whoever asks for it; what stays is there.
    for each in gone:
        answer = await world.rest.get(f"/api/v1/receipts/{moved[each['receipt_id']]}")
        assert answer.status_code == 404
        assert f"certificate {expired['certificate']}" in answer.text
        assert (await world.rest.get(f"/api/v1/evidence/{each['evidence_package_hash']}")).status_code == 404
    for each in (held, kept, other):
        found = await world.rest.get(
            "/api/v1/evidence", params={"evidence_package_hash": each["evidence_package_hash"]}
        )
        assert len(found.json()["evidence"]) == 1

    # The certificate is evidence like any other, about exactly what went.
    receipt = (await world.rest.get(f"/api/v1/receipts/{expired['certificate']}")).raise_for_status().json()["receipt"]
    certificate = await world.rest.get(f"/api/v1/evidence/{receipt['evidence_package_hash']}")
    evidence = certificate.raise_for_status().json()["evidence_package"]
    assert evidence["event_type"] == "afdp.records.expired"
    assert (evidence["metadata"]["records"], evidence["metadata"]["classes"]) == (3, {"short": 3})
    tree = [
        sha256(b"\0" + bytes.fromhex(moved[name].replace("-", "")) + leaves[name]).digest()
        for name in sorted((each["receipt_id"] for each in gone), key=lambda name: moved[name])
    ]
    pair = sha256(b"\1" + tree[0] + tree[1]).digest()
    assert evidence["metadata"]["tree_root"] == sha256(b"\1" + pair + tree[2]).hexdigest()

    # A hold that is released lets go; once that is done, the log's entries without a record are no gaps.
    await world.afdp("holds", "release", placed["hold"]["hold_id"], "--reason", "it is over")
    assert [each["hold_id"] for each in (await world.afdp("holds", "list", "--all"))["holds"]] == [
        placed["hold"]["hold_id"]
    ]
    [last] = (await world.afdp("retention", "run"))["expired"]
    assert last["records"] == 1
    named = await _gaps(world)
    gone_now = {moved[each["receipt_id"]] for each in (*gone, held)}
    assert not [gap for gap in named if gap["kind"] == "unrecorded" or gap["subject"] in gone_now]
    beside = ("expiry ", "expired_record ", "log_place ")
    assert not [gap for gap in named if gap["subject"].startswith(beside)]
    certificates = await world.rest.get("/api/v1/evidence", params={"event_type": "afdp.records.expired"})
    assert len(certificates.json()["evidence"]) == 2


async def test_what_is_deleted_beside_an_expiry_and_an_expiry_made_by_hand_are_named(world: Aged) -> None:
    went = [await world.notarised("test.short.lived") for _ in range(4)]
    victim = sorted([await world.aged(each["receipt_id"]) for each in went])[1]  # stays, between the first and the last
    await world.database.execute(
        "UPDATE afdp_metadata.record SET retention_class = 'years' WHERE receipt_id = $1::text::uuid", victim
    )
    [row] = await world.database.fetch(
        "SELECT leaf_hash FROM afdp_metadata.record_content WHERE receipt_id = $1::text::uuid", victim
    )
    [expired] = (await world.afdp("retention", "run"))["expired"]
    assert expired["records"] == 3
    superuser = world.database
    await superuser.execute("SET search_path = afdp_metadata; SET session_replication_role = replica")
    [expiry] = await superuser.fetch("SELECT * FROM expiry WHERE certificate = $1::text::uuid", expired["certificate"])
    name = str(expiry["expiry_id"])

    # The trail has said it before, and after.
    act = str(expiry["act"])
    rows = [json.loads(each["row"]) for each in await superuser.fetch("SELECT row FROM audit_row ORDER BY sequence")]
    told = [(each["phase"], each.get("resource")) for each in rows if each.get("act") == act]
    assert told == [("intent", "retention:2021-03-01"), ("outcome", f"expiry:{name}")]

    # A verification that goes on behind that remembers it, and legal holds.
    asked = {"case_number": "7", "reason": "a court asks"}
    holds = [(await world.rest.post("/api/v1/holds", json=asked)).raise_for_status().json() for _ in range(3)]
    _, gone, let_go = (each["hold"]["hold_id"] for each in holds)
    verified = [await _verified(world) for _ in range(3)]
    assert [each["findings"] for each in verified] == [[], [], []]
    assert verified[2]["rows"] < verified[0]["rows"]

    # A record between the first and the last of those that went is deleted.
    for table in ("record", "record_content", "record_artifact", "record_term", "log_entry"):
        await superuser.execute(f"DELETE FROM {table} WHERE receipt_id = $1::text::uuid", victim)
    found = await _named(world)
    assert (f"log_place {victim}", "a place in a log is held for it, and there is no such record") in found

    # It is said to have gone with them; the number and the root are made to fit; only the certificate cannot be.
    await superuser.execute(
        "INSERT INTO expired_record VALUES ($1::text::uuid, 'default', $2::text::uuid, $3)", victim, name, row[0]
    )
    assert (f"expiry {name}", "what went is not what it says") in await _named(world)
    root = (
        "tree_root(ARRAY(SELECT sha256('\\x00'::bytea || uuid_send(receipt_id) || leaf_hash) FROM expired_record"
        " WHERE expiry_id = $1::text::uuid ORDER BY receipt_id))"
    )
    await superuser.execute(f"UPDATE expiry SET records = 4, root = {root} WHERE expiry_id = $1::text::uuid", name)
    assert (f"expiry {name}", "its certificate is about other records") in await _named(world)
    await superuser.execute("DELETE FROM expired_record WHERE receipt_id = $1::text::uuid", victim)
    await superuser.execute(
        "UPDATE expiry SET records = 3, root = $2, classes = '{\"other\": 3}' WHERE expiry_id = $1::text::uuid",
        *(name, expiry["root"]),
    )
    assert (f"expiry {name}", "its certificate says something else") in await _named(world)

    # An expiry made by hand, to cover the record: with all that a real one has, and an act that there was.
    by_hand = await superuser.fetchval(
        "INSERT INTO expiry (tenant, month, records, kept, held, classes, first_id, last_id, root, expired_at, act)"
        " VALUES ('default', '2021-03-01', 1, 0, 0, '{\"short\": 1}', $1::text::uuid, $1::text::uuid,"
        " sha256('\\x00'::bytea || uuid_send($1::text::uuid) || $2), now() - interval '1 hour', gen_random_uuid())"
        " RETURNING expiry_id::text",
        *(victim, row[0]),
    )
    await superuser.execute(
        "INSERT INTO expired_record VALUES ($1::text::uuid, 'default', $2::text::uuid, $3)", victim, by_hand, row[0]
    )
    assert (await world.afdp("retention", "run"))["expired"] == []
    assert await superuser.fetchval("SELECT certificate FROM expiry WHERE expiry_id = $1::text::uuid", by_hand) is None
    assert await _untold(world) == {f"expiry {by_hand}": "no row says that it was about to happen"}
    await superuser.execute(
        "UPDATE expiry SET certificate = $2::text::uuid, act = $3 WHERE expiry_id = $1::text::uuid",
        *(by_hand, expired["certificate"], expiry["act"]),
    )

    # Of the holds one stays, one is deleted, and one is released by nobody.
    await superuser.execute("DELETE FROM legal_hold WHERE hold_id = $1::text::uuid", gone)
    await superuser.execute(
        "UPDATE legal_hold SET released_by = 'x', release_reason = 'y', released_at = now() - interval '1 hour'"
        " WHERE hold_id = $1::text::uuid",
        let_go,
    )
    assert await _untold(world) == {
        f"expiry {by_hand}": "no row says that it happened",
        f"hold {gone}": "it was placed, and is not on record",
        f"hold {let_go}": "it is released on record, and no row says that somebody did",
    }


async def _named(world: Aged) -> set[tuple[str, str]]:
    return {(gap["subject"], gap["why"]) for gap in await _gaps(world)}


async def _untold(world: Aged) -> dict[str, str]:
    """What `afdp audit verify` finds of expiries and holds, from where it came to before."""
    found = {each["subject"]: each["why"] for each in (await _verified(world))["findings"]}
    return {subject: why for subject, why in found.items() if subject.startswith(("expiry ", "hold "))}


async def _verified(world: Aged) -> Any:
    state = str(world.stack.data_dir / "verified")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "audit", "verify", "--records", "--json", "--state", state),
        env={**os.environ, **world.stack.settings("notary")},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    return json.loads(out)


async def _gaps(world: Aged) -> list[dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "reconcile", "--check", "--json"),
        env={**os.environ, **world.stack.settings("notary")},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    found: list[dict[str, str]] = json.loads(out)["gaps"]
    return found


async def test_a_hold_that_is_wrong_is_refused_by_the_name_of_its_field(world: Aged) -> None:
    right = {"case_number": "c", "reason": "r"}
    now = datetime.now(UTC)
    for wrong, field in (
        ({"case_number": ""}, "case_number"),
        ({"reason": ""}, "reason"),
        ({"artifact_hash": "00"}, "artifact_hash"),
        ({"start_time": now.isoformat(), "end_time": (now - timedelta(days=1)).isoformat()}, "end_time"),
    ):
        answer = await world.rest.post("/api/v1/holds", json=right | wrong)
        assert answer.status_code == 400
        assert field in answer.text
    assert (await world.rest.post("/api/v1/holds/nothing:release", json={"reason": "r"})).status_code == 400
    assert (await world.rest.get("/api/v1/holds", params={"page_token": "x"})).status_code == 400
