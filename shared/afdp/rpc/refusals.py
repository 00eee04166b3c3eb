"""Which field makes a message unreadable, or is none of its own. Slow, and only for refusals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from afdp.errors import FieldViolation, InvalidArgument
from afdp.rpc.descriptors import descriptor_set

_MOST = 20  # faults that one answer names


def unreadable(data: bytes, descriptor: Descriptor) -> InvalidArgument:
    """The error for bytes that protobuf does not take: names each text that is not UTF-8, else `body`."""
    try:
        message = GetMessageClass(_untexted().FindMessageTypeByName(descriptor.full_name)).FromString(data)
        faults = _first(_not_utf8(message, descriptor, ""))
    except DecodeError:
        faults = []
    body = FieldViolation("body", f"is not a valid {descriptor.full_name} message")
    return InvalidArgument("the request is not valid", fields=faults or [body])


def unknown(message: Any) -> InvalidArgument:
    """The error for a message with fields that its schema does not have: names where each stands, by its number."""
    return InvalidArgument("the request is not valid", fields=_first(_unknown(message, "")))


def _first(faults: Iterator[FieldViolation]) -> list[FieldViolation]:
    return [*islice(faults, _MOST)]


def _unknown(message: Any, path: str) -> Iterator[FieldViolation]:
    held: Any = UnknownFieldSet(message)  # iterable, and its types do not say so
    for number in sorted({field.field_number for field in held}):
        yield FieldViolation(path or "body", f"has a field {number}, which {message.DESCRIPTOR.full_name} has not")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for name, item in _items(field, value, path):
                yield from _unknown(item, name)


def _not_utf8(message: Any, real: Descriptor, path: str) -> Iterator[FieldViolation]:
    """Walks a message of the pool without texts beside the real descriptor, which says what is a text."""
    for field, value in message.ListFields():
        meant = real.fields_by_name[field.name]
        for name, item in _items(field, value, path):
            if meant.message_type is not None:
                yield from _not_utf8(item, meant.message_type, name)
            elif meant.type == FieldDescriptor.TYPE_STRING and not _is_utf8(item):
                yield FieldViolation(name, "is not UTF-8")


def _items(field: Any, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The values of a field, each with its path; what is inside of a `Struct` has the path of that."""
    name = path if field.containing_type.full_name in _OF_STRUCT else f"{path}.{field.name}".removeprefix(".")
    if not field.is_repeated:
        yield name, value
    elif field.containing_type.full_name in _OF_STRUCT:
        yield from ((name, item) for item in (value.values() if hasattr(value, "values") else value))
    else:
        yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))


_OF_STRUCT = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Struct.FieldsEntry", "Value", "ListValue"))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def _untexted() -> DescriptorPool:
    """The same messages with bytes for texts, so that what is not UTF-8 can be read; maps are lists of entries."""
    twin = DescriptorPool()
    for file in descriptor_set().file:
        for message in file.message_type:
            if not file.package.startswith("google.") or f"{file.package}.{message.name}" in _OF_STRUCT:
                _untext(message)
        twin.Add(file)
    return twin


def _untext(message: DescriptorProto) -> None:
    message.options.ClearField("map_entry")
    for field in message.field:
        if field.type == FieldDescriptorProto.TYPE_STRING:
            field.type = FieldDescriptorProto.TYPE_BYTES
    for nested in message.nested_type:
        _untext(nested)
