"""Logs that were opened or frozen past the notary are on record, once, whoever sees it."""

from __future__ import annotations

import json

import pytest

from afdp.errors import Unavailable
from afdp.messages.transparency import Log, LogState
from afdp.notary.log_events import LogEvents


class Unasked:
    """The logs are given by the tests."""

    async def logs(self) -> list[Log]:
        return []


def test_what_happened_to_a_log_is_told_once_and_in_the_same_row_by_all_who_see_it() -> None:
    first, second = Log(origin="first", state=LogState.OPEN), Log(origin="second", state=LogState.STANDBY)
    rows: list[bytes] = []
    others: list[bytes] = []
    events, elsewhere = (LogEvents(Unasked(), each.append, "default") for each in (rows, others))

    events.look([first])
    events.look([first, second])
    events.look([Log(origin="first", state=LogState.FROZEN), second])
    elsewhere.look([Log(origin="first", state=LogState.FROZEN), second])

    told = [json.loads(row) for row in rows]
    assert [(each["rpc"], each["resource"]) for each in told] == [
        ("OpenLog", "log:first"),
        ("OpenLog", "log:second"),
        ("FreezeLog", "log:first"),
    ]
    assert {each["id"] for each in told} == {json.loads(row)["id"] for row in others}
    assert len({each["id"] for each in told}) == 3


def test_what_the_trail_did_not_take_is_told_again() -> None:
    class Full:
        def __init__(self) -> None:
            self.rows: list[bytes] = []
            self.room = False

        def put(self, row: bytes) -> None:
            if not self.room:
                raise Unavailable("the audit trail takes no events")
            self.rows.append(row)

    full = Full()
    events = LogEvents(Unasked(), full.put, "default")
    with pytest.raises(Unavailable):
        events.look([Log(origin="first", state=LogState.OPEN)])
    full.room = True
    events.look([Log(origin="first", state=LogState.OPEN)])
    assert len(full.rows) == 1
