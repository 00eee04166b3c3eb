from __future__ import annotations

import json
import math
import struct
from typing import Any, cast

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.errors import InvalidArgument
from afdp.formats.canonical import MAX_SAFE_INTEGER, canonical_json, depth, json_violations, strict_json

# RFC 8785, section 3.2.2, and the bytes of section 3.2.4
SAMPLE = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
SAMPLE_BYTES = bytes.fromhex(
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e33333333333333"
    "2c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c222f"
    "227d"
)

# RFC 8785, section 3.2.3
UNSORTED = r"""{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}"""
SORTED_VALUES = [
    "Carriage Return",
    "One",
    "Control",
    "Latin Small Letter O With Diaeresis",
    "Euro Sign",
    "Emoji: Grinning Face",
    "Hebrew Letter Dalet With Dagesh",
]

# RFC 8785, appendix B
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
TRICKY_FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=1e-8, max_value=1e-4),
    st.floats(min_value=2.0**52, max_value=1e22),
    st.integers(-(2**53), 2**53).map(float),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER), TRICKY_FLOATS, TEXT)
VALUES = st.recursive(
    SCALARS,
    lambda child: st.one_of(st.lists(child, max_size=5), st.dictionaries(TEXT, child, max_size=5)),
    max_leaves=20,
)


def refused(data: bytes | str, max_depth: int = 32) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        strict_json(data, max_depth=max_depth)
    return {fault.field: fault.message for fault in caught.value.fields}


def test_the_sample_of_the_rfc_gives_the_bytes_of_the_rfc() -> None:
    assert canonical_json(json.loads(SAMPLE)) == SAMPLE_BYTES
    assert canonical_json(strict_json(SAMPLE)) == SAMPLE_BYTES


def test_keys_are_sorted_by_utf16_code_units_as_in_the_rfc() -> None:
    assert list(json.loads(canonical_json(json.loads(UNSORTED))).values()) == SORTED_VALUES


@pytest.mark.parametrize(("bits", "expected"), NUMBERS)
def test_numbers_print_as_in_appendix_b(bits: str, expected: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))

    assert canonical_json(number) == expected.encode()
    assert canonical_json({"n": [number]}) == b'{"n":[%b]}' % expected.encode()


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_any_value_has_the_bytes_of_the_reference_library(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(cast("Any", value))


@settings(max_examples=600, deadline=None)
@given(TRICKY_FLOATS)
def test_any_double_prints_as_the_reference_library_has_it(number: float) -> None:
    assert canonical_json(number) == rfc8785.dumps(number)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_canonical_bytes_are_read_back_and_written_the_same(value: object) -> None:
    once = canonical_json(value)
    if b"\\u0000" not in once:
        assert canonical_json(strict_json(once, integers_as_doubles=True)) == once


def test_large_integer_literals_are_doubles_only_where_that_is_asked_for() -> None:
    assert strict_json(b"[100000000000000000000]", integers_as_doubles=True) == [1e20]
    assert canonical_json(strict_json(b"9007199254740992", integers_as_doubles=True)) == b"9007199254740992"
    assert strict_json(b"-9007199254740991", integers_as_doubles=True) == -MAX_SAFE_INTEGER
    with pytest.raises(InvalidArgument, match="overflows"):
        strict_json(b"9" * 20_000, integers_as_doubles=True)
    with pytest.raises(InvalidArgument, match="stands twice"):
        strict_json(b'{"a": 9007199254740992, "a": 1}', integers_as_doubles=True)


def test_values_in_memory_are_checked_by_the_same_rules() -> None:
    value = {"a": ["\0", {"b": math.nan}], "c": 2**53, "d": [[1]]}

    faults = json_violations(value, "metadata", max_depth=2)

    assert [fault.field for fault in faults] == ["metadata.a[0]", "metadata.a[1]", "metadata.c", "metadata.d[0]"]
    assert json_violations({"a": [1, "x", None]}) == []


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"a": [1, math.nan]}, "a[1]"),
        ({"a": {"b": math.inf}}, "a.b"),
        ({"a": 2**53}, "a"),
        ({"a": "\ud800"}, "a"),
        ({"a": object()}, "a"),
        ({1: "a"}, "body"),
        ({"\U0001f600": {"x": -math.inf}}, '["\\ud83d\\ude00"].x'),
        (math.nan, "body"),
        (b"bytes", "body"),
    ],
)
def test_what_has_no_canonical_form_is_refused_by_path(value: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        canonical_json(value)

    assert [fault.field for fault in caught.value.fields] == [field]


def test_nesting_beyond_the_encoder_is_refused_not_a_crash() -> None:
    value: object = 1
    for _ in range(5000):
        value = [value]

    with pytest.raises(InvalidArgument, match="nested more than"):
        canonical_json(value)


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        (b'{"a": {"b": 1, "b": 1}}', "a.b", "stands twice"),
        (b'{"a": {"b": [1, {"c": 1, "c": 2}]}}', "a.b[1].c", "stands twice"),
        (b'{"metadata": {"a": {"b": [0, 1, 2, NaN]}}}', "metadata.a.b[3]", "NaN"),
        (b'{"a": -Infinity}', "a", "-Infinity"),
        (b'{"a": 1e400}', "a", "overflows"),
        (b'{"a": -1e400}', "a", "overflows"),
        (b'{"a": 9007199254740992}', "a", "2^53-1"),
        (b'{"a": -9007199254740992}', "a", "2^53-1"),
        (b'{"a": ' + b"9" * 20000 + b"}", "a", "2^53-1"),
        (b'{"a b": 9007199254740992}', '["a b"]', "2^53-1"),
        (rb'{"a": "x\u0000y"}', "a", "U+0000"),
        (rb'{"a": ["x", "\ud800"]}', "a[1]", "surrogate"),
        (rb'{"a": "\udfffx"}', "a", "surrogate"),
        (rb'{"a": {"b\u0000": 1}}', 'a["b\\u0000"]', "U+0000"),
        (b"9007199254740993", "body", "2^53-1"),
        (b'{"a": "\xff"}', "body", "UTF-8 at byte 7"),
        (b"\xef\xbb\xbf{}", "body", "byte order mark"),
        (b'{"a": 1,}', "body", "line 1"),
        (b'{"a": "x\x00"}', "body", "control character"),
        (b"{} {}", "body", "Extra data"),
        (b"", "body", "not JSON"),
        (b"'a'", "body", "not JSON"),
        (b"01", "body", "not JSON"),
        (b"[" * 33 + b"]" * 33, "body" + "[0]" * 32, "32 levels"),
        (b"[" * 100_000, "body", "32 levels"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, ".".join("a" * 32), "32 levels"),
    ],
)
def test_ambiguous_json_is_refused_and_the_place_is_named(data: bytes, field: str, message: str) -> None:
    faults = refused(data)

    assert field in faults
    assert message in faults[field]


def test_text_with_a_lone_surrogate_is_refused() -> None:
    assert "surrogate" in refused('"\ud800"')["body"]


def test_every_fault_is_named_at_once() -> None:
    assert set(refused(rb'{"a": NaN, "b": {"c": 1e999, "c": "\u0000"}}')) == {"a", "b.c"}


def test_a_hostile_text_gets_a_bounded_answer() -> None:
    with pytest.raises(InvalidArgument) as caught:
        strict_json(b"[" + b"NaN," * 5000 + b"1]")

    assert len(caught.value.fields) == 20


def test_the_depth_limit_is_a_parameter_and_counts_the_outermost() -> None:
    assert strict_json(b"[[1]]", max_depth=2) == [[1]]
    assert strict_json(b'["[[[[[["]', max_depth=1) == ["[[[[[["]
    assert "1 levels" in refused(b"[[1]]", max_depth=1)["body[0]"]
    assert len(b"[" * 32) == depth(strict_json(b"[" * 32 + b"]" * 32))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a":\t[1, -0, 0.5, 1e2, true, null]}\r\n', {"a": [1, 0, 0.5, 100.0, True, None]}),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\\u0000"', "\\u0000"),
        (b"9007199254740991", MAX_SAFE_INTEGER),
        (b"1e20", 1e20),
        ('"größe"', "größe"),
    ],
)
def test_plain_json_is_read_as_it_stands(data: bytes | str, value: object) -> None:
    assert strict_json(data) == value


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_the_standard_reader_reads_is_read_the_same_or_refused(value: object) -> None:
    text = json.dumps(value)
    try:
        read = strict_json(text)
    except InvalidArgument:
        assert "\\u0000" in text
    else:
        assert read == json.loads(text)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([0, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE]), st.booleans())
def test_what_orjson_writes_is_read_as_the_careful_reader_reads_it(value: object, option: int, doubles: bool) -> None:
    """A text that orjson would write is read by another way; a space before it makes it another text."""
    text = orjson.dumps(value, option=option)

    def read(data: bytes) -> object:
        try:
            return repr(strict_json(data, max_depth=4, integers_as_doubles=doubles))
        except InvalidArgument as error:
            return [(each.field, each.message) for each in error.fields]

    assert read(text) == read(b" " + text)


@pytest.mark.parametrize("text", [b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'{\n  "a": 1,\n  "a": 1\n}\n'])
def test_a_key_that_stands_twice_is_seen_also_in_what_looks_like_orjsons(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="valid"):
        strict_json(text)
