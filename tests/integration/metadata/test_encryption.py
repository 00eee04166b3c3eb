"""Records at rest: nothing of them can be read in the database, and only what was sealed is ever read from it."""

from __future__ import annotations

import asyncio
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from afdp.embedded.postgres import _binaries, _package_root
from afdp.errors import DataLoss, FailedPrecondition, Unavailable
from afdp.metadata import answers
from afdp.metadata.config import MetadataSettings
from afdp.metadata.erasing import Erasing
from afdp.metadata.key_check import KeyCheck
from afdp.metadata.opening import sealed
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.record_keys import Bounds, RecordKeys, Scope, raised
from afdp.metadata.sealed_store import SealedStore
from afdp.metadata.values import Asked, Batch, Draft, Idempotency, KeyTaken, Prepared, Record, Search
from tests.local_data_keys import LocalHolder, local_holder

Make = Callable[..., Draft]
Open = Callable[..., AbstractAsyncContextManager[SealedStore]]

ACTOR, SUBJECT, SALT = "alice.planted@example.org", "bob.planted@example.org", "c2FsdCB0aGF0IHdhcyBwbGFudGVk"
EVIDENCE = b'{"metadata":{"diagnosis":"planted-diagnosis","patient_id":"P-planted-4711"}}'
ARTIFACT = sha256(b"planted artifact").digest()
PLANTED = [ACTOR.encode(), SUBJECT.encode(), SALT.encode(), b"planted-diagnosis", b"P-planted-4711", ARTIFACT]


@pytest_asyncio.fixture(loop_scope="session")
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser, who is above row security."""
    opened = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata,public"})
    yield opened
    await opened.close()


@pytest.fixture
def planted(make_draft: Make) -> Draft:
    """A draft with values that are looked for wherever they could be."""
    draft = make_draft(evidence=EVIDENCE, actor_id=ACTOR, subject=SUBJECT, artifacts=(ARTIFACT,), key="k")
    return replace(draft, statement=b'{"salt":"%s","evidence":%s}' % (SALT.encode(), EVIDENCE))


async def test_nothing_personal_is_in_the_database_s_files_its_wal_or_a_dump(
    open_sealed: Open, database: str, planted: Draft, connection: asyncpg.Connection
) -> None:
    needles = _forms([*PLANTED, planted.evidence_hash, sha256(ACTOR.encode()).digest()])
    known = f"known-{uuid.uuid4()}".encode()
    async with open_sealed(database, searchable_metadata="patient_id") as store:
        assert await store.prepare([planted]) == [Prepared()]
        batch_id = uuid.UUID(int=planted.receipt_id.int ^ 1)
        await store.create_batch(Batch(batch_id, planted.submitter, None, 1, planted.notarized_at))
        query = Search(planted.submitter.tenant, metadata=(("patient_id", "P-planted-4711"),))
        assert [each.receipt_id for each in await store.search(query, None, 10)] == [planted.receipt_id]
    await connection.execute("CREATE TABLE public.control (known text)")
    await connection.execute("INSERT INTO public.control VALUES ($1)", known.decode())
    await connection.execute("CHECKPOINT")

    cluster = Path(await connection.fetchval("SHOW data_directory"))
    in_files = await asyncio.to_thread(_found, cluster, [known, *needles])
    dump = await _dumped(database)

    assert in_files == {known}  # the search finds what is there
    assert known in dump
    assert [needle for needle in needles if needle in dump] == []


async def test_another_process_reads_and_finds_what_one_has_sealed(
    open_sealed: Open, database: str, planted: Draft
) -> None:
    tenant = planted.submitter.tenant
    async with open_sealed(database) as one, open_sealed(database) as another:
        await one.prepare([planted])
        record = await another.get_record(tenant, planted.receipt_id)
        assert record is not None
        assert record.draft == replace(planted, idempotency=None)

        for query in (
            Search(tenant, evidence_hash=planted.evidence_hash),
            Search(tenant, artifact_hash=ARTIFACT),
            Search(tenant, actor_id=ACTOR),
            Search(tenant, submitter=SUBJECT),
        ):
            [summary] = await another.search(query, None, 10)
            assert (summary.receipt_id, summary.terms) == (planted.receipt_id, planted.terms)
        assert await another.search(Search(tenant, actor_id="nobody"), None, 10) == []
        [again] = await another.prepare([replace(planted, receipt_id=uuid.UUID(int=planted.receipt_id.int ^ 2))])
        assert isinstance(again, Record)  # under the same idempotency key
        assert again.draft.evidence == planted.evidence
        asked = Asked(planted.submitter, planted.idempotency, planted.evidence, planted.evidence_hash, dedupe=True)
        for each in (asked, replace(asked, idempotency=None)):
            answer = await another.find_answer(each)
            assert isinstance(answer, Record)
            assert answer.draft.evidence == planted.evidence
        other = await another.find_answer(replace(asked, idempotency=Idempotency("k", bytes(32))))
        assert isinstance(other, KeyTaken)
        assert other.before is not None
        assert other.before.draft.evidence == planted.evidence


DAMAGES = {
    "evidence of another record": "UPDATE record_content c SET evidence = o.evidence FROM record_content o "
    "WHERE c.receipt_id = $1 AND o.receipt_id = $2",
    "its statement as its evidence": "UPDATE record_content SET evidence = statement "
    "WHERE receipt_id = $1 AND receipt_id <> $2",
    "head of another record": "UPDATE record r SET head = o.head FROM record o "
    "WHERE r.receipt_id = $1 AND o.receipt_id = $2",
    "a flipped bit": "UPDATE record_content SET statement = set_byte(statement, 40, get_byte(statement, 40) # 1) "
    "WHERE receipt_id = $1 AND receipt_id <> $2",
    "nothing where something was": "UPDATE record_content SET evidence = '' WHERE receipt_id = $1 AND receipt_id <> $2",
    "the data key of another record": "UPDATE record r SET data_key = o.data_key FROM record o "
    "WHERE r.receipt_id = $1 AND o.receipt_id = $2",
    "a data key of another tenant": "UPDATE data_key k SET tenant = 'foreign' FROM record r "
    "WHERE k.id = r.data_key AND r.receipt_id = $1 AND r.receipt_id <> $2",
    "a data key with a flipped bit": "UPDATE data_key k SET wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1) "
    "FROM record r WHERE k.id = r.data_key AND r.receipt_id = $1 AND r.receipt_id <> $2",
    "the wrapped key of another subject": "UPDATE data_key k SET wrapped = o.wrapped "
    "FROM data_key o, record r, record q "
    "WHERE k.id = r.data_key AND r.receipt_id = $1 AND o.id = q.data_key AND q.receipt_id = $2",
    "no data key": "DELETE FROM data_key k USING record r "
    "WHERE k.id = r.data_key AND r.receipt_id = $1 AND r.receipt_id <> $2",
}


async def test_what_was_altered_is_an_error_and_never_other_data(
    open_sealed: Open, database: str, connection: asyncpg.Connection, make_draft: Make
) -> None:
    victims = {name: make_draft(actor_id=f"victim of {name}") for name in DAMAGES}
    other = make_draft(actor_id="other")
    async with open_sealed(database) as store:
        assert await store.prepare([*victims.values(), other]) == [Prepared()] * (len(victims) + 1)
    await connection.execute("SET session_replication_role = replica")  # as a superuser can: without triggers
    for name, damage in DAMAGES.items():
        status = await connection.execute(damage, victims[name].receipt_id, other.receipt_id)
        assert status in ("UPDATE 1", "DELETE 1"), name

    async with open_sealed(database) as store:
        for victim in victims.values():
            with pytest.raises(DataLoss, match="does not open"):
                await store.get_record(victim.submitter.tenant, victim.receipt_id)
        intact = await store.get_record(other.submitter.tenant, other.receipt_id)
        assert intact is not None
        assert intact.draft.evidence == other.evidence
        kept = {each.receipt_id: each.evidence_fits for each in await store.kept(100, None)}  # the reconciler goes on
        assert set(kept) == {other.receipt_id, *(each.receipt_id for each in victims.values())}
        assert kept[other.receipt_id]


async def test_without_the_signer_known_keys_go_on_and_others_are_refused_at_once(
    open_sealed: Open, database: str, holder: LocalHolder, make_draft: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = make_draft(actor_id="known"), make_draft(actor_id="unknown")
    tenant = known.submitter.tenant
    async with open_sealed(database) as store, open_sealed(database) as fresh:
        assert await store.prepare([known]) == [Prepared()]
        monkeypatch.setattr(holder, "away", True)

        again, refused = await store.prepare([make_draft(actor_id="known"), unknown])

        assert again == Prepared()
        assert isinstance(refused, Unavailable)
        assert await store.get_record(tenant, known.receipt_id) is not None
        assert await store.get_record(tenant, unknown.receipt_id) is None
        with pytest.raises(Unavailable):
            await fresh.get_record(tenant, known.receipt_id)
        [all_refused] = await fresh.prepare([make_draft(actor_id="known")])
        assert isinstance(all_refused, Unavailable)

        monkeypatch.setattr(holder, "away", False)
        assert await fresh.get_record(tenant, known.receipt_id) is not None


async def test_a_key_that_is_missing_at_the_signer_is_named_and_not_taken_for_one_that_was_destroyed(
    database: str, settings_of: Callable[..., MetadataSettings], make_draft: Make, tmp_path: Path
) -> None:
    settings = settings_of(database, encryption="on")
    lost = make_draft(actor_id="lost")
    tenant = lost.submitter.tenant

    def files() -> set[Path]:
        return {path for path in (tmp_path / "data-keys" / "keys").rglob("*") if path.is_file()}

    async with local_holder(tmp_path) as holder, open_store(settings) as store:
        before = sealed(settings, store, holder)
        await before.prepare([make_draft(actor_id="first")])
        others = files()
        assert await before.prepare([lost]) == [Prepared()]
        [file] = files() - others
        kept = file.rename(tmp_path / "kept")
        after = sealed(settings, store, holder)

        with pytest.raises(DataLoss, match="has to be restored") as refused:
            await after.get_record(tenant, lost.receipt_id)
        assert str(tmp_path) not in str(refused.value)
        [again] = await after.prepare([make_draft(actor_id="lost")])
        assert isinstance(again, DataLoss)
        assert files() == others  # none is made in its place
        [stray], _ = await KeyCheck(holder, store.shelf).data_keys([], 100)
        assert "missing at the signer" in stray.why
        with pytest.raises(FailedPrecondition, match="not destroyed"):
            await Erasing(store.erasures, after.keys).renew(tenant, lost.receipt_id)

        file.write_text("{}")
        with pytest.raises(DataLoss, match="does not open") as refused:
            await after.get_record(tenant, lost.receipt_id)
        assert str(tmp_path) not in str(refused.value)
        kept.rename(file)
        assert await after.get_record(tenant, lost.receipt_id) is not None


async def test_one_call_makes_the_keys_of_all_new_subjects_and_none_for_known_ones(
    open_sealed: Open, database: str, holder: LocalHolder, make_draft: Make
) -> None:
    async with open_sealed(database) as store:
        await store.prepare([make_draft(actor_id="first")])  # the tenant's index key, too
        holder.calls.clear()
        await store.prepare([make_draft(actor_id=f"subject {n}") for n in range(40)])
        assert holder.calls == ["generate"]
        await store.prepare([make_draft(actor_id=f"subject {n}") for n in range(40)])
        assert holder.calls == ["generate"]


async def test_another_process_seals_with_the_keys_of_before_while_they_are_young(
    database: str, holder: LocalHolder, settings_of: Callable[..., MetadataSettings], make_draft: Make
) -> None:
    settings = settings_of(database, encryption="on")
    subjects = [f"subject {n}" for n in range(3)]

    async def sealed_by_a_new_process(count: str = "SELECT count(*) FROM data_key") -> int:
        async with open_store(settings) as store:
            drafts = [make_draft(actor_id=subject) for subject in subjects]
            assert await sealed(settings, store, holder).prepare(drafts) == [Prepared()] * 3
            return int(await store._database.run(lambda c: c.fetchval(count)))

    assert [await sealed_by_a_new_process() for _ in range(3)] == [3, 3, 3]
    owner = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    await owner.execute("UPDATE data_key SET made_at = made_at - interval '25 hours'")
    await owner.close()
    assert await sealed_by_a_new_process() == 6


async def test_a_key_that_has_sealed_enough_is_followed_by_another(
    database: str, holder: LocalHolder, settings_of: Callable[..., MetadataSettings]
) -> None:
    async with open_store(settings_of(database, encryption="on")) as store:
        keys = RecordKeys(holder, store.shelf, Bounds(100, 3600.0, uses=2))
        scope = Scope("tenant", b"0123456789abcdef")
        used = [raised((await keys.sealing([scope]))[scope]).id for _ in range(5)]
    assert [used.index(each) for each in used] == [0, 0, 2, 2, 4]


@pytest.mark.parametrize("first", ["on", "off"])
async def test_records_are_never_of_both_kinds(
    database: str, holder: LocalHolder, settings_of: Callable[..., MetadataSettings], make_draft: Make, first: str
) -> None:
    async def opened(encryption: str) -> AbstractAsyncContextManager[PostgresStore]:
        return open_store(settings_of(database, encryption=encryption))

    draft, other = make_draft(key="k"), "off" if first == "on" else "on"
    async with await opened(first) as store:
        kept = sealed(settings_of(database, encryption="on"), store, holder) if first == "on" else store
        await store.check()
        assert await kept.prepare([draft]) == [Prepared()]
        await store.check()
    async with await opened(other) as store:
        for refused in (store.check(), store.prepare([make_draft()])):
            with pytest.raises(FailedPrecondition, match="AFDP_ENCRYPTION"):
                await refused
        record = await store.get_record(draft.submitter.tenant, draft.receipt_id)
        assert record is not None
        if first == "on":  # nothing sealed is ever told as if it were plain
            with pytest.raises(FailedPrecondition, match="sealed"):
                answers.to_record(record)


async def test_what_the_reconciler_reads_of_sealed_records_is_whole_and_in_order(
    open_sealed: Open, database: str, make_draft: Make, log_drafts: Callable[..., Any]
) -> None:
    async with open_sealed(database) as store:
        drafts = [make_draft(actor_id=f"subject {n}", artifacts=(ARTIFACT, bytes(32)), key=f"k{n}") for n in range(3)]
        await log_drafts(store, drafts)
        kept = await store.kept(10, None)
        assert [(each.receipt_id, each.evidence_fits, each.faults) for each in kept] == [
            (draft.receipt_id, True, ()) for draft in drafts
        ]
        told = [each.record.draft for each in kept if each.record is not None]
        assert [(each.terms, each.submitter, each.evidence_hash, each.statement, each.evidence) for each in told] == [
            (draft.terms, draft.submitter, draft.evidence_hash, draft.statement, b"") for draft in drafts
        ]


BLIND = {
    "actor_id = 'x'": "record",
    "evidence_hash = sha256('x')": "record",
    "artifact_hashes = sha256('x') || sha256('y')": "record",
    "subject = 'x'": "record_content",
    "issuer = 'x'": "record_content",
}


async def test_a_blind_index_that_is_another_s_is_shown_to_the_reconciler(
    open_sealed: Open, database: str, connection: asyncpg.Connection, make_draft: Make, log_drafts: Callable[..., Any]
) -> None:
    drafts = {change: make_draft(artifacts=(ARTIFACT, bytes(32))) for change in BLIND}
    async with open_sealed(database) as store:
        await log_drafts(store, list(drafts.values()))
        await connection.execute("SET session_replication_role = replica")
        for change, table in BLIND.items():
            await connection.execute(f"UPDATE {table} SET {change} WHERE receipt_id = $1", drafts[change].receipt_id)
        kept = {each.receipt_id: each for each in await store.kept(100, None)}
        for change, draft in drafts.items():
            record = kept[draft.receipt_id].record
            assert record is not None
            told = record.draft.submitter, record.draft.terms, record.draft.evidence_hash
            assert told != (draft.submitter, draft.terms, draft.evidence_hash), change


def _forms(values: Iterable[bytes]) -> list[bytes]:
    """Values as bytes, in hex and in base64, at each of the three offsets that they may have in a longer text."""
    found = []
    for value in values:
        found += [value, value.hex().encode(), value.hex().upper().encode()]
        found += [b64encode(bytes(shift) + value)[4 if shift else 0 : -4] for shift in range(3)]
    return found


def _found(folder: Path, needles: list[bytes]) -> set[bytes]:
    """Which of these stand in the files of a folder, the write-ahead log included."""
    contents = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return {needle for content in contents for needle in needles if needle in content}


async def _dumped(url: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        _binaries(_package_root()) / "pg_dump", url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output
