"""Protobuf messages from the wire to JSON, by functions that are compiled once from the descriptors.

Every field is printed, also zero, false and empty; what is absent is null. Source of the forms:
https://protobuf.dev/programming-guides/json/, with snake_case names and enumeration words in lower case.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from operator import attrgetter
from struct import pack
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from afdp.errors import Internal
from afdp.formats.canonical import MAX_SAFE_INTEGER
from afdp.gateway.descriptors import Api
from afdp.gateway.names import enum_words

Reader = Callable[[Any], Any]
"""A message, or a value of a field, to what orjson prints."""


class ResponseEncoder:
    """Serialised messages of one type to JSON objects."""

    def __init__(self, api: Api, message: Descriptor, readers: Readers) -> None:
        self._parse = api.message_class(message.full_name).FromString
        self._read = readers.message(message)

    def plain(self, wire: bytes) -> dict[str, Any]:
        """The message as a dict that orjson prints.

        Raises:
            Internal: the bytes are no such message.
        """
        try:
            answer: dict[str, Any] = self._read(self._parse(wire))
        except (DecodeError, OverflowError) as error:
            raise Internal("the notary's answer could not be read") from error
        return answer

    def __call__(self, wire: bytes) -> bytes:
        """The message as JSON."""
        return orjson.dumps(self.plain(wire))


class RawEncoder:
    """Serialised messages of one type to the bytes of one of their fields, which are the whole answer."""

    def __init__(self, api: Api, message: Descriptor, field: FieldDescriptor) -> None:
        self._parse = api.message_class(message.full_name).FromString
        self._field = field.name

    def __call__(self, wire: bytes) -> bytes:
        """The field's bytes.

        Raises:
            Internal: the bytes are no such message.
        """
        try:
            answer: bytes = getattr(self._parse(wire), self._field)
        except DecodeError as error:
            raise Internal("the notary's answer could not be read") from error
        return answer


class Readers:
    """The readers of all message types that were asked for."""

    def __init__(self, raw_json: frozenset[str]) -> None:
        self._raw_json = raw_json
        self._messages: dict[str, Reader] = {}

    def message(self, descriptor: Descriptor) -> Reader:
        """The reader of a message type.

        Raises:
            NotImplementedError: the type has a field whose JSON form is not known here.
        """
        if descriptor.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[descriptor.full_name]
        if descriptor.full_name.startswith("google.protobuf."):
            raise NotImplementedError(f"no JSON form for {descriptor.full_name}")
        if (known := self._messages.get(descriptor.full_name)) is not None:
            return known
        fields: list[tuple[str, Reader]] = []

        def read(message: Any) -> dict[str, Any]:
            return {name: field(message) for name, field in fields}

        self._messages[descriptor.full_name] = read
        fields += [(field.name, self._field(field)) for field in descriptor.fields]
        return read

    def _field(self, field: FieldDescriptor) -> Reader:
        """From the message that has the field."""
        get = attrgetter(field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return _map(get, self._value(field.message_type.fields_by_name["value"]))
        value = self._value(field)
        if field.is_repeated:
            return (lambda message: list(get(message))) if value is None else _each(get, value)
        if field.has_presence:
            return _optional(field.name, get, value or _same)
        return get if value is None else _converted(get, value)

    def _value(self, field: FieldDescriptor) -> Reader | None:
        """From the field's value; None where it is printed as it is."""
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            words = {value.number: word for value, word in enum_words(field.enum_type)}
            return lambda number: words.get(number, number)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return _raw if field.full_name in self._raw_json else _base64
        return _CONVERSIONS.get(field.cpp_type)


def rfc3339(seconds: int, nanos: int) -> str:
    """A Timestamp as proto3 JSON prints it: in UTC, with 0, 3, 6 or 9 digits of the second's fraction.

    Raises:
        OverflowError: outside of the years 1 to 9999.
    """
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    if not nanos:
        return text + "Z"
    digits = f"{nanos:09d}"
    for shorter in ("000000", "000"):
        if digits.endswith(shorter):
            return f"{text}.{digits.removesuffix(shorter)}Z"
    return f"{text}.{digits}Z"


# --- how readers are put together -------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


def _converted(get: Reader, convert: Reader) -> Reader:
    return lambda message: convert(get(message))


def _optional(name: str, get: Reader, convert: Reader) -> Reader:
    return lambda message: convert(get(message)) if message.HasField(name) else None


def _each(get: Reader, convert: Reader) -> Reader:
    return lambda message: [convert(item) for item in get(message)]


def _map(get: Reader, convert: Reader | None) -> Reader:
    convert = convert or _same
    return lambda message: {_key(key): convert(value) for key, value in get(message).items()}


def _key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


# --- values -----------------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _raw(value: bytes) -> orjson.Fragment | None:
    """JSON that its maker vouches for, as it is."""
    return orjson.Fragment(value) if value else None


def _integer64(value: int) -> int | str:
    return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)


def _double(value: float) -> float | str:
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _float(value: float) -> float | str:
    """The shortest decimal that is this 32-bit float."""
    if not isfinite(value):
        return _double(value)
    return next(
        short for digits in range(6, 10) if pack("<f", short := float(f"{value:.{digits}g}")) == pack("<f", value)
    )


def _timestamp(value: Any) -> str:
    return rfc3339(value.seconds, value.nanos)


def _struct(value: Any) -> dict[str, Any]:
    return {key: _json(item) for key, item in value.fields.items()}


def _list(value: Any) -> list[Any]:
    return [_json(item) for item in value.values]


def _json(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= MAX_SAFE_INTEGER else number
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return _list(value.list_value)
    return getattr(value, kind) if kind in ("string_value", "bool_value") else None


_WELL_KNOWN: Mapping[str, Reader] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _json,
    "google.protobuf.ListValue": _list,
}
_CONVERSIONS: Mapping[int, Reader] = {
    FieldDescriptor.CPPTYPE_INT64: _integer64,
    FieldDescriptor.CPPTYPE_UINT64: _integer64,
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
    FieldDescriptor.CPPTYPE_FLOAT: _float,
}
