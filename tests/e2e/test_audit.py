"""The audit trail on a stack that runs: the auditor's walk-through of docs/audit.md, and what finds a superuser."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from tests.conftest import open_folder
from tests.e2e.conftest import blocks, free_offset
from tests.e2e.evidence import package

DOCUMENT = "docs/audit.md"
MODEL = b"the weights of a model"


@dataclass
class Trail:
    """A stack whose trail is sealed and anchored, a folder to work in, and a superuser's session."""

    stack: Stack
    rest: httpx.AsyncClient
    database: asyncpg.Connection
    folder: Path

    async def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """What a command prints, once it has ended with this status."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "AFDP_URL": self.stack.url,
                "HOME": str(self.folder),
                **environment,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == code, out.decode()
        return out.decode()

    async def verify(self, code: int = 0, *, itself: bool = False) -> dict[str, Any]:
        """What `afdp audit verify --records --json` finds, or the command of the service that it runs, `itself`."""
        command = (sys.executable, "-m", "afdp.cli", "audit", "verify", "--records", "--json")
        if itself:
            command = (sys.executable, "-m", "afdp.notary", "audit-verify", "--json")
        found: dict[str, Any] = json.loads(await self.run(*command, code=code, **self.stack.settings("notary")))
        return found

    async def sign(self, **changes: Any) -> str:
        """A new receipt's ID."""
        answer = await self.rest.post("/api/v1/evidence/sign", json={"evidence_package": package(**changes)})
        receipt_id: str = answer.raise_for_status().json()["receipt"]["receipt_id"]
        return receipt_id

    async def anchored(self) -> None:
        """Returns once a seal that covers all rows of now is in the log."""
        newest = await self.database.fetchval("SELECT max(sequence) FROM audit_row WHERE NOT silent")
        await self.until(
            "SELECT EXISTS (SELECT FROM audit_seal JOIN audit_anchor USING (number) JOIN log_entry USING (receipt_id) "
            "WHERE last >= $1)",
            newest,
        )

    async def until(self, question: str, *arguments: object) -> None:
        """Returns once the database says yes."""
        async with asyncio.timeout(120):
            while True:
                if await self.database.fetchval(question, *arguments):
                    return
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trail() -> AsyncIterator[Trail]:
    with open_folder() as folder:
        # What a death leaves PENDING stays so until a test says otherwise.
        settings = {"notary": {"AFDP_AUDIT_INTERVAL_SECONDS": "1"}}
        async with (
            running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack,
            httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=60) as rest,
        ):
            database = await asyncpg.connect(stack.database_url, server_settings={"search_path": "afdp_metadata"})
            (folder / "work").mkdir()
            try:
                yield Trail(stack, rest, database, folder / "work")
            finally:
                await database.close()


async def test_an_auditor_gets_from_an_artifact_to_all_that_was_done_about_it_and_verifies_it_offline(
    trail: Trail,
) -> None:
    (trail.folder / "model.bin").write_bytes(MODEL)
    signing = "afdp sign model.bin --event-type ai.model.deployed -o receipt.json"
    await trail.run("bash", "-euo", "pipefail", "-c", signing)
    receipt_id = json.loads((trail.folder / "receipt.json").read_text())["receipt_id"]
    steps = blocks(DOCUMENT, "sh")
    assert len(steps) == 5
    printed = ""
    for step in steps[:3]:
        printed += await trail.run("bash", "-euo", "pipefail", "-c", step)
    assert "SignEvidence: about to be done" in printed
    assert "SignEvidence: allowed" in printed
    assert "GetReceipt: allowed" in printed
    await trail.anchored()
    await trail.run("bash", "-euo", "pipefail", "-c", steps[3])

    nowhere = {"AFDP_URL": "http://127.0.0.1:1"}  # offline: nobody is asked
    verified = await trail.run("bash", "-euo", "pipefail", "-c", steps[4], **nowhere)

    assert verified.count("VERIFIED") == 2
    assert "NOT VERIFIED" not in verified
    assert int(verified.strip().splitlines()[-1]) >= 3  # its intent, its outcome, and that it was read
    assert receipt_id in (trail.folder / "audit" / "rows.ndjson").read_text()


async def test_who_reads_many_is_on_record_with_what_was_asked_for_and_what_was_given(trail: Trail) -> None:
    receipt_ids = [await trail.sign(event_type="test.given") for _ in range(3)]
    query = {"event_type": "test.given", "actor_id": "nobody-else"}
    assert not (await trail.rest.get("/api/v1/evidence", params=query)).raise_for_status().json()["evidence"]
    query = {"event_type": "test.given", "oldest_first": "true"}
    await trail.rest.get("/api/v1/evidence", params=query)
    (await trail.rest.get("/api/v1/evidence:export", params=query)).raise_for_status()
    digest = sha256("".join(f"{each}\n" for each in receipt_ids).encode()).hexdigest()

    answer = await trail.rest.get("/api/v1/audit/events", params={"resource": f"receipts:{digest}"})

    events = [json.loads(each) for each in answer.json()["events"]]
    assert [each["api"]["operation"] for each in events] == ["ExportEvidence", "SearchEvidence"]
    for each in events:
        told = each["unmapped"]
        assert (told["listed"], told["first"], told["last"]) == ("3", receipt_ids[0], receipt_ids[-1])
        assert json.loads(told["asked"]) == {"event_type": "test.given", "oldest_first": True}
    nothing = await trail.rest.get("/api/v1/audit/events", params={"resource": f"receipts:{sha256().hexdigest()}"})
    asked = [json.loads(json.loads(each)["unmapped"]["asked"]) for each in nothing.json()["events"]]
    assert {"event_type": "test.given", "by": ["actor_id"]} in asked
    assert "nobody-else" not in nothing.text


async def test_an_export_that_was_changed_is_refused_and_the_row_or_seal_is_named(trail: Trail) -> None:
    await trail.sign()
    await trail.anchored()
    shell = "rm -rf trust export && afdp trust export -o trust && afdp audit export --all-tenants -o export"
    await trail.run("bash", "-euo", "pipefail", "-c", shell)
    verify = ("afdp", "audit", "verify", "export", "--trust", "trust", "--json")
    assert json.loads(await trail.run(*verify))["verified"]

    async def changed(name: str, at: int, change: Any) -> dict[str, Any]:
        file = trail.folder / "export" / name
        whole = file.read_text()
        lines = [json.loads(line) for line in whole.splitlines()]
        change(lines, at)
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        found: dict[str, Any] = json.loads(await trail.run(*verify, code=1))["findings"][0]
        file.write_text(whole)
        return found

    def other_row(lines: list[dict[str, Any]], at: int) -> None:
        lines[at]["row"] = lines[at]["row"].replace('"allow"', '"deny"', 1)

    def other_root(lines: list[dict[str, Any]], at: int) -> None:
        body = json.loads(lines[at]["body"])
        lines[at]["body"] = json.dumps({**body, "root": "00" * 32}, separators=(",", ":"), sort_keys=True)

    row = json.loads((trail.folder / "export" / "rows.ndjson").read_text().splitlines()[1])
    assert (await changed("rows.ndjson", 1, other_row)).items() >= {
        "fault": "row altered",
        "subject": f"row {row['sequence']}",
    }.items()
    assert (await changed("rows.ndjson", 1, lambda lines, at: lines.pop(at)))["fault"] == "row missing"
    assert (await changed("seals.ndjson", 0, other_root)) | {"why": ""} == {
        "fault": "seal altered",
        "subject": "seal 1",
        "why": "",
    }
    assert (await changed("seals.ndjson", 0, lambda lines, at: lines.pop(at)))["fault"] == "seal missing"


@dataclass(frozen=True)
class Deed:
    """What a superuser does to one row of a table, $1, and how that is told."""

    fault: str
    subject: str
    table: str
    key: str
    statement: str


ROW, SEAL, GAP = "row {row}", "seal {seal}", "row {gap}"
DEEDS = (
    Deed("row altered", ROW, "audit_row", "sequence", "UPDATE audit_row SET row = row || ' ' WHERE sequence = $1"),
    Deed("row altered", ROW, "audit_row", "sequence", "UPDATE audit_row SET tenant = 'x' WHERE sequence = $1"),
    Deed("row altered", ROW, "audit_row", "sequence", "UPDATE audit_row SET terms = '{}' WHERE sequence = $1"),
    Deed("row altered", ROW, "audit_row", "sequence", "UPDATE audit_row SET results = 7 WHERE sequence = $1"),
    Deed("row missing", ROW, "audit_row", "sequence", "DELETE FROM audit_row WHERE sequence = $1"),
    Deed(
        "row added",
        GAP,
        "audit_row",
        "sequence",
        "INSERT INTO audit_row (sequence, id, tenant, phase, results, silent, terms, row) "
        "VALUES ($1, gen_random_uuid(), 'default', '', 1, false, '{}', '{}')",
    ),
    Deed(
        "seal altered",
        SEAL,
        "audit_seal",
        "number",
        "UPDATE audit_seal SET body = convert_to(replace(convert_from(body, 'utf8'), '\"rows\":', '\"rows\":1'), "
        "'utf8') WHERE number = $1",
    ),
    Deed(
        "seal altered",
        SEAL,
        "audit_seal",
        "number",
        "UPDATE audit_seal SET leaves = set_byte(leaves, 0, get_byte(leaves, 0) # 1) WHERE number = $1",
    ),
    Deed("seal missing", SEAL, "audit_seal", "number", "DELETE FROM audit_seal WHERE number = $1"),
    Deed("anchor missing", SEAL, "audit_anchor", "number", "DELETE FROM audit_anchor WHERE number = $1"),
    Deed(
        "anchor missing",
        SEAL,
        "audit_anchor",
        "number",
        "UPDATE audit_anchor SET receipt_id = gen_random_uuid() WHERE number = $1",
    ),
    Deed(
        "anchor wrong",
        SEAL,
        "record_content",
        "receipt_id",
        "UPDATE record_content SET leaf_hash = sha256(leaf_hash) WHERE receipt_id = $1",
    ),
)


async def test_a_superuser_who_changes_one_row_of_any_table_of_the_trail_is_found_and_it_is_named(trail: Trail) -> None:
    database = trail.database
    gap = await database.fetchval("SELECT nextval('audit_sequence')")  # as of a transaction that was rolled back
    await trail.sign()
    await trail.anchored()
    assert (await trail.verify())["verified"]
    first = await database.fetchrow(
        "SELECT number, receipt_id, sequences[1] AS row FROM audit_seal JOIN audit_anchor USING (number) "
        "WHERE cardinality(sequences) = (SELECT max(cardinality(sequences)) FROM audit_seal) LIMIT 1"
    )
    assert first is not None
    await database.execute("SET session_replication_role = replica")  # no trigger holds a superuser
    for deed in DEEDS:
        targets = {"sequence": gap if deed.subject is GAP else first["row"], "number": first["number"]}
        target = first["receipt_id"] if deed.key == "receipt_id" else targets[deed.key]
        where = f"FROM {deed.table} WHERE {deed.key} = $1"
        before = await database.fetch(f"SELECT * {where}", target)
        assert (await database.execute(deed.statement, target)).split()[-1] == "1", deed

        found = await trail.verify(code=1, itself=True)

        subject = deed.subject.format(row=first["row"], seal=first["number"], gap=gap)
        named = [(each["fault"], each["subject"]) for each in found["findings"]]
        assert (deed.fault, subject) in named, (deed, named)
        await database.execute(f"DELETE {where}", target)
        for row in before:
            names, places = ", ".join(row.keys()), ", ".join(f"${at}" for at in range(1, len(row) + 1))
            await database.execute(f"INSERT INTO {deed.table} ({names}) VALUES ({places})", *row.values())
    assert (await trail.verify())["verified"]


@pytest.mark.parametrize("by", ["records", "export"])
async def test_a_nightly_run_verifies_what_is_new_and_refuses_a_trail_that_was_rewritten_before_it(
    trail: Trail, by: str
) -> None:
    state = trail.folder / f"{by}.state"
    if not (trail.folder / "trust").exists():
        await trail.run("afdp", "trust", "export", "-o", "trust")
    where = ["--records"] if by == "records" else ["--all-tenants", "--trust", "trust"]
    settings = trail.stack.settings("notary")

    async def run(code: int = 0) -> dict[str, Any]:
        command = ("afdp", "audit", "verify", *where, "--state", str(state), "--json")
        found: dict[str, Any] = json.loads(await trail.run(*command, code=code, **settings))
        return found

    await trail.sign()
    await trail.anchored()
    first = await run()
    kept = json.loads(state.read_text())
    await trail.sign()
    await trail.anchored()
    rows = await trail.database.fetchval("SELECT count(*) FROM audit_row")

    second = await run()

    assert first["verified"]
    assert second["verified"]
    assert second["seals"] > kept["number"]
    assert second["rows"] < rows - first["rows"] / 2  # the first run's are not looked at again
    kept = json.loads(state.read_text())
    database, number = trail.database, kept["number"]
    body = await database.fetchval("SELECT body FROM audit_seal WHERE number = $1", number)
    await database.execute("SET session_replication_role = replica")
    await database.execute("UPDATE audit_seal SET body = $2 WHERE number = $1", number, body + b" ")
    try:
        refused = await run(code=1)
    finally:
        await database.execute("UPDATE audit_seal SET body = $2 WHERE number = $1", number, body)
    named = refused["findings"][0]
    assert (named["fault"], named["subject"]) == ("trail rewritten", f"seal {number}")
    assert json.loads(state.read_text()) == kept
    assert (await run())["verified"]
    state.write_text(json.dumps(json.loads(state.read_text()) | {"row": 1}))
    assert "is damaged" in await trail.run(
        *("afdp", "audit", "verify", *where, "--state", str(state)), code=2, **settings
    )


async def test_an_act_whose_notary_died_is_an_intent_without_an_outcome_until_recovery_writes_one(trail: Trail) -> None:
    """The log stands still, so that the record is PENDING and its intent on record when the notary is killed."""
    log, notary = trail.stack.server("transparency"), trail.stack.server("notary")
    await trail.sign()
    os.kill(log.pid, signal.SIGSTOP)
    try:
        before = await trail.database.fetchval("SELECT max(sequence) FROM audit_row")
        signing = asyncio.create_task(trail.sign())
        await trail.until(
            "SELECT EXISTS (SELECT FROM audit_row WHERE sequence > $1 AND phase = 'intent' AND NOT silent AND "
            "convert_from(row, 'utf8')::jsonb ->> 'rpc' = 'SignEvidence' AND tenant = 'default')",
            before,
        )
        os.kill(notary.pid, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            await signing
        act = await trail.database.fetchval(
            "SELECT convert_from(row, 'utf8')::jsonb ->> 'act' FROM audit_row "
            "WHERE sequence > $1 AND phase = 'intent' AND tenant = 'default' ORDER BY sequence LIMIT 1",
            before,
        )
        outcome = (
            "SELECT max(convert_from(row, 'utf8')) FROM audit_row "
            "WHERE phase = 'outcome' AND position($1 IN convert_from(row, 'utf8')) > 0"
        )
        assert not await trail.database.fetchval(outcome, act)
    finally:
        os.kill(log.pid, signal.SIGCONT)
    await trail.until(outcome, act)
    row = await trail.database.fetchval(outcome, act)
    assert json.loads(row)["subject"] == "recovery"
    async with asyncio.timeout(120):
        while True:  # until the gateway has its way to the new notary
            if (await trail.rest.get("/ready")).status_code == 200:
                break
            await asyncio.sleep(0.05)


async def test_while_metadata_is_killed_or_hangs_no_answer_lacks_its_rows_and_what_was_spooled_outlives_the_notary(
    trail: Trail,
) -> None:
    """In the trail each row is there once, and what was spooled in its order."""
    receipt_id = await trail.sign()

    async def read(name: str) -> int:
        try:
            headers = {"x-request-id": name}
            return (await trail.rest.get(f"/api/v1/receipts/{receipt_id}", headers=headers)).status_code
        except httpx.HTTPError:
            return 0

    there = "FROM audit_row WHERE phase = $2 AND convert_from(row, 'utf8')::jsonb ->> 'request_id' = $1"

    async def place_of(name: str, phase: str) -> int:
        """The one row of a call, once it is there."""
        await trail.until(f"SELECT EXISTS (SELECT {there})", name, phase)
        [found] = await trail.database.fetch(f"SELECT sequence {there}", name, phase)
        place: int = found["sequence"]
        return place

    async def load(prefix: str, count: int) -> dict[str, int]:
        names = [f"{prefix}-{number}" for number in range(count)]
        return dict(zip(names, await asyncio.gather(*map(read, names)), strict=True))

    killed = asyncio.create_task(load("killed", 40))
    await place_of("killed-0", "intent")
    os.kill(trail.stack.server("metadata").pid, signal.SIGKILL)
    answered = [name for name, status in (await killed).items() if status == 200]
    assert answered
    for name in answered:
        assert await place_of(name, "intent") < await place_of(name, "outcome")
    async with asyncio.timeout(120):
        for again in itertools.count():  # until it is back
            if await read(f"again-{again}") == 200:
                break
            await asyncio.sleep(0.05)

    spool = Path(trail.stack.settings("notary")["AFDP_DATA_DIR"]) / "audit-spool"
    metadata = trail.stack.server("metadata").pid
    os.kill(metadata, signal.SIGSTOP)
    try:
        hanging = asyncio.create_task(load("hung", 5))
        spooled: list[str] = []
        async with asyncio.timeout(120):
            while len(spooled) < 5:
                texts = [file.read_text() for file in spool.glob("audit-*.ndjson")]
                lines = [line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]
                spooled = [
                    name for line in lines if (name := json.loads(line).get("request_id", "")).startswith("hung")
                ]
                await asyncio.sleep(0.05)
        os.kill(trail.stack.server("notary").pid, signal.SIGKILL)
        assert 200 not in (await hanging).values()
    finally:
        os.kill(metadata, signal.SIGCONT)
    places = [await place_of(name, "intent") for name in dict.fromkeys(spooled)]
    assert places == sorted(places)
