"""Page tokens: good for the query they were made for, and for nothing else."""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdp.errors import InvalidArgument
from afdp.messages.metadata import WorkflowState
from afdp.metadata import pages
from afdp.metadata.pages import PageToken
from afdp.metadata.values import Position, Search, WorkflowQuery

KEY = bytes(range(32))
QUERY = Search("acme", event_type="ai.model.trained")
TOKEN = PageToken(Position(datetime(2026, 11, 24, 4, 9, 28, 123456, tzinfo=UTC), UUID(int=7)), 41)


def encode(token: PageToken, query: Search | WorkflowQuery, key: bytes = KEY) -> str:
    return pages.encode(token, query, key)


def decode(text: str, query: Search | WorkflowQuery, key: bytes = KEY) -> PageToken | None:
    return pages.decode(text, query, key)


@given(
    time=st.datetimes(timezones=st.just(UTC)),
    identifier=st.uuids(),
    total=st.integers(min_value=0, max_value=2**64 - 1),
)
def test_a_token_comes_back_as_it_was(time: datetime, identifier: UUID, total: int) -> None:
    token = PageToken(Position(time, identifier), total)

    assert decode(encode(token, QUERY), QUERY) == token


def test_the_empty_token_is_that_of_the_first_page() -> None:
    assert decode("", QUERY) is None


@pytest.mark.parametrize(
    "other",
    [
        Search("acme"),
        Search("other", event_type="ai.model.trained"),
        Search("acme", event_type="ai.model.retired"),
        Search("acme", actor_id="ai.model.trained"),
        Search("acme", event_type="ai.model.trained", start_time=datetime(2026, 1, 1, tzinfo=UTC)),
        WorkflowQuery("acme"),
        WorkflowQuery("acme", WorkflowState.RUNNING),
    ],
)
def test_a_token_of_another_query_is_refused(other: Search | WorkflowQuery) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode(encode(TOKEN, QUERY), other)

    assert [violation.field for violation in refused.value.fields] == ["page_token"]


def test_the_same_moment_in_another_time_zone_is_the_same_query() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    elsewhere = noon.astimezone(timezone(timedelta(hours=5)))

    assert decode(encode(TOKEN, Search("acme", start_time=noon)), Search("acme", start_time=elsewhere)) == TOKEN


def test_a_token_with_any_character_changed_is_refused() -> None:
    text = encode(TOKEN, QUERY)
    for index, character in enumerate(text):
        # The last character's unused bits do not count: change its used ones.
        damaged = text[:index] + ("A" if character > "Q" else "z") + text[index + 1 :]
        with pytest.raises(InvalidArgument):
            decode(damaged, QUERY)


@given(st.text(min_size=1, max_size=200))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        decode(text, QUERY)


@pytest.mark.parametrize("tail", ["A", "=", "\n", " ", "é"])
def test_a_token_with_a_tail_is_refused(tail: str) -> None:
    with pytest.raises(InvalidArgument):
        decode(encode(TOKEN, QUERY) + tail, QUERY)


def test_a_token_tells_nothing_of_the_record_that_it_begins_after() -> None:
    one, other = (b64decode(encode(TOKEN, QUERY) + "==", b"-_") for _ in range(2))

    assert one[1:] != other[1:], "two tokens of one place are not seen to be of one place"
    assert TOKEN.position.id.bytes not in one
    assert not set(one[13:37]) <= {0}, "it has a nonce, and then nothing that can be read"


def test_a_token_under_another_key_is_refused() -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode(encode(TOKEN, QUERY, bytes(32)), QUERY)

    assert [violation.field for violation in refused.value.fields] == ["page_token"]
