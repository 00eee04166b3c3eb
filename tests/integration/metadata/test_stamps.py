"""Signatures that wait for the stamp of an authority outside, in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from afdp.errors import InvalidArgument
from afdp.messages import metadata as messages
from afdp.metadata import requests
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.values import Draft, Prepared
from tests.integration.metadata.conftest import new_id

Make = Callable[..., Draft]

LEASE, AT_ONCE = timedelta(hours=1), timedelta()


def wanted(draft: Draft) -> Draft:
    return replace(draft, external_stamp=True)


async def test_a_stamp_is_wanted_from_the_moment_when_its_record_is_there_and_then_stands_in_it(
    own_store: PostgresStore, make_draft: Make
) -> None:
    asked, other = wanted(make_draft()), make_draft()
    assert await own_store.prepare([asked, other]) == [Prepared(), Prepared()]

    [claimed] = await own_store.claim_stamps(16, LEASE)
    assert (claimed.receipt_id, claimed.statement, claimed.signature) == (
        asked.receipt_id,
        asked.statement,
        asked.signature,
    )
    assert (claimed.key_id, claimed.attempts) == (asked.key_id, 1)
    backlog = await own_store.stamp_backlog()
    assert (backlog.waiting, backlog.oldest) == (1, asked.notarized_at)

    stamp = os.urandom(3000)
    await own_store.keep_stamp(asked.receipt_id, stamp)
    record = await own_store.get_record(asked.submitter.tenant, asked.receipt_id)
    assert record is not None
    assert record.external_timestamp == stamp
    assert record.draft == replace(asked, external_stamp=False)
    assert (await own_store.stamp_backlog()).waiting == 0


async def test_who_has_taken_one_has_it_alone_until_the_lease_is_over_or_it_is_given_back(
    own_store: PostgresStore, make_draft: Make
) -> None:
    drafts = [wanted(make_draft()) for _ in range(3)]
    await own_store.prepare(drafts)

    mine = await own_store.claim_stamps(2, LEASE)
    theirs = await own_store.claim_stamps(16, AT_ONCE)
    again = await own_store.claim_stamps(16, LEASE)
    assert len(mine) == 2
    assert {each.receipt_id for each in [*mine, *theirs]} == {each.receipt_id for each in drafts}
    assert [(each.receipt_id, each.attempts) for each in again] == [(theirs[0].receipt_id, 2)]

    await own_store.postpone_stamps([mine[0].receipt_id], AT_ONCE)
    await own_store.postpone_stamps([mine[1].receipt_id], LEASE)
    assert [each.receipt_id for each in await own_store.claim_stamps(16, LEASE)] == [mine[0].receipt_id]


async def test_the_first_stamp_stays_and_what_nobody_wants_is_not_kept(
    own_store: PostgresStore, make_draft: Make
) -> None:
    asked, other = wanted(make_draft()), make_draft()
    await own_store.prepare([asked, other])

    for receipt_id, stamp in ((asked.receipt_id, b"first"), (asked.receipt_id, b"second"), (other.receipt_id, b"x")):
        await own_store.keep_stamp(receipt_id, stamp)
    await own_store.keep_stamp(new_id(), b"of nothing")

    found = [await own_store.get_record(each.submitter.tenant, each.receipt_id) for each in (asked, other)]
    assert [record.external_timestamp for record in found if record] == [b"first", b""]


async def test_a_retry_and_a_refused_draft_want_no_second_stamp(own_store: PostgresStore, make_draft: Make) -> None:
    asked = wanted(make_draft(key="once"))
    await own_store.prepare([asked])
    await own_store.keep_stamp(asked.receipt_id, b"stamp")

    await own_store.prepare([asked])  # the same draft again, as after an answer that was lost
    await own_store.prepare([wanted(make_draft(key="once", evidence=b"other"))])
    assert (await own_store.stamp_backlog()).waiting == 0


async def test_what_waits_is_counted(
    database: str, settings_of: Callable[..., MetadataSettings], make_draft: Make
) -> None:
    async with open_store(settings_of(database, pending_refresh_seconds=0.05)) as store, asyncio.timeout(20):
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        await store.prepare([wanted(replace(make_draft(), notarized_at=hour_ago)) for _ in range(2)])
        while True:
            if REGISTRY.get_sample_value("afdp_records_unstamped") == 2:
                break
            await asyncio.sleep(0.02)

    assert 3600 <= (REGISTRY.get_sample_value("afdp_records_unstamped_oldest_seconds") or 0) < 3700


@pytest.mark.parametrize(
    ("read", "field"),
    [
        (lambda: requests.read_claim_stamps(messages.ClaimStampsRequest(0, 1000)), "limit"),
        (lambda: requests.read_claim_stamps(messages.ClaimStampsRequest(17, 1000)), "limit"),
        (lambda: requests.read_claim_stamps(messages.ClaimStampsRequest(1, 0)), "lease_ms"),
        (lambda: requests.read_keep_stamp(messages.KeepStampRequest("nonsense", b"x")), "receipt_id"),
        (lambda: requests.read_keep_stamp(messages.KeepStampRequest(str(new_id()), b"")), "timestamp"),
        (lambda: requests.read_keep_stamp(messages.KeepStampRequest(str(new_id()), bytes(131_073))), "timestamp"),
        (lambda: requests.read_postpone_stamps(messages.PostponeStampsRequest([], 0)), "receipt_ids"),
        (lambda: requests.read_postpone_stamps(messages.PostponeStampsRequest(["x"], 0)), "receipt_ids[0]"),
        (lambda: requests.read_postpone_stamps(messages.PostponeStampsRequest([str(new_id())], 2**32 - 1)), "wait_ms"),
    ],
)
def test_a_request_that_is_wrong_names_the_field(read: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read()
    assert [each.field for each in refused.value.fields] == [field]
