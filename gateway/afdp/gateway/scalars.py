"""JSON values to protobuf field values on the wire: one function per field type, and each lets through only its own.

Each takes a value that `strict_json` has read and gives the field's payload: for length-delimited types without the
length. What the JSON forms are: https://protobuf.dev/programming-guides/json/, narrowed where a form is ambiguous.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NoReturn

import orjson
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from afdp.formats.canonical import MAX_DEPTH, MAX_SAFE_INTEGER
from afdp.formats.timestamps import parse_timestamp
from afdp.gateway import wire
from afdp.gateway.names import enum_words

Payload = Callable[[object], bytes]
"""A JSON value to a field's payload. Raises `Refused`."""


class Refused(Exception):
    """A value is not what its field takes; the message completes "the field …". Where it stands, the caller knows."""


def scalar(field: FieldDescriptor, *, raw_json: bool) -> tuple[int, Payload]:
    """The wire type of a scalar field and the function that makes its payload."""
    if field.enum_type is not None:
        return wire.VARINT, enum_value(field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES and raw_json:
        return wire.LENGTH, orjson.dumps
    return _SCALARS[field.type]


def string(value: object) -> bytes:
    """UTF-8."""
    if type(value) is not str:
        refuse_kind(value, "a string")
    return value.encode()


def base64_bytes(value: object) -> bytes:
    """Standard base64 with its padding, in the one form that encodes those bytes (RFC 4648, sections 3.5 and 4)."""
    if type(value) is not str:
        refuse_kind(value, "a base64 string")
    try:
        decoded = a2b_base64(value, strict_mode=True)
    except (Base64Error, ValueError):
        raise Refused("must be standard base64 with padding") from None
    if b2a_base64(decoded, newline=False).decode() != value:
        raise Refused("must be standard base64 with padding, and the unused bits zero")
    return decoded


def boolean(value: object) -> bytes:
    """true or false, no number and no word."""
    if type(value) is not bool:
        refuse_kind(value, "true or false")
    return b"\x01" if value else b"\x00"


def enum_value(enum: EnumDescriptor) -> Payload:
    """The word of an enumeration's value in lower case without the prefix, or its proto name."""
    numbers = {word: value.number for value, word in enum_words(enum)}
    numbers |= {value.name: value.number for value in enum.values}
    payloads = {name: wire.varint(number) for name, number in numbers.items()}
    expected = ", ".join(f'"{word}"' for value, word in enum_words(enum))

    def encode(value: object) -> bytes:
        if type(value) is not str:
            refuse_kind(value, f"one of {expected}")
        if (payload := payloads.get(value)) is None:
            raise Refused(f"must be one of {expected}")
        return payload

    return encode


def integer(low: int, high: int, write: Callable[[int], bytes], *, text: bool) -> Payload:
    """A whole number in a range; where `text` is set, also as a decimal string (64-bit integers)."""
    expected = "an integer or a decimal string" if text else "an integer"

    def encode(value: object) -> bytes:
        number = _decimal(value) if text and type(value) is str else _whole(value)
        if number is None:
            refuse_kind(value, expected)
        if not low <= number <= high:
            raise Refused(f"must be between {low} and {high}")
        return write(number)

    return encode


def _whole(value: object) -> int | None:
    if type(value) is float and value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
        return int(value)
    return value if type(value) is int else None


def _decimal(value: str) -> int | None:
    return int(value) if _DECIMAL.fullmatch(value) else None


def real(pack: Callable[[float], bytes]) -> Payload:
    """A finite number."""

    def encode(value: object) -> bytes:
        if type(value) is not float and type(value) is not int:
            refuse_kind(value, "a number")
        try:
            return pack(value)
        except OverflowError:
            raise Refused("is too large for a 32-bit float") from None

    return encode


def timestamp(value: object) -> bytes:
    """RFC 3339 with at most microseconds, years 1 to 9999 in UTC: a `google.protobuf.Timestamp`."""
    if type(value) is not str:
        refuse_kind(value, "an RFC 3339 timestamp")
    try:
        time = parse_timestamp(value)
    except ValueError as error:
        raise Refused(str(error)) from None
    since = time - _EPOCH
    seconds, nanos = since.days * 86_400 + since.seconds, since.microseconds * 1000
    payload = b"\x08" + wire.varint(seconds) if seconds else b""
    return payload + b"\x10" + wire.varint(nanos) if nanos else payload


def struct(value: object) -> bytes:
    """A JSON object: a `google.protobuf.Struct`."""
    if type(value) is not dict:
        refuse_kind(value, "an object")
    return _struct(value, MAX_DEPTH)


def json_value(value: object) -> bytes:
    """Any JSON value: a `google.protobuf.Value`."""
    return _value(value, MAX_DEPTH)


def json_list(value: object) -> bytes:
    """A JSON array: a `google.protobuf.ListValue`."""
    if type(value) is not list:
        refuse_kind(value, "an array")
    return _list(value, MAX_DEPTH)


WELL_KNOWN: Mapping[str, Payload] = {
    "google.protobuf.Timestamp": timestamp,
    "google.protobuf.Struct": struct,
    "google.protobuf.Value": json_value,
    "google.protobuf.ListValue": json_list,
}


def refuse_kind(value: object, expected: str) -> NoReturn:
    """Says what was expected and what is there."""
    raise Refused(f"must be {expected}, not {_KINDS[type(value)]}")


_KINDS = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
    list: "an array",
    dict: "an object",
}
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Parsers of protobuf stop at 100 messages inside one another, and one JSON object in another takes three of them
# (Struct, its map entry, Value): this is why the depth is bounded here and not by whoever reads the message.
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _struct(members: dict[str, object], room: int) -> bytes:
    if room == 0:
        raise Refused(_TOO_DEEP)
    varint = wire.varint
    parts: list[bytes] = []
    for key, item in members.items():
        name = key.encode()
        value = _value(item, room - 1)
        entry = b"\x0a%b%b\x12%b%b" % (varint(len(name)), name, varint(len(value)), value)
        parts += (b"\x0a", varint(len(entry)), entry)
    return b"".join(parts)


def _list(items: list[object], room: int) -> bytes:
    if room == 0:
        raise Refused(_TOO_DEEP)
    parts: list[bytes] = []
    for item in items:
        value = _value(item, room - 1)
        parts += (b"\x0a", wire.varint(len(value)), value)
    return b"".join(parts)


def _value(value: object, room: int) -> bytes:
    if type(value) is str:
        text = value.encode()
        return b"\x1a%b%b" % (wire.varint(len(text)), text)
    if type(value) is float or type(value) is int:
        return b"\x11" + wire.double(value)
    if type(value) is bool:
        return b"\x20\x01" if value else b"\x20\x00"
    if type(value) is dict:
        return b"\x2a" + wire.length_delimited(_struct(value, room))
    if type(value) is list:
        return b"\x32" + wire.length_delimited(_list(value, room))
    return b"\x08\x00"  # null


def _int32(write: Callable[[int], bytes]) -> Payload:
    return integer(-(2**31), 2**31 - 1, write, text=False)


def _uint32(write: Callable[[int], bytes]) -> Payload:
    return integer(0, 2**32 - 1, write, text=False)


def _int64(write: Callable[[int], bytes]) -> Payload:
    return integer(-(2**63), 2**63 - 1, write, text=True)


def _uint64(write: Callable[[int], bytes]) -> Payload:
    return integer(0, 2**64 - 1, write, text=True)


_SCALARS: Mapping[int, tuple[int, Payload]] = {
    FieldDescriptor.TYPE_STRING: (wire.LENGTH, string),
    FieldDescriptor.TYPE_BYTES: (wire.LENGTH, base64_bytes),
    FieldDescriptor.TYPE_BOOL: (wire.VARINT, boolean),
    FieldDescriptor.TYPE_INT32: (wire.VARINT, _int32(wire.varint)),
    FieldDescriptor.TYPE_UINT32: (wire.VARINT, _uint32(wire.varint)),
    FieldDescriptor.TYPE_SINT32: (wire.VARINT, _int32(wire.zigzag)),
    FieldDescriptor.TYPE_FIXED32: (wire.FIXED32, _uint32(wire.fixed32)),
    FieldDescriptor.TYPE_SFIXED32: (wire.FIXED32, _int32(wire.sfixed32)),
    FieldDescriptor.TYPE_INT64: (wire.VARINT, _int64(wire.varint)),
    FieldDescriptor.TYPE_UINT64: (wire.VARINT, _uint64(wire.varint)),
    FieldDescriptor.TYPE_SINT64: (wire.VARINT, _int64(wire.zigzag)),
    FieldDescriptor.TYPE_FIXED64: (wire.FIXED64, _uint64(wire.fixed64)),
    FieldDescriptor.TYPE_SFIXED64: (wire.FIXED64, _int64(wire.sfixed64)),
    FieldDescriptor.TYPE_DOUBLE: (wire.FIXED64, real(wire.double)),
    FieldDescriptor.TYPE_FLOAT: (wire.FIXED32, real(wire.float32)),
}
