"""An export goes on for as long as its caller's credential does, however slowly it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from afdp.errors import Unauthenticated
from afdp.formats.statement import Submitter
from afdp.messages import metadata as store
from afdp.messages.notary import ExportFormat
from afdp.notary.access.given import Listed
from afdp.notary.exporting import Exports
from afdp.notary.model import Principal


class Records:
    """One page of three records."""

    async def read_records(
        self, request: store.ReadRecordsRequest, *, timeout: float | None = None
    ) -> store.ReadRecordsResponse:
        return store.ReadRecordsResponse([store.Record(store.Draft(receipt_id=f"r{number}")) for number in range(3)])


class LargeLines:
    """Each fills a chunk."""

    head = b""

    async def line(self, record: store.Record) -> bytes:
        return b"x" * 64 * 1024


class Rules:
    """Lets everybody see everything until the credential has ended."""

    asks_for_labels = False

    def __init__(self) -> None:
        self.ended = False

    def about(self, *_: object) -> None:
        pass

    def may_list(self, _: Principal, many: Sequence[Listed]) -> list[bool]:
        return [True] * len(many)

    def gave(self, *_: object) -> None:
        pass

    def require_unexpired(self, *_: object) -> None:
        if self.ended:
            raise Unauthenticated("the credentials are missing or not valid")


async def test_who_takes_long_over_a_page_is_let_go_with_the_credential() -> None:
    metadata: Any = Records()
    rules: Any = Rules()
    forms: Any = {ExportFormat.NDJSON: LargeLines()}
    caller = Principal("acme", Submitter("", "alice", "none"))
    lines = Exports(metadata, rules, forms, 8).lines(caller, store.SearchRecordsRequest(), ExportFormat.NDJSON, "")

    assert [(await anext(lines)).last_receipt_id for _ in range(2)] == ["", "r0"]
    rules.ended = True

    with pytest.raises(Unauthenticated):
        await anext(lines)
