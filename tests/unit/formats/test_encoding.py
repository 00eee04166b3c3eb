from __future__ import annotations

from base64 import b64encode
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.encoding import b64, from_b64, from_hex


@settings(max_examples=300, deadline=None)
@given(st.text("ABxz09+/=- \n", max_size=9))
def test_only_the_one_spelling_is_read(text: str) -> None:
    with suppress(ValueError):
        assert b64(from_b64(text)) == text


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=50))
def test_bytes_come_back_from_their_spelling(data: bytes) -> None:
    assert b64(data) == b64encode(data).decode()
    assert from_b64(b64(data)) == data
    assert from_hex(data.hex()) == data


@pytest.mark.parametrize(
    "text", ["e30", "e30=\n", " e30=", "e31=", "e30==", "-_8=", "=", "e3=0", "é", "e30=e30=", "AAAA=", "AAAA=="]
)
def test_another_spelling_of_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        from_b64(text)


@pytest.mark.parametrize("text", ["AB", "abc", "0x", "ab cd", "ab\n", "٣٣"])
def test_another_spelling_of_hex_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        from_hex(text)
