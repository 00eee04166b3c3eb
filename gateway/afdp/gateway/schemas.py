"""JSON Schema (2020-12) of messages, as the gateway reads and as it prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from afdp.formats.canonical import MAX_SAFE_INTEGER
from afdp.gateway.descriptors import Api
from afdp.gateway.known import CONSTRAINTS, REQUIRED
from afdp.gateway.names import enum_words

Schema = dict[str, Any]

NULL: Schema = {"type": "null"}

_NO_NUL = r"^[^\u0000]*$"


class Schemas:
    """The schemas under `#/components/schemas`, made as they are referred to.

    A message that is both read and printed has two schemas, as the two differ: `NameInput` and `Name`.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._printed = _reached(method.response for method in api.methods)
        self.components: dict[str, Schema] = {}

    def read(self, message: Descriptor, without: frozenset[str] = frozenset()) -> Schema:
        """What a request may hold: no unknown field, null as good as absent.

        Args:
            message: its type.
            without: fields that the path fills.
        """
        name = message.name + ("Input" if message.full_name in self._printed else "")
        if name not in self.components:
            self.components[name] = {}  # a message may hold itself
            required = [field for field in REQUIRED.get(message.name, ()) if field not in without]
            properties = {
                field.name: self.field_read(field) if field.name in required else _or_null(self.field_read(field))
                for field in message.fields
                if field.name not in without
            }
            self.components[name] = {
                **self._described(message.full_name),
                "type": "object",
                "properties": properties,
                **({"required": required} if required else {}),
                "additionalProperties": False,
            }
        return {"$ref": f"#/components/schemas/{name}"}

    def printed(self, message: Descriptor) -> Schema:
        """What an answer holds: every field, what is absent as null."""
        if message.name not in self.components:
            self.components[message.name] = {}
            self.components[message.name] = {
                **self._described(message.full_name),
                "type": "object",
                "properties": {field.name: self._field_printed(field) for field in message.fields},
                "required": [field.name for field in message.fields],
            }
        return {"$ref": f"#/components/schemas/{message.name}"}

    def field_read(self, field: FieldDescriptor) -> Schema:
        """A field of a request, or a parameter."""
        known = CONSTRAINTS.get(".".join(field.full_name.split(".")[-2:]), {})
        if field.is_repeated and not _is_map(field):
            shape: Schema = {"type": "array", "items": self._value(field, printed=False)}
        else:
            shape = self._value(field, printed=False)
        if shape.get("type") == "string" and shape.keys().isdisjoint({"format", "contentEncoding"}):
            shape["pattern"] = _NO_NUL
        return {**shape, **known, **self._described(field.full_name)}

    def _field_printed(self, field: FieldDescriptor) -> Schema:
        if field.is_repeated and not _is_map(field):
            shape: Schema = {"type": "array", "items": self._value(field, printed=True)}
        else:
            shape = self._value(field, printed=True)
            if field.has_presence or field.full_name in self._api.raw_json:
                shape = _or_null(shape)
        return {**shape, **self._described(field.full_name)}

    def _value(self, field: FieldDescriptor, *, printed: bool) -> Schema:
        if field.message_type is not None and _is_map(field):
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._value(value, printed=printed)}
        if field.message_type is not None:
            if (known := _WELL_KNOWN.get(field.message_type.full_name)) is not None:
                return dict(known)
            return self.printed(field.message_type) if printed else self.read(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.full_name in self._api.raw_json:
            return {"type": "object"}
        return dict(_SCALARS[field.type])

    def _enum(self, enum: EnumDescriptor) -> Schema:
        words = list(enum_words(enum))
        said = [f"`{word}`: {self._api.comments.get(f'{enum.full_name}.{value.name}', '')}" for value, word in words]
        self.components[enum.name] = {
            "type": "string",
            "enum": [word for _, word in words],
            "description": " ".join([self._api.comments.get(enum.full_name, ""), *said]).strip(),
        }
        return {"$ref": f"#/components/schemas/{enum.name}"}

    def comment(self, message: Descriptor) -> str:
        """What the proto says about a message."""
        return self._api.comments.get(message.full_name, "")

    def field_comment(self, field: FieldDescriptor) -> str:
        """What the proto says about a field."""
        return self._api.comments.get(field.full_name, "")

    def _described(self, full_name: str) -> Schema:
        comment = self._api.comments.get(full_name)
        return {"description": comment} if comment else {}


def _or_null(schema: Schema) -> Schema:
    """The same, or null."""
    if "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return {"anyOf": [{"$ref": schema["$ref"]}, NULL], **rest}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    more = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [*kinds, "null"], **more}


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _reached(messages: Iterable[Descriptor]) -> frozenset[str]:
    """Full names of all messages that these hold."""
    found: set[str] = set()
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return frozenset(found)


_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {"type": ["object", "array", "string", "number", "boolean", "null"]},
}

_INT32: Schema = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32: Schema = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1}
# Beyond 53 bits a decimal string.
_INT64: Schema = {"type": ["integer", "string"], "format": "int64", "pattern": "^-?(0|[1-9][0-9]{0,18})$"}
_UINT64: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^(0|[1-9][0-9]{0,19})$"}
_INT64 |= {"minimum": -MAX_SAFE_INTEGER, "maximum": MAX_SAFE_INTEGER}
_UINT64 |= {"maximum": MAX_SAFE_INTEGER}

_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SFIXED32: _INT32,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_FIXED32: _UINT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT64: _UINT64,
    FieldDescriptor.TYPE_FIXED64: _UINT64,
}
