"""A subject is erased: nobody reads its records from then on, through any service; what keeps them comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from afdp.errors import Aborted, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from afdp.metadata.erasing import Erasing, Waiting, Wish
from afdp.metadata.opening import sealed
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.record_keys import Scope
from afdp.metadata.retention import Hold, Period, Release
from afdp.metadata.sealed_store import SealedStore
from afdp.metadata.values import Draft, Prepared, Search
from tests.integration.metadata.conftest import new_id, settings_for
from tests.integration.metadata.test_retention import leaf, root_of
from tests.local_data_keys import LocalHolder

Make = Callable[..., Draft]
ALICE, ACT = "service:alice", new_id()


@dataclass(frozen=True)
class Replica:
    """One of several services on a database."""

    store: PostgresStore
    kept: SealedStore
    erasing: Erasing


Open = Callable[[], AbstractAsyncContextManager[Replica]]


@pytest.fixture(scope="module")
def replica(module_database: str, holder: LocalHolder) -> Open:
    """`async with replica()`: a service on the database of these tests, with a memory of its own."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Replica]:
        settings = settings_for(module_database, encryption="on")
        async with open_store(settings) as store:
            kept = sealed(settings, store, holder)
            yield Replica(store, kept, Erasing(store.erasures, kept.keys))

    return opened


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one(replica: Open) -> AsyncIterator[Replica]:
    async with replica() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two(replica: Open, one: Replica) -> AsyncIterator[Replica]:
    async with replica() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def superuser(module_database: str, one: Replica) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(module_database, server_settings={"search_path": "afdp_metadata"})
    yield connection
    await connection.close()


def wish(tenant: str, subject: str = ALICE) -> Wish:
    return Wish(tenant, subject, b"", "https://id.example.com admin", "as asked")


async def asked(service: Replica, tenant: str, subject: str = ALICE) -> Scope:
    return (await service.erasing.request(wish(tenant, subject))).scope


async def test_what_was_read_a_moment_ago_is_read_through_no_service_any_more(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    artifact = sha256(b"model").digest()
    hers = [make_draft(actor_id="alice", artifacts=(artifact,)) for _ in range(3)]
    his = make_draft(actor_id="bob")
    elsewhere = make_draft(actor_id="alice", tenant=f"{tenant}-other")
    await log_drafts(one.kept, [*hers, his, elsewhere])
    for service in (one, two):  # each has the keys in memory
        found = await service.kept.get_record(tenant, hers[0].receipt_id)
        assert found is not None
        assert found.draft.evidence == hers[0].evidence

    erased = await one.erasing.erase(await asked(one, tenant), ACT)

    assert (erased.records, erased.first_id, erased.last_id) == (3, hers[0].receipt_id, hers[2].receipt_id)
    assert erased.root == root_of([leaf(each) for each in hers])
    for service in (one, two):
        for draft in hers:
            record = await service.kept.get_record(tenant, draft.receipt_id)
            assert record is not None
            assert record.erased is not None
            assert record.erased.at == erased.erased_at
            assert (record.draft.evidence, record.draft.statement, record.draft.terms.actor_id) == (b"", b"", "")
            assert record.log is not None  # what proves it stays
            assert record.draft.leaf_hash == draft.leaf_hash
        for draft, whose in ((his, tenant), (elsewhere, f"{tenant}-other")):
            other = await service.kept.get_record(whose, draft.receipt_id)
            assert other is not None
            assert other.draft.evidence == draft.evidence
        listed = await service.kept.search(Search(tenant, artifact_hash=artifact), None, 10)
        assert [each.erased is not None for each in listed] == [True] * 3

    # Nothing that opens them is left, and the same question has the same answer.
    assert set(
        await superuser.fetch(
            "SELECT octet_length(wrapped) FROM data_key WHERE subject = $1 AND tenant = $2", erased.subject, tenant
        )
    ) == {(0,)}
    assert await two.erasing.erase(erased.scope, ACT) == erased
    assert await two.erasing.request(wish(tenant)) == erased


async def test_nothing_is_sealed_for_a_subject_that_was_erased(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    await log_drafts(two.kept, [make_draft(actor_id="alice")])  # a key in memory, that would seal
    await one.erasing.erase(await asked(one, tenant), ACT)
    for service in (one, two):
        late, other = await service.kept.prepare([make_draft(actor_id="alice"), make_draft(actor_id="bob")])
        assert isinstance(late, FailedPrecondition)
        assert "erased" in late.message
        assert other == Prepared()


@asynccontextmanager
async def locked(database: str, statement: str, *values: object) -> AsyncIterator[asyncpg.Connection]:
    """What is locked until the block ends, in a transaction that is taken back."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement, *values)
        yield connection
    finally:
        await connection.close()


async def until_somebody_waits(connection: asyncpg.Connection, kind: str) -> None:
    async with asyncio.timeout(60):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = $1", kind):
            pass


async def test_what_is_written_late_is_refused_where_its_subject_was_erased_since_its_key_was_taken(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any, module_database: str
) -> None:
    await log_drafts(two.kept, [make_draft(actor_id="alice")])
    late, his = make_draft(actor_id="alice"), make_draft(actor_id="bob")
    async with asyncio.TaskGroup() as tasks, locked(module_database, "LOCK TABLE record_content IN SHARE MODE") as by:
        sign = tasks.create_task(two.kept.prepare([late, his]))
        await until_somebody_waits(by, "relation")
        erased = await one.erasing.erase(await asked(one, tenant), ACT)

    assert erased.records == 1
    hers, other = await sign
    assert isinstance(hers, FailedPrecondition)
    assert "erased" in hers.message
    assert other == Prepared()
    assert await two.kept.get_record(tenant, late.receipt_id) is None


@pytest.mark.parametrize(
    ("lock", "kind"),
    [
        ("LOCK TABLE record_content IN SHARE MODE", "relation"),
        ("SELECT pg_advisory_xact_lock(hashtextextended('afdp_metadata.erasing.{}', 0))", "advisory"),
    ],
    ids=["before its statement began", "while its statement ran"],
)
async def test_while_a_subject_is_closing_what_is_written_late_is_to_come_again(
    one: Replica,
    two: Replica,
    make_draft: Make,
    tenant: str,
    log_drafts: Any,
    module_database: str,
    lock: str,
    kind: str,
) -> None:
    await log_drafts(two.kept, [make_draft(actor_id="alice")])
    late = make_draft(actor_id="alice")
    async with asyncio.TaskGroup() as tasks, locked(module_database, lock.format(tenant)) as by:
        sign = tasks.create_task(two.kept.prepare([late]))
        await until_somebody_waits(by, kind)
        await one.store.erasures.close(await asked(one, tenant))
    [outcome] = await sign
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after


async def test_what_is_being_written_is_waited_for_and_keeps_its_subject_from_being_erased(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any, module_database: str
) -> None:
    await log_drafts(two.kept, [make_draft(actor_id="alice")])
    late = make_draft(actor_id="alice")
    slots = """
        INSERT INTO tenant_usage (tenant, day, slot, records, bytes)
        SELECT $1, current_date, slot, 0, 0 FROM generate_series(0, 31) AS slot
    """
    async with asyncio.TaskGroup() as tasks, locked(module_database, slots, tenant) as by:
        sign = tasks.create_task(two.kept.prepare([late], usage={}))
        await until_somebody_waits(by, "transactionid")
        erase = tasks.create_task(one.erasing.erase(await asked(one, tenant), ACT))
        await until_somebody_waits(by, "advisory")

    assert await sign == [Prepared()]
    assert (await erase).erased_at is None
    assert (await erase).waiting == Waiting(unfinished=1)
    record = await two.kept.get_record(tenant, late.receipt_id)
    assert record is not None
    assert record.draft.evidence == late.evidence


@pytest.mark.parametrize("after", ["decide", "wipe"])
async def test_what_is_erased_or_will_be_is_not_counted_as_held(
    one: Replica, make_draft: Make, tenant: str, log_drafts: Any, after: str
) -> None:
    hers, his = make_draft(actor_id="alice"), make_draft(actor_id="bob")
    await log_drafts(one.kept, [hers, his])
    scope = await asked(one, tenant)
    if after == "decide":
        assert await one.store.erasures.decide(scope, await one.store.erasures.close(scope)) is None
    else:
        await one.erasing.erase(scope, ACT)
    hold = Hold(new_id(), tenant, "case 9", "a court asks", "counsel", event_type=hers.terms.event_type)
    assert (await one.store.retention.place_hold(hold))[1] == 1


async def test_a_subject_without_records_is_barred_as_well(one: Replica, make_draft: Make, tenant: str) -> None:
    erased = await one.erasing.erase(await asked(one, tenant, "service:nobody"), ACT)
    assert (erased.records, erased.first_id, erased.root) == (0, None, sha256(b"").digest())
    [outcome] = await one.kept.prepare([make_draft(actor_id="nobody")])
    assert isinstance(outcome, FailedPrecondition)


async def test_a_class_or_a_hold_or_what_waits_for_a_log_defers_it_and_says_so(
    one: Replica, make_draft: Make, tenant: str, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=10)
    await one.store.retention.put_classes({"week": Period(days=7), "year": Period(years=1), "always": Period()})
    classed = [
        replace(make_draft(actor_id="alice", notarized_at=long_ago), retention_class=each) for each in ("year", "")
    ]
    await log_drafts(one.kept, classed)
    waits = make_draft(actor_id="alice")
    await one.kept.prepare([waits])
    scope = await asked(one, tenant)

    deferred = await one.erasing.erase(scope, None)
    assert deferred.erased_at is None
    assert deferred.waiting is not None
    until = await superuser.fetchval("SELECT must_stay_until('year', $1)", long_ago)
    assert deferred.waiting == Waiting(("year",), until, False, (), 1)

    await superuser.execute("UPDATE record SET retention_class = '' WHERE tenant = $1", tenant)
    hold = Hold(new_id(), tenant, "case 7", "a court asks", "counsel", event_type=waits.terms.event_type)
    await one.store.retention.place_hold(hold)
    found = await one.erasing.erase(scope, ACT)
    assert found.waiting == Waiting(cases=("case 7",), unfinished=1)
    [late] = await one.kept.prepare([make_draft(actor_id="alice")])
    assert late == Prepared()  # who waits is not barred

    await one.store.retention.release_hold(Release(tenant, hold.hold_id, "counsel", "it is over"))
    await superuser.execute("DELETE FROM pending WHERE tenant = $1", tenant)
    assert (await one.erasing.erase(scope, ACT)).records == 4


async def test_a_hold_that_comes_while_it_is_closing_keeps_the_records(
    one: Replica, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    draft = make_draft(actor_id="alice")
    await log_drafts(one.kept, [draft])

    async def placed(_: float) -> None:
        hold = Hold(new_id(), tenant, "case 8", "a court asks", "counsel", event_type=draft.terms.event_type)
        await one.store.retention.place_hold(hold)

    erasing = Erasing(one.store.erasures, one.kept.keys, placed)
    found = await erasing.erase(await asked(one, tenant), ACT)

    assert found.waiting == Waiting(cases=("case 8",))
    record = await one.kept.get_record(tenant, draft.receipt_id)
    assert record is not None
    assert record.draft.evidence == draft.evidence


class Killed(Exception):
    """As if the process were."""


class Dying:
    """The store of a service that is killed once it has done one thing."""

    def __init__(self, store: Any, after: str) -> None:
        self._store = store
        self._after = after

    def __getattr__(self, name: str) -> Any:
        async def done(*values: object) -> Any:
            if name == "wipe":
                raise Killed  # the key is destroyed
            answer = await getattr(self._store, name)(*values)
            if name == self._after:
                raise Killed
            return answer

        return done


@pytest.mark.parametrize("after", ["defer", "close", "decide", "destroy"])
async def test_who_is_killed_after_any_step_is_replaced_by_anybody(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any, after: str
) -> None:
    draft = make_draft(actor_id="alice")
    await log_drafts(one.kept, [draft])
    scope = await asked(one, tenant)
    dying: Any = Dying(one.store.erasures, after)
    with pytest.raises(Killed):
        await Erasing(dying, one.kept.keys).erase(scope, ACT)

    assert [each.scope for each in await two.erasing.page("", None, 1000, True) if each.tenant == tenant] == [scope]
    erased = await two.erasing.erase(scope, ACT)

    assert erased.records == 1
    record = await one.kept.get_record(tenant, draft.receipt_id)
    assert record is not None
    assert record.erased is not None
    certificate = new_id()
    await two.erasing.certify(scope, certificate)
    await one.erasing.certify(scope, new_id())
    assert (await one.erasing.get(scope)).certificate == certificate
    assert [each for each in await two.erasing.page("", None, 1000, True) if each.tenant == tenant] == []


async def test_who_closed_it_before_another_opened_it_again_must_begin_anew(one: Replica, tenant: str) -> None:
    scope = await asked(one, tenant)
    since = await one.store.erasures.close(scope)
    with pytest.raises(Aborted):
        await one.store.erasures.decide(scope, since - timedelta(seconds=1))


async def test_while_the_signer_is_away_it_stays_decided_and_is_done_later(
    one: Replica, make_draft: Make, tenant: str, log_drafts: Any, holder: LocalHolder
) -> None:
    await log_drafts(one.kept, [make_draft(actor_id="alice")])
    scope = await asked(one, tenant)
    holder.away = True
    try:
        with pytest.raises(Unavailable):
            await one.erasing.erase(scope, ACT)
    finally:
        holder.away = False
    [late] = await one.kept.prepare([make_draft(actor_id="alice")])
    assert isinstance(late, FailedPrecondition)
    assert (await one.erasing.erase(scope, ACT)).records == 1


async def test_a_data_key_that_is_emptied_by_hand_is_damage_and_no_erasure(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    draft = make_draft(actor_id="alice")
    await log_drafts(one.kept, [draft])
    await superuser.execute("UPDATE data_key SET wrapped = '' WHERE tenant = $1 AND subject <> ''", tenant)
    with pytest.raises(DataLoss, match=r"data key .* does not open"):
        await two.kept.get_record(tenant, draft.receipt_id)


async def test_what_a_restored_database_does_not_know_is_known_from_the_key_and_put_on_record_again(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    hers, his = make_draft(actor_id="alice"), make_draft(actor_id="bob")
    await log_drafts(one.kept, [hers, his])
    scope = await asked(one, tenant)
    await superuser.execute("CREATE TEMPORARY TABLE before AS SELECT * FROM data_key")
    first = await one.erasing.erase(scope, ACT)
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute("UPDATE data_key k SET wrapped = b.wrapped FROM before b WHERE b.id = k.id")
    await superuser.execute("DELETE FROM erasure WHERE tenant = $1", tenant)

    record = await two.kept.get_record(tenant, hers.receipt_id)
    assert record is not None
    assert record.erased is not None
    assert record.erased.at is None
    with pytest.raises(FailedPrecondition):
        await two.erasing.renew(tenant, his.receipt_id)
    with pytest.raises(NotFound):
        await two.erasing.renew(tenant, new_id())
    assert (await two.erasing.renew(tenant, hers.receipt_id)).decided_at is not None
    again = await two.erasing.erase(scope, ACT)
    assert (again.records, again.root) == (first.records, first.root)
    assert set(
        await superuser.fetch(
            "SELECT octet_length(wrapped) FROM data_key WHERE subject = $1 AND tenant = $2", scope.subject, tenant
        )
    ) == {(0,)}


async def test_no_role_of_the_service_takes_an_erasure_back(
    one: Replica, make_draft: Make, tenant: str, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    await log_drafts(one.kept, [make_draft(actor_id="alice")])
    await one.erasing.erase(await asked(one, tenant), ACT)
    await superuser.execute("SET ROLE afdp_metadata_writer")
    for statement, refused in (
        ("DELETE FROM erasure", asyncpg.InsufficientPrivilegeError),
        ("UPDATE erasure SET reason = ''", asyncpg.InsufficientPrivilegeError),
        ("UPDATE erasure SET erased_at = NULL", asyncpg.RestrictViolationError),
        ("UPDATE erasure SET records = records + 1", asyncpg.RestrictViolationError),
        ("UPDATE erasure SET decided_at = now()", asyncpg.RestrictViolationError),
    ):
        with pytest.raises(refused):
            await superuser.execute(statement)
    for role in ("afdp_metadata_reader", "afdp_metadata_keeper"):
        await superuser.execute(f"RESET ROLE; SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute("SELECT FROM erasure")


async def test_many_who_erase_at_once_do_it_once(
    one: Replica, two: Replica, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    await log_drafts(one.kept, [make_draft(actor_id="alice") for _ in range(5)])
    scope = await asked(one, tenant)
    answers = await asyncio.gather(*(service.erasing.erase(scope, ACT) for service in (one, two) * 3))
    assert len({each.erased_at for each in answers}) == 1
    assert {each.records for each in answers} == {5}


async def test_where_records_lie_in_plain_nobody_is_said_to_be_erased(one: Replica, tenant: str) -> None:
    erasing = Erasing(one.store.erasures, None)
    with pytest.raises(FailedPrecondition, match="AFDP_ENCRYPTION"):
        await erasing.request(wish(tenant))
    assert await erasing.page(tenant, None, 10) == []
    with pytest.raises(NotFound):
        await erasing.get(Scope(tenant, bytes(16)))


async def test_what_everybody_shares_has_no_subject_and_is_not_erased(one: Replica, tenant: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await one.erasing.request(wish(tenant, "*"))
    assert [each.field for each in refused.value.fields] == ["subject"]
