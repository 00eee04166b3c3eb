"""The self-audit: what is flipped at rest is found, stops writing everywhere, is named, and never served as valid."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import REGISTRY

from afdp.errors import DataLoss, Unavailable
from afdp.transparency.fsck import check_store
from afdp.transparency.http import serving_reads
from afdp.transparency.postgres_audit import PostgresAuditBook
from tests.log_rules import rule

SIZE = 65_536 + 300
SOON = {"log_audit_interval_seconds": 0.02, "log_audit_bundles": 20}


def flip(table: str, column: str, where: str) -> str:
    """Flips a bit; the same once more flips it back."""
    return f"UPDATE {table} SET {column} = set_bit({column}, 5, 1 - get_bit({column}, 5)) WHERE {where}"


def flip_text(table: str) -> str:
    return (
        f"UPDATE {table} SET note = translate(left(note, 60), 'AaBbCcDd', 'aAbBcCdD') || substr(note, 61)"
        " WHERE log_id = 1"
    )


# What is flipped, how the place is named, and a file of the read path that must not be served then.
DAMAGES = [
    (flip("entry", "body", "leaf_index = 4400"), "entry 4400 ", "tile/entries/017"),
    (flip("entry", "leaf_hash", "leaf_index = 777"), "entry 777 ", "tile/0/003"),
    (flip("entry", "leaf_hash", f"leaf_index = {SIZE - 1}"), f"entry {SIZE - 1} ", "tile/0/257.p/44"),
    (flip("node", "hash", "level = 1 AND node_index = 17"), "level 1 and index 17 .*4352 to 4607", "tile/0/017"),
    (flip("node", "hash", "level = 2"), "level 2 and index 0 .*0 to 65535", "tile/1/000"),
    (flip("checkpoint", "root", "log_id = 1"), f"checkpoint of size {SIZE}", "checkpoint"),
    (flip_text("checkpoint"), f"checkpoint of size {SIZE}", "checkpoint"),
    (flip("tree", "frontier", "log_id = 1"), "right edge", None),
    (flip("cosigned_checkpoint", "root", "log_id = 1"), f"checkpoint of size {SIZE}", None),
    (flip_text("cosigned_checkpoint"), f"checkpoint of size {SIZE}", None),
]


@pytest.fixture
async def filled(replica, settings) -> AsyncIterator[str]:
    """A log of three tile levels, and the URL of a replica that serves it and does not audit."""
    async with replica() as one, serving_reads(one.logs, settings()) as port:
        for start in range(0, SIZE, 4096):
            await one.log.append([b"entry %d" % each for each in range(start, min(start + 4096, SIZE))])
        await one.store.keep_cosigned(await one.log.checkpoint())
        yield f"http://127.0.0.1:{port}"


async def fault_of(log) -> str:
    """What keeps appends from succeeding, once something does."""
    async with asyncio.timeout(30):
        while True:
            try:
                await log.check()
            except Unavailable:
                pass
            except DataLoss as error:
                return error.message
            await asyncio.sleep(0.02)


@rule(4)
async def test_a_flipped_bit_anywhere_stops_writing_names_the_place_and_is_never_served(replica, sql, filled) -> None:
    async with httpx.AsyncClient() as client:
        for damage, place, file in DAMAGES:
            async with replica(**SOON) as one:
                await one.log.append([b"entry 0"])  # it is there: nothing grows
                assert await sql.execute(damage) == "UPDATE 1"
                assert re.search(place, await fault_of(one.log)), damage
                with pytest.raises(DataLoss, match=place):
                    await one.log.append([b"another"])
            if file:
                answer = await client.get(f"{filled}/{file}")
                assert (answer.status_code, "does not hold" in answer.text) == (500, True), file
            assert (await client.get(f"{filled}/tile/entries/100")).status_code == 200
            await sql.execute(damage)
            await sql.execute("DELETE FROM audit")

        async with replica(**SOON) as one:
            await sql.execute("DELETE FROM entry WHERE leaf_index = 99")
            assert "entry 99 is missing" in await fault_of(one.log)
            assert (await client.get(f"{filled}/tile/entries/000")).status_code == 500

    assert await sql.fetchval("SELECT size FROM tree") == SIZE


async def test_what_one_replica_has_found_stops_all_until_the_log_was_repaired_and_they_start_anew(
    replica, sql
) -> None:
    damage = flip("entry", "body", "leaf_index = 5")
    async with replica(**SOON) as one, replica(log_audit_interval_seconds=0.05, log_audit_bundles=1) as other:
        await one.log.append([b"%d" % each for each in range(600)])
        await sql.execute(damage)
        faults = [await fault_of(each.log) for each in (one, other)]
    assert all("entry 5 " in each for each in faults)

    await sql.execute(damage)
    async with replica() as anew:
        with pytest.raises(DataLoss, match=r"entry 5 .* fsck has found it whole"):
            await anew.log.append([b"more"])
        assert (await anew.log.checkpoint()).size == 600
        assert (await check_store(anew.store)).fault is None
        assert await PostgresAuditBook(anew.store).forget_fault()
    async with replica(**SOON) as repaired:
        checkpoint, _ = await repaired.log.append([b"more"])

    assert checkpoint.size == 601


async def test_what_was_found_while_the_database_was_away_stops_the_others_once_it_is_back(
    replica, sql, monkeypatch, eventually
) -> None:
    refused = 0
    keep = PostgresAuditBook.keep_fault

    async def at_first_away(book: PostgresAuditBook, fault: str) -> None:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise Unavailable("the database is away")
        await keep(book, fault)

    monkeypatch.setattr(PostgresAuditBook, "keep_fault", at_first_away)
    async with replica(**SOON) as one:
        await one.log.append([b"%d" % each for each in range(600)])
        await sql.execute(flip("entry", "body", "leaf_index = 5"))
        assert "entry 5 " in await fault_of(one.log)

        async def is_kept() -> bool:
            return bool(await PostgresAuditBook(one.store).fault())

        await eventually(is_kept)
    assert refused == 2
    async with replica() as other:
        assert "entry 5 " in await fault_of(other.log)


async def test_the_walk_comes_through_the_whole_log_and_begins_anew_and_replicas_share_it(
    replica, sql, eventually
) -> None:
    def told(name: str) -> float:
        return REGISTRY.get_sample_value(f"afdp_log_audit_{name}", {"log": "notary.localhost"}) or 0.0

    async def rounds(least: int) -> None:
        async def come() -> bool:
            return (await sql.fetchval("SELECT max(rounds) FROM audit") or 0) >= least

        await eventually(come)

    how = {"log_audit_interval_seconds": 0.01, "log_audit_bundles": 3}
    failures, entries = told("failures_total"), told("entries_total")
    async with replica(**how) as one, replica(**how):
        await one.log.append([b"%d" % each for each in range(4000)])
        await rounds(2)
        await one.log.append([b"grown %d" % each for each in range(500)])
        before = await sql.fetchval("SELECT rounds FROM audit")
        await rounds(before + 2)

    assert await sql.fetchval("SELECT fault FROM audit") == ""
    assert told("failures_total") == failures
    assert told("entries_total") - entries >= 4 * 4000
    assert told("rounds") >= 3
    assert 0 < told("position") <= 4500


async def test_a_signer_that_is_away_holds_up_neither_the_audit_nor_what_is_read(
    replica, signer, sql, eventually
) -> None:
    async with replica(**SOON) as one:
        await one.log.append([b"a", b"b"])
        await signer.stop()
        await sql.execute(flip("entry", "body", "leaf_index = 1"))

        async def found() -> bool:
            return "entry 1 " in (await sql.fetchval("SELECT fault FROM audit") or "")

        await eventually(found)
        assert (await one.log.checkpoint()).size == 2
