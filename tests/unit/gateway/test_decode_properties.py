"""Against protobuf's own JSON reader: what both take means the same, and nothing breaks the decoder."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.errors import FieldViolation, InvalidArgument
from afdp.gateway.decode import Encoders
from afdp.gateway.encode import Readers
from afdp.gateway.scalars import Refused

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
INT32 = st.integers(-(2**31), 2**31 - 1)
UINT32 = st.integers(0, 2**32 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1).map(lambda n: n if abs(n) < 2**53 else str(n))
UINT64 = st.integers(0, 2**64 - 1).map(lambda n: n if n < 2**53 else str(n))
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "int64": INT64,
    "uint64": UINT64,
    "int32": INT32,
    "fixed64": UINT64,
    "fixed32": UINT32,
    "bool": st.booleans(),
    "string": TEXT,
    "bytes": st.binary(max_size=8).map(lambda data: base64.b64encode(data).decode()),
    "uint32": UINT32,
    "sfixed32": INT32,
    "sfixed64": INT64,
    "sint32": INT32,
    "sint64": INT64,
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | TEXT
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
TIME = st.datetimes().map(lambda time: time.isoformat() + "Z")
LIGHT = st.sampled_from(["TRAFFIC_LIGHT_UNSPECIFIED", "TRAFFIC_LIGHT_RED", "TRAFFIC_LIGHT_DARK_GREEN"])


def everything_json() -> st.SearchStrategy[dict[str, Any]]:
    flat: dict[str, st.SearchStrategy[Any]] = {}
    for name, values in (*SCALARS.items(), ("at", TIME), ("free_json", OBJECT)):
        flat[f"one_{name}"] = values
        flat[f"many_{name}"] = st.lists(values, max_size=3)
    flat |= {"any_value": JSON.filter(lambda value: value is not None), "any_list": st.lists(JSON, max_size=3)}
    flat |= {"light": LIGHT, "lights": st.lists(LIGHT, max_size=3), "left": TEXT}
    flat["string_map"] = st.dictionaries(TEXT, INT64, max_size=3)
    flat["int32_map"] = st.dictionaries(INT32.map(str), TEXT, max_size=3)
    flat["bool_map"] = st.dictionaries(st.sampled_from(["true", "false"]), SCALARS["double"], max_size=2)
    message = st.fixed_dictionaries({}, optional=flat)
    return st.fixed_dictionaries({}, optional={**flat, "inner": message, "inners": st.lists(message, max_size=2)})


@pytest.fixture(scope="module")
def to_wire(everything: Any) -> Callable[[Any], bytes]:
    encoder = Encoders(frozenset()).message(everything.DESCRIPTOR)

    def run(value: Any) -> bytes:
        faults: list[Any] = []
        wire = encoder(value, None, faults)
        assert faults == []
        return wire

    return run


@given(value=everything_json())
@settings(max_examples=300, deadline=None)
def test_what_is_valid_means_what_protobufs_own_reader_says(everything: Any, to_wire: Any, value: Any) -> None:
    expected = json_format.ParseDict(value, everything())

    assert everything.FromString(to_wire(value)) == expected


@given(value=everything_json())
@settings(max_examples=200, deadline=None)
def test_what_is_printed_is_what_protobufs_own_printer_says(everything: Any, value: Any) -> None:
    message = json_format.ParseDict(value, everything())
    read = Readers(frozenset()).message(everything.DESCRIPTOR)

    printed = read(message)
    theirs = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )

    assert printed.keys() == {field.name for field in everything.DESCRIPTOR.fields}
    assert orjson.loads(orjson.dumps(printed)) == orjson.loads(
        orjson.dumps(expected_json(theirs, everything.DESCRIPTOR))
    )


def expected_json(theirs: Any, descriptor: Any) -> dict[str, Any]:
    """The protobuf library's JSON with our differences: short words for enums, numbers for int64, null for absent."""
    ours: dict[str, Any] = {field.name: theirs.get(field.name) for field in descriptor.fields}
    for name, value in ours.items():
        field = descriptor.fields_by_name[name]
        if value is None:
            continue
        if name in ("inner", "inners"):
            parts = [expected_json(part, descriptor) for part in (value if name == "inners" else [value])]
            ours[name] = parts if name == "inners" else parts[0]
        elif field.enum_type is not None:
            words = [word.removeprefix("TRAFFIC_LIGHT_").lower() for word in (value if name == "lights" else [value])]
            ours[name] = words if name == "lights" else words[0]
        elif name == "string_map":
            ours[name] = {key: as_number(item) for key, item in value.items()}
        elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
            ours[name] = [as_number(item) for item in value] if isinstance(value, list) else as_number(value)
    return ours


def as_number(text: str) -> int | str:
    return int(text) if abs(int(text)) < 2**53 else text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.integers() | st.floats() | TIME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["evidence_package", "evidencePackage", "wait_for", "actor", "type", "actor_type", "artifacts", "metadata", "name"]
)
NEAR_MISSES = st.recursive(
    ANYTHING, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def faults_of(decode: Any, *arguments: Any, **more: Any) -> list[FieldViolation]:
    """What is refused; nothing where it is understood. Any other error is a failure of the test."""
    try:
        decode(*arguments, **more)
    except InvalidArgument as refused:
        return [*refused.fields, *([] if refused.fields else [FieldViolation("", "refused without a field")])]
    return []


@given(value=NEAR_MISSES)
@settings(max_examples=300, deadline=None)
def test_what_is_nearly_right_is_refused_by_name_or_understood(decode: Any, value: Any) -> None:
    try:
        body = orjson.dumps(value)
    except TypeError:  # an integer or a string that JSON cannot hold
        return

    faults = faults_of(decode, "SignEvidence", body)

    assert all(fault.field and fault.message for fault in faults)
    assert faults or value.keys() <= {"evidence_package", "evidencePackage", "wait_for"}


@given(body=st.binary(max_size=64), query=st.text(max_size=32), variable=st.text(max_size=16))
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_and_nothing_else_happens(decode: Any, body: bytes, query: str, variable: str) -> None:
    for method, sent in (("RevokeKey", body), ("ListAffectedReceipts", b"")):
        faults = faults_of(decode, method, sent, query=query, key_id=variable)
        assert all(fault.field and fault.message for fault in faults)


@given(value=st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=22))
def test_integers_are_whole_and_in_range_or_refused(everything: Any, value: Any) -> None:
    encoder = Encoders(frozenset()).message(everything.DESCRIPTOR)
    for name, low, high in (("one_int32", -(2**31), 2**31 - 1), ("one_uint64", 0, 2**64 - 1)):
        faults: list[Any] = []
        wire = encoder({name: value}, None, faults)
        if not faults:
            assert low <= getattr(everything.FromString(wire), name) == int(value) <= high


def test_two_members_of_a_oneof_exclude_each_other(everything: Any) -> None:
    encoder = Encoders(frozenset()).message(everything.DESCRIPTOR)
    faults: list[Any] = []

    encoder({"left": "a", "right": "b"}, None, faults)
    assert {fault.field: fault.message for fault in faults} == {
        "left": "excludes right: give one of them",
        "right": "excludes left: give one of them",
    }
    assert everything.FromString(encoder({"left": "a", "right": None}, None, [])).WhichOneof("choice") == "left"


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "Q Q=", "QQ==\n", "_w==", "=", "A", "QQ==QQ=="])
def test_base64_has_one_form(everything: Any, text: str) -> None:
    encoder = Encoders(frozenset()).message(everything.DESCRIPTOR)
    faults: list[Any] = []

    encoder({"one_bytes": text}, None, faults)

    assert [fault.field for fault in faults] == ["one_bytes"]


def test_a_map_key_that_is_not_its_type_is_named(everything: Any) -> None:
    encoder = Encoders(frozenset()).message(everything.DESCRIPTOR)
    faults: list[Any] = []

    encoder({"int32_map": {"one": "a"}, "bool_map": {"maybe": 1}, "string_map": {"k": "x"}}, None, faults)

    assert {fault.field for fault in faults} == {"int32_map.one", "bool_map.maybe", "string_map.k"}


def test_a_value_that_is_no_object_is_refused_whole(everything: Any) -> None:
    with pytest.raises(Refused, match="must be an object"):
        Encoders(frozenset()).message(everything.DESCRIPTOR)([], None, [])
