"""One row of each table changed by a superuser with triggers off, older than the last anchor: a command names it.

The tables are those of the catalogue: one that is new and has neither a case here nor a reason in
`docs/threat-model.md` fails the first test.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest_asyncio

from afdp.embedded.postgres import _binaries, _package_root
from afdp.embedded.stack import Stack, StackOptions, running_stack
from tests.conftest import open_folder
from tests.e2e.answers import BATCH, SIGN
from tests.e2e.conftest import ROOT, free_offset
from tests.e2e.evidence import package
from tests.local_issuer import LocalIssuer, write_identity

ENTRIES = 256  # a node is stored for each 256 entries
RECONCILE = ("-m", "afdp.cli", "reconcile", "--check", "--json")
AUDIT = ("-m", "afdp.cli", "audit", "verify", "--records", "--json")
FSCK = ("-m", "afdp.transparency", "fsck", "--json", "--jobs", "1")


@dataclass(frozen=True)
class Case:
    """One change, and how it is found.

    Attributes:
        change: a statement; `{r}` is the ID of a record that no other case has.
        command: what finds it.
        names: what is in its answer that was not there before.
    """

    change: str
    command: tuple[str, ...]
    names: str


def flipped(column: str, table: str, where: str) -> str:
    """One bit of a value, in one row."""
    return f"UPDATE {table} SET {column} = set_byte({column}, 20, get_byte({column}, 20) # 1) WHERE {where}"


OF_RECORD = "receipt_id = '{r}'"
ITSELF = '"subject": "{r}"'
NOBODY = "'01900000-0000-7000-8000-000000000001'"
SECOND = "(SELECT sequence FROM afdp_metadata.audit_row ORDER BY sequence LIMIT 1 OFFSET 1)"

RECORDS = {
    "record": Case(f"UPDATE record SET event_type = 'other' WHERE {OF_RECORD}", RECONCILE, ITSELF),
    "record_content": Case(flipped("signature", "record_content", OF_RECORD), RECONCILE, ITSELF),
    "record_artifact": Case(
        f"UPDATE record_artifact SET artifact_key = artifact_key # 1 WHERE {OF_RECORD}", RECONCILE, ITSELF
    ),
    "record_term": Case(f"DELETE FROM record_term WHERE {OF_RECORD}", RECONCILE, ITSELF),
    "log_entry": Case(f"UPDATE log_entry SET tree_size = tree_size + 1 WHERE {OF_RECORD}", RECONCILE, ITSELF),
    "log_place": Case(f"DELETE FROM log_place WHERE {OF_RECORD}", RECONCILE, ITSELF),
    "checkpoint": Case(
        "UPDATE checkpoint SET note = replace(note, E'\\n\\n', E'\\nmore\\n\\n') FROM log_entry e"
        f" WHERE e.{OF_RECORD} AND checkpoint.origin = e.origin AND checkpoint.tree_size = e.tree_size",
        RECONCILE,
        ITSELF,
    ),
    "pending": Case(
        "INSERT INTO pending (receipt_id, tenant, notarized_at, log_origin)"
        f" SELECT receipt_id, tenant, notarized_at, '' FROM record WHERE {OF_RECORD}",
        RECONCILE,
        ITSELF,
    ),
    "log_queue": Case(
        f"INSERT INTO log_queue (receipt_id, tenant, log, main) VALUES ({NOBODY}, 'acme', 'others', true)",
        RECONCILE,
        NOBODY.strip("'"),
    ),
    "stamp_wanted": Case(
        "INSERT INTO stamp_wanted (receipt_id, tenant, since)"
        " VALUES ('01900000-0000-7000-8000-000000000002', 'acme', now())",
        RECONCILE,
        "01900000-0000-7000-8000-000000000002",
    ),
    "external_stamp": Case(
        "INSERT INTO external_stamp (receipt_id, tenant, timestamp)"
        f" SELECT receipt_id, tenant, '\\x3000' FROM record WHERE {OF_RECORD}",
        RECONCILE,
        ITSELF,
    ),
    "further_entry": Case(
        "INSERT INTO further_entry (receipt_id, tenant, origin, log_index, tree_size, proof, note)"
        f" SELECT receipt_id, tenant, 'others.example', 0, 1, '', 'none' FROM record WHERE {OF_RECORD}",
        RECONCILE,
        ITSELF,
    ),
    "rekor1_entry": Case(
        "INSERT INTO rekor1_entry (receipt_id, tenant, origin, body, log_index, integrated_time, promise)"
        f" SELECT receipt_id, tenant, origin, '\\x00', 7, 7, '\\x00' FROM log_entry WHERE {OF_RECORD}",
        RECONCILE,
        ITSELF,
    ),
    "idempotency_key": Case(
        "UPDATE idempotency_key SET fingerprint = sha256('other') WHERE target = '{r}'",
        RECONCILE,
        "it stands for other evidence",
    ),
    "batch": Case("UPDATE batch SET succeeded = succeeded + 1", RECONCILE, "its counts are not those of its packages"),
    "tenant_usage": Case(
        "INSERT INTO tenant_usage VALUES ('acme', current_date, 0, 1000000, 1)", RECONCILE, "more is counted as used"
    ),
    "expiry": Case(
        "INSERT INTO expiry (tenant, month, records, kept, held, classes, first_id, last_id, root, certificate)"
        f" SELECT tenant, '2026-11-01', 1, 0, 0, '{{}}', receipt_id, receipt_id, sha256('root'), {NOBODY}"
        " FROM record LIMIT 1",
        RECONCILE,
        "its certificate is not there",
    ),
    "expired_record": Case(
        f"INSERT INTO expired_record SELECT receipt_id, tenant, {NOBODY}, '' FROM record WHERE {OF_RECORD}",
        RECONCILE,
        "it is said to have expired, and is on record",
    ),
    "data_key": Case(
        flipped("wrapped", "data_key", f"id = (SELECT data_key FROM record WHERE {OF_RECORD})"),
        RECONCILE,
        '"subject": "data_key ',
    ),
    "index_key": Case(flipped("wrapped", "index_key", "tenant = 'acme'"), RECONCILE, '"subject": "index_key acme"'),
    "erasure": Case(
        "INSERT INTO erasure"
        " (tenant, subject, requested_by, reason, closing_since, decided_at, erased_at, root, certificate)"
        f" VALUES ('acme', decode(repeat('ab', 16), 'hex'), 'x', 'x', now(), now(), now(), sha256(''), {NOBODY})",
        RECONCILE,
        f'"subject": "erasure acme {"ab" * 16}"',
    ),
    "audit_row": Case(f"UPDATE audit_row SET row = row || ' ' WHERE sequence = {SECOND}", AUDIT, "row altered"),
    "audit_seal": Case(
        "UPDATE audit_seal SET body = body || ' ' WHERE number ="
        " (SELECT number FROM audit_anchor ORDER BY number LIMIT 1 OFFSET 1)",
        AUDIT,
        "seal altered",
    ),
    "audit_anchor": Case(
        "UPDATE audit_anchor SET receipt_id = '{r}' WHERE number = (SELECT min(number) FROM audit_anchor)",
        AUDIT,
        "there is no record of its receipt",
    ),
}
LOG = {
    "tree": Case(flipped("root", "tree", "log_id = 1"), FSCK, '"table": "tree"'),
    "checkpoint": Case(flipped("root", "checkpoint", "log_id = 1"), FSCK, '"table": "checkpoint"'),
    "entry": Case(flipped("body", "entry", "log_id = 1 AND leaf_index = 7"), FSCK, '"table": "entry"'),
    "node": Case(flipped("hash", "node", "log_id = 1 AND level = 1 AND node_index = 0"), FSCK, '"table": "node"'),
    "stamped_checkpoint": Case(
        "INSERT INTO stamped_checkpoint (log_id, size, root, note, timestamp, authority, stamped_at)"
        " SELECT log_id, 7, sha256('other'), note, '\\x3000', 'none', now() FROM checkpoint WHERE log_id = 1",
        FSCK,
        '"table": "stamped_checkpoint"',
    ),
    "cosigned_checkpoint": Case(
        "INSERT INTO cosigned_checkpoint (log_id, size, root, note)"
        " SELECT log_id, 7, sha256('other'), note FROM checkpoint WHERE log_id = 1",
        FSCK,
        '"table": "cosigned_checkpoint"',
    ),
}
CASES = {f"afdp_metadata.{name}": case for name, case in RECORDS.items()} | {
    f"afdp_log.{name}": case for name, case in LOG.items()
}


@dataclass
class Tampered:
    """A stack with an audit trail, with records in its log, and a superuser's connection to its database."""

    stack: Stack
    receipts: list[str]
    database: asyncpg.Connection
    issuer: LocalIssuer

    async def run(self, command: tuple[str, ...]) -> tuple[int, str]:
        """What a command answers, and its exit code."""
        service = "transparency" if command is FSCK else "metadata" if "afdp.metadata" in command else "notary"
        settings = self.stack.settings(service)
        environment = {**os.environ, **settings, "AFDP_DATABASE_URL": self.stack.database_url}
        if service == "notary":
            del environment["AFDP_DATABASE_URL"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(120):
            out, error = await process.communicate()
        assert process.returncode in (0, 1), error.decode()
        return process.returncode, out.decode()

    async def change(self, table: str, statement: str) -> None:
        """One row, with triggers off."""
        schema = table.partition(".")[0]
        await self.database.execute(f"SET session_replication_role = replica; SET search_path = {schema}")
        assert (await self.database.execute(statement)).split()[-1] == "1", table


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tampered() -> AsyncIterator[Tampered]:
    with open_folder() as folder:
        issuer = LocalIssuer(folder)
        notary = {
            "AFDP_AUTH": "required",
            "AFDP_IDENTITY": str(write_identity(folder / "identity.yaml", {"issuers": [issuer.settings()]})),
            "AFDP_RECOVERY_INTERVAL_SECONDS": "3000",
        }
        settings = {"notary": notary, "metadata": {"AFDP_SEARCHABLE_METADATA": "patient"}}
        token = issuer.token(issuer.claims(sub="ci", tenant="acme"))
        async with (
            running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack,
            httpx.AsyncClient(
                base_url=stack.url, trust_env=False, timeout=60, headers={"authorization": f"Bearer {token}"}
            ) as rest,
        ):
            receipts = await notarised(rest)
            database = await asyncpg.connect(stack.database_url)
            try:
                for _ in range(3):  # a seal each, at least
                    await until_anchored(database)
                    (await rest.get(f"/api/v1/receipts/{receipts[0]}")).raise_for_status()
                await until_anchored(database)
                yield Tampered(stack, receipts, database, issuer)
            finally:
                await database.close()


async def notarised(rest: httpx.AsyncClient) -> list[str]:
    """The IDs of records with keys and a checkpoint of their own each, then a batch that fills a tile of the log."""
    receipts = []
    for _ in RECORDS:
        answer = await rest.post(
            SIGN, json={"evidence_package": package()}, headers={"Idempotency-Key": uuid.uuid4().hex}
        )
        receipts.append(answer.raise_for_status().json()["receipt"]["receipt_id"])
    many = await rest.post(BATCH, json={"evidence_packages": [package() for _ in range(ENTRIES)]})
    assert all(item["error"] is None for item in many.raise_for_status().json()["results"])
    return receipts


async def until_anchored(database: asyncpg.Connection) -> None:
    """Until the log knows a seal that covers all that is on record now."""
    newest = await database.fetchval("SELECT max(sequence) FROM afdp_metadata.audit_row WHERE NOT silent")
    async with asyncio.timeout(120):
        while not await database.fetchval(  # noqa: ASYNC110 - of another process there is no event
            "SELECT count(*) FROM afdp_metadata.audit_anchor JOIN afdp_metadata.audit_seal USING (number)"
            " JOIN afdp_metadata.log_entry USING (receipt_id) WHERE last >= $1",
            newest,
        ):
            await asyncio.sleep(0.1)


async def test_each_table_has_a_case_or_a_reason_why_none_is_needed(tampered: Tampered) -> None:
    rows = await tampered.database.fetch(
        "SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('afdp_metadata', 'afdp_log') AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    )
    document = (ROOT / "docs/threat-model.md").read_text()
    neither = [row["name"] for row in rows if row["name"] not in CASES and f"`{row['name']}`" not in document]
    assert neither == []
    assert CASES.keys() <= {row["name"] for row in rows}


SUBJECT, ACTOR, PATIENT = "planted-subject-4711", "planted-actor-4711", "planted-patient-4711"


async def test_who_reads_the_whole_database_learns_nothing_of_evidence(tampered: Tampered) -> None:
    """A dump of all of it, records and log. The audit trail alone names who called, and no more of what was planted."""
    token = tampered.issuer.token(tampered.issuer.claims(sub=SUBJECT, tenant="acme"))
    evidence = package(metadata={"patient": PATIENT}, actor={"actor_type": "human", "id": ACTOR})
    async with httpx.AsyncClient(
        base_url=tampered.stack.url, trust_env=False, timeout=60, headers={"authorization": f"Bearer {token}"}
    ) as rest:
        answer = await rest.post(
            SIGN, json={"evidence_package": evidence}, headers={"Idempotency-Key": "planted-key-4711"}
        )
        receipt = answer.raise_for_status().json()["receipt"]
        artifact = evidence["artifacts"][0]["hash_sha256"]
        for asked in ({"actor_id": ACTOR}, {"artifact_hash": artifact}, {"metadata": f"patient={PATIENT}"}):
            found = (await rest.get("/api/v1/evidence", params=asked)).raise_for_status().json()["evidence"]
            assert [each["receipt_id"] for each in found] == [receipt["receipt_id"]], asked
        given = (await rest.get(f"/api/v1/receipts/{receipt['receipt_id']}")).raise_for_status().json()["receipt"]
    salt = json.loads(b64decode(given["bundle"]["dsseEnvelope"]["payload"]))["predicate"]["notary"]["salt"]
    hashes = [bytes.fromhex(artifact), bytes.fromhex(receipt["evidence_package_hash"]), b64decode(salt)]
    texts = [each.encode() for each in (SUBJECT, ACTOR, PATIENT, "planted-key-4711", salt)]

    tables = await dumped(tampered.stack.database_url)

    in_tables = {
        (needle, table)
        for needle in (*texts, *hashes)
        for table, content in tables.items()
        if any(spelling in content for spelling in spelled(needle))
    }
    audit = {each for each in in_tables if each[1].startswith("afdp_metadata.audit_row")}
    assert {needle for needle, _ in audit} == {SUBJECT.encode()}  # so it is seen where it is
    assert in_tables == audit


def spelled(needle: bytes) -> list[bytes]:
    """As bytes, in hex, and in base64 at each offset that it may have in a longer text."""
    found = [needle, needle.hex().encode(), needle.hex().upper().encode()]
    return found + [b64encode(bytes(shift) + needle)[4 if shift else 0 : -4] for shift in range(3)]


async def dumped(url: str) -> dict[str, bytes]:
    """What a dump of the whole database has of each table, and, by no name, beside tables."""
    process = await asyncio.create_subprocess_exec(
        *(_binaries(_package_root()) / "pg_dump", url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    tables: dict[str, list[bytes]] = {"": []}
    table = ""
    for line in output.splitlines():
        if line.startswith(b"COPY "):
            table = line.split()[1].decode()
        elif line == b"\\.":
            table = ""
        tables.setdefault(table, []).append(line)
    return {name: b"\n".join(lines) for name, lines in tables.items()}


async def test_an_operator_has_all_keys_wrapped_anew_and_that_is_on_record(tampered: Tampered, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    wrapped = "SELECT id::text, wrapped FROM afdp_metadata.data_key UNION ALL SELECT tenant, wrapped FROM"
    before = await tampered.database.fetch(f"{wrapped} afdp_metadata.index_key")

    code, told = await tampered.run(("-m", "afdp.metadata", "rewrap", "--rotate", "--json", "--state", str(state)))

    assert code == 0
    counts = json.loads(told)
    assert counts["refused"] == []
    assert counts["rewrapped"] >= len(before)
    after = await tampered.database.fetch(f"{wrapped} afdp_metadata.index_key")
    assert not {tuple(row) for row in before} & {tuple(row) for row in after}
    assert not state.exists()  # the next run is a new one
    rows = await tampered.database.fetch(
        "SELECT convert_from(row, 'utf8') AS row FROM afdp_metadata.audit_row"
        " WHERE tenant = 'default' ORDER BY sequence"
    )
    told_of = [each for row in rows if (each := json.loads(row["row"])).get("rpc") == "RewrapDataKeys"]
    assert [(each["phase"], each["result"]) for each in told_of] == [("intent", "allow"), ("outcome", "allow")]


async def test_before_anything_is_changed_nothing_is_found(tampered: Tampered) -> None:
    for command in (RECONCILE, AUDIT, FSCK):
        code, found = await tampered.run(command)
        assert code == 0, found


async def test_one_changed_row_of_each_table_is_found_and_named(tampered: Tampered) -> None:
    """Of a log only the first fault is named, so its tables are changed one after the other, and put right again."""
    for table, case in CASES.items():
        if case.command is FSCK:
            await _named_by_fsck(tampered, table, case)
    changed = dict(zip(RECORDS, tampered.receipts, strict=True))
    for name, case in RECORDS.items():
        await tampered.change(f"afdp_metadata.{name}", case.change.replace("{r}", changed[name]))

    answers = {command: await tampered.run(command) for command in (RECONCILE, AUDIT)}

    assert [code for code, _ in answers.values()] == [1, 1], answers
    missing = [
        name
        for name, case in RECORDS.items()
        if case.names.replace("{r}", changed[name]) not in answers[case.command][1]
    ]
    assert missing == [], answers


async def _named_by_fsck(tampered: Tampered, table: str, case: Case) -> None:
    await tampered.database.execute(f"CREATE TEMPORARY TABLE saved AS SELECT * FROM {table} WHERE log_id = 1")
    await tampered.change(table, case.change)
    code, found = await tampered.run(FSCK)
    assert (code, case.names in found) == (1, True), (table, found)
    await tampered.database.execute(f"DELETE FROM {table} WHERE log_id = 1; INSERT INTO {table} SELECT * FROM saved")
    await tampered.database.execute("DROP TABLE saved")
