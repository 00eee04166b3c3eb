"""Between bytes and betterproto2 messages, with upb in the middle.

betterproto2's own wire codec takes truncated input for good and is some hundred times slower than upb. Here upb parses
and serialises; functions that are compiled once per message type from its descriptor carry the values over to
betterproto2's dataclasses and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import betterproto2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from afdp.errors import FieldViolation, InvalidArgument
from afdp.pb.google.protobuf import ListValue, NullValue, Struct, Value
from afdp.rpc.descriptors import enum_class, message_class
from afdp.rpc.refusals import unknown, unreadable

Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any], bytes]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z


class WireStruct(Struct):
    """A `Struct` that came over the wire. Its plain value is there already; its `fields` are made when asked for."""

    plain: dict[str, Any]

    @classmethod
    def of(cls, plain: dict[str, Any]) -> WireStruct:
        """Holds a JSON object: None, bool, float, str, list and dict."""
        made = cls.__new__(cls)
        made.__dict__.update(_unknown_fields=b"", plain=plain)
        return made

    # A property, not an attribute: betterproto2 asks by `__getattribute__`, and only tests and logs ever do.
    @property
    def fields(self) -> dict[str, Value]:  # type: ignore[override]
        """The values as betterproto2 models them."""
        return {key: _to_value(value) for key, value in self.plain.items()}


def plain(struct: Struct | None) -> dict[str, Any]:
    """The JSON object that a `Struct` stands for; numbers are floats, as they are on the wire."""
    if struct is None:
        return {}
    if isinstance(struct, WireStruct):
        return struct.plain
    return {key: _from_value(value) for key, value in struct.fields.items()}


@cache
def decoder(descriptor: Descriptor, *, strict: bool = False) -> Decoder:
    """Bytes to a betterproto2 message.

    With `strict`, fields that the schema does not know are refused instead of dropped: what a client sends to be
    notarised must not silently lose a part.

    The function raises InvalidArgument: for truncated input with the field `body`; for text that is not UTF-8 and for
    a Timestamp that is out of range or finer than a microsecond with its own path.
    """
    wire = GetMessageClass(descriptor)
    carry = _reader(descriptor)

    def decode(data: bytes) -> Any:
        try:
            message = wire.FromString(data)
        except DecodeError:
            raise unreadable(data, descriptor) from None
        if strict and _has_unknown(message):
            raise unknown(wire.FromString(data))
        try:
            return carry(message)
        except _BadTimestampError:
            raise InvalidArgument("the request is not valid", fields=_bad_timestamps(message, "")) from None

    return decode


@cache
def encoder(descriptor: Descriptor) -> Encoder:
    """A betterproto2 message to bytes. The function raises ValueError or TypeError where a value does not fit."""
    wire = GetMessageClass(descriptor)
    fill = _writer(descriptor)

    def encode(value: Any) -> bytes:
        message = wire()
        fill(value, message)
        data: bytes = message.SerializeToString()
        return data

    return encode


def _has_unknown(message: Any) -> bool:
    before = message.ByteSize()
    message.DiscardUnknownFields()
    return bool(message.ByteSize() != before)


# --- Reading: upb to betterproto2 -------------------------------------------------------------------------------------


class _BadTimestampError(ValueError):
    pass


def _read_timestamp(wire: Any) -> datetime:
    seconds, nanos = wire.seconds, wire.nanos
    if not (_FIRST_SECOND <= seconds <= _LAST_SECOND and 0 <= nanos < 1_000_000_000) or nanos % 1000:
        raise _BadTimestampError
    return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)


def _bad_timestamps(message: Any, path: str) -> list[FieldViolation]:
    """Walks a message that has a bad Timestamp and names each. Slow, and only for refusals."""
    found = []
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        values = enumerate(value) if field.is_repeated else [(None, value)]
        for index, item in values:
            name = f"{path}{field.name}" + (f"[{index}]" if index is not None else "")
            if field.message_type.full_name == "google.protobuf.Timestamp":
                try:
                    _read_timestamp(item)
                except _BadTimestampError:
                    found.append(FieldViolation(name, "must be within years 1 to 9999 and no finer than a microsecond"))
            else:
                found += _bad_timestamps(item, f"{name}.")
    return found


def _read_struct(wire: Any) -> WireStruct:
    return WireStruct.of(_read_fields(wire.fields))


def _read_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _read_value(fields[key]) for key in fields}  # upb's own `items` is slow


def _read_value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return value.number_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return _read_fields(value.struct_value.fields)
    if kind == "list_value":
        return [_read_value(item) for item in value.list_value.values]
    return None


_SPECIAL_READERS: Mapping[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": _read_timestamp,
    "google.protobuf.Struct": _read_struct,
}


@cache
def _reader(descriptor: Descriptor) -> Callable[[Any], Any]:
    """Compiles `read(upb message) -> betterproto2 message` for one type."""
    names: dict[str, Any] = {"make": message_class(descriptor)}
    arguments = [f"{field.name}={_read_expression(field, names)}" for field in descriptor.fields]
    return _compile("read(m)", [f"return make({', '.join(arguments)})"], names)


def _read_expression(field: FieldDescriptor, names: dict[str, Any]) -> str:
    source = f"m.{field.name}"
    convert = _converter(field, names)
    if _is_map(field):
        raise TypeError(f"{field.full_name}: maps are not used in these packages")
    if field.is_repeated:
        return f"[{convert}(x) for x in {source}]" if convert else f"list({source})"
    if convert is None:
        return f"{source} if m.HasField({field.name!r}) else None" if field.has_presence else source
    if field.enum_type:
        return f"{convert}({source})"
    return f"{convert}({source}) if m.HasField({field.name!r}) else None"


def _converter(field: FieldDescriptor, names: dict[str, Any]) -> str | None:
    """The name, put into `names`, of the function that converts one value of a field; None where none is needed."""
    if field.enum_type:
        names[f"e_{field.name}"] = enum_class(field.enum_type)
        return f"e_{field.name}"
    if field.message_type:
        kind = field.message_type
        names[f"c_{field.name}"] = _SPECIAL_READERS.get(kind.full_name) or _reader(kind)
        return f"c_{field.name}"
    return None


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


# --- Writing: betterproto2 to upb -------------------------------------------------------------------------------------


def _write_timestamp(value: datetime, wire: Any) -> None:
    since = value - _EPOCH
    wire.seconds = since.days * 86_400 + since.seconds
    wire.nanos = since.microseconds * 1000
    wire.SetInParent()


def _write_struct(value: Struct, wire: Any) -> None:
    wire.update(plain(value))
    wire.SetInParent()


_SPECIAL_WRITERS: Mapping[str, Callable[[Any, Any], None]] = {
    "google.protobuf.Timestamp": _write_timestamp,
    "google.protobuf.Struct": _write_struct,
}


@cache
def _writer(descriptor: Descriptor) -> Callable[[Any, Any], None]:
    """Compiles `write(betterproto2 message, upb message)` for one type."""
    names: dict[str, Any] = {}
    lines = [line for field in descriptor.fields for line in _write_lines(field, names)]
    return _compile("write(o, m)", lines or ["pass"], names)


def _write_lines(field: FieldDescriptor, names: dict[str, Any]) -> list[str]:
    source, target = f"o.{field.name}", f"m.{field.name}"
    if field.message_type:
        names[f"w_{field.name}"] = _SPECIAL_WRITERS.get(field.message_type.full_name) or _writer(field.message_type)
        if field.is_repeated:
            return [f"for x in {source}: w_{field.name}(x, {target}.add())"]
        return [
            f"v = {source}",
            f"if v is not None: {target}.SetInParent(); w_{field.name}(v, {target})",
        ]
    if field.is_repeated:
        return [f"if {source}: {target}.extend({source})"]
    if field.has_presence:
        return [f"if {source} is not None: {target} = {source}"]
    return [f"if {source}: {target} = {source}"]


def _compile(signature: str, lines: list[str], names: dict[str, Any]) -> Callable[..., Any]:
    code = f"def {signature}:\n" + "".join(f"    {line}\n" for line in lines)
    # The source is made of field names of our own descriptors and of nothing that comes from outside.
    exec(code, names)  # noqa: S102
    function: Callable[..., Any] = names[signature.partition("(")[0]]
    return function


def _to_value(value: Any) -> Value:
    if value is None:
        return Value(null_value=NullValue.NULL_VALUE)
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=float(value))
    if isinstance(value, str):
        return Value(string_value=value)
    if isinstance(value, dict):
        return Value(struct_value=WireStruct.of(value))
    return Value(list_value=ListValue(values=[_to_value(item) for item in value]))


def _from_value(value: Value) -> Any:
    kind: str
    held: Any
    kind, held = betterproto2.which_one_of(value, "kind")
    if kind == "struct_value":
        return plain(held)
    if kind == "list_value":
        return [_from_value(item) for item in held.values]
    return None if kind == "null_value" else held
