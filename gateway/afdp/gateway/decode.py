"""JSON objects to protobuf messages on the wire, by functions that are compiled once from the descriptors.

Bytes are written as values are checked: no message object stands in between. Every fault is noted with its path, in
proto names, up to a bound; a message with a fault is never used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from afdp.errors import FieldViolation
from afdp.gateway import wire
from afdp.gateway.names import spellings
from afdp.gateway.paths import Path, rendered
from afdp.gateway.scalars import WELL_KNOWN, Payload, Refused, refuse_kind, scalar

MAX_FAULTS = 20
"""How many faults one answer names."""

Faults = list[FieldViolation]
FieldEncoder = Callable[[object, Path, Faults], bytes]
"""A JSON value to a whole field, tag included. Raises `Refused` for the value itself; notes faults inside of it."""


@dataclass(frozen=True, slots=True)
class Member:
    """One key that an object may have."""

    name: str  # of the field
    encode: FieldEncoder
    others: tuple[str, ...]  # other spellings of the same field, and the other members of its oneof


class MessageEncoder:
    """JSON objects to one message type."""

    def __init__(self) -> None:
        self.members: Mapping[str, Member] = {}

    def __call__(self, value: object, path: Path | None, faults: Faults) -> bytes:
        """The message's bytes; worth something only if no fault was added.

        Raises:
            Refused: the value is no object at all.
        """
        if type(value) is not dict:
            refuse_kind(value, "an object")
        members = self.members
        parts: list[bytes] = []
        for key, item in value.items():
            member = members.get(key)
            if member is None:
                _note(faults, (path, key), "unknown field")
                continue
            if member.others:
                self._only_once(key, member, value, path, faults)
            if item is None:
                continue
            here = (path, member.name)
            try:
                parts.append(member.encode(item, here, faults))
            except Refused as refusal:
                _note(faults, here, str(refusal))
            if len(faults) >= MAX_FAULTS:
                break
        return b"".join(parts)

    def _only_once(
        self, key: str, member: Member, value: Mapping[str, object], path: Path | None, faults: Faults
    ) -> None:
        for other in member.others:
            if other not in value:
                continue
            if (sibling := self.members[other].name) == member.name:
                fault = f"stands twice, as {min(key, other)} and as {max(key, other)}"
            elif value[key] is None or value[other] is None:
                continue
            else:
                fault = f"excludes {sibling}: give one of them"
            where = rendered((path, member.name))
            if FieldViolation(where, fault) not in faults:
                faults.append(FieldViolation(where, fault))


class Encoders:
    """The encoders of all message types that were asked for; a type that holds itself is compiled once."""

    def __init__(self, raw_json: frozenset[str]) -> None:
        self._raw_json = raw_json
        self._messages: dict[str, MessageEncoder] = {}

    def message(self, descriptor: Descriptor) -> MessageEncoder:
        """The encoder of a message type.

        Raises:
            NotImplementedError: the type has a field whose JSON form is not known here.
        """
        if (known := self._messages.get(descriptor.full_name)) is not None:
            return known
        if descriptor.full_name.startswith("google.protobuf."):
            raise NotImplementedError(f"no JSON form for {descriptor.full_name}")
        encoder = self._messages[descriptor.full_name] = MessageEncoder()
        members: dict[str, Member] = {}
        for field in descriptor.fields:
            encode = self.field(field)
            for name in spellings(field):
                members[name] = Member(field.name, encode, tuple(_others(field, name)))
        encoder.members = members
        return encoder

    def field(self, field: FieldDescriptor) -> FieldEncoder:
        """The encoder of one field."""
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return self._map(field.number, message.fields_by_name["key"], message.fields_by_name["value"])
        if message is not None and message.full_name not in WELL_KNOWN:
            one = _message(wire.tag(field.number, wire.LENGTH), self.message(message))
            return _repeated(one) if field.is_repeated else one
        if message is not None:
            wire_type, payload = wire.LENGTH, WELL_KNOWN[message.full_name]
        else:
            wire_type, payload = scalar(field, raw_json=field.full_name in self._raw_json)
        if not field.is_repeated:
            return _scalar(wire.tag(field.number, wire_type), payload, delimited=wire_type == wire.LENGTH)
        if wire_type == wire.LENGTH:
            return _repeated(_scalar(wire.tag(field.number, wire.LENGTH), payload, delimited=True))
        return _packed(wire.tag(field.number, wire.LENGTH), payload)

    def _map(self, number: int, key: FieldDescriptor, value: FieldDescriptor) -> FieldEncoder:
        """A JSON object to map entries; keys that are not strings stand as their text."""
        tag = wire.tag(number, wire.LENGTH)
        read_key, encode_key, encode_value = text_reader(key), self.field(key), self.field(value)

        def encode(members: object, path: Path, faults: Faults) -> bytes:
            if type(members) is not dict:
                refuse_kind(members, "an object")
            parts: list[bytes] = []
            for name, item in members.items():
                here = (path, name)
                try:
                    body = encode_key(read_key(name), here, faults) + encode_value(item, here, faults)
                    parts += (tag, wire.length_delimited(body))
                except Refused as refusal:
                    _note(faults, here, str(refusal))
            return b"".join(parts)

        return encode


def _others(field: FieldDescriptor, name: str) -> Iterator[str]:
    """What to look for beside a key. A proto name needs no look for its own aliases: each alias looks for it."""
    if name != field.name:
        yield from (spelling for spelling in spellings(field) if spelling != name)
    if field.containing_oneof is not None:
        for sibling in field.containing_oneof.fields:
            yield from spellings(sibling) if sibling is not field else ()


def _note(faults: Faults, path: Path | None, message: str) -> None:
    if len(faults) < MAX_FAULTS:
        faults.append(FieldViolation(rendered(path), message))


def _scalar(tag: bytes, payload: Payload, *, delimited: bool) -> FieldEncoder:
    varint = wire.varint

    def encode_delimited(value: object, path: Path, faults: Faults) -> bytes:
        body = payload(value)
        return tag + varint(len(body)) + body

    def encode(value: object, path: Path, faults: Faults) -> bytes:
        return tag + payload(value)

    return encode_delimited if delimited else encode


def _message(tag: bytes, message: MessageEncoder) -> FieldEncoder:
    def encode(value: object, path: Path, faults: Faults) -> bytes:
        body = message(value, path, faults)
        return tag + wire.varint(len(body)) + body

    return encode


def _packed(tag: bytes, payload: Payload) -> FieldEncoder:
    items = _repeated(lambda value, path, faults: payload(value))

    def encode(value: object, path: Path, faults: Faults) -> bytes:
        return tag + wire.length_delimited(items(value, path, faults))

    return encode


def _repeated(one: FieldEncoder) -> FieldEncoder:
    def encode(value: object, path: Path, faults: Faults) -> bytes:
        if type(value) is not list:
            refuse_kind(value, "an array")
        parts: list[bytes] = []
        for index, item in enumerate(value):
            here = (path, index)
            try:
                parts.append(one(item, here, faults))
            except Refused as refusal:
                _note(faults, here, str(refusal))
            if len(faults) >= MAX_FAULTS:
                break
        return b"".join(parts)

    return encode


def text_reader(field: FieldDescriptor) -> Callable[[str], object]:
    """How a field's text in a path, a query or a map's key becomes the JSON value that the field takes.

    What comes back raises `Refused` for text that stands for no such value.
    """
    return _TEXT_READERS.get(field.cpp_type, lambda text: text)


_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,4})?")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _integer(text: str) -> object:
    if not _DECIMAL.fullmatch(text):
        raise Refused("must be an integer")
    return int(text)


def _real(text: str) -> object:
    if not _JSON_NUMBER.fullmatch(text) or not isfinite(number := float(text)):
        raise Refused("must be a finite number")
    return number


def _boolean(text: str) -> object:
    if text not in _BOOLEANS:
        raise Refused("must be true or false")
    return _BOOLEANS[text]


_TEXT_READERS: Mapping[int, Callable[[str], object]] = {
    FieldDescriptor.CPPTYPE_INT32: _integer,
    FieldDescriptor.CPPTYPE_INT64: _integer,
    FieldDescriptor.CPPTYPE_UINT32: _integer,
    FieldDescriptor.CPPTYPE_UINT64: _integer,
    FieldDescriptor.CPPTYPE_DOUBLE: _real,
    FieldDescriptor.CPPTYPE_FLOAT: _real,
    FieldDescriptor.CPPTYPE_BOOL: _boolean,
}
