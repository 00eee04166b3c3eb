"""One HTTP request to one request message: body, path variables, query parameters and the idempotency key together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.gateway import wire
from afdp.gateway.body import JSON
from afdp.gateway.decode import MAX_FAULTS, Encoders, Faults, FieldEncoder, text_reader
from afdp.gateway.descriptors import HttpRule, Method, RawBody
from afdp.gateway.names import spellings
from afdp.gateway.paths import proto_path, rendered
from afdp.gateway.routes import decoded, template_variables
from afdp.gateway.scalars import Refused

IDEMPOTENCY_KEY = "idempotency_key"
"""The field that the header `Idempotency-Key` fills, where a request has it."""

MAX_TEXT_DEPTH = 64
"""How deep a body may nest at all; what a field's own type allows is less."""

NOT_VALID = "the request is not valid"


@dataclass(frozen=True, slots=True)
class TextField:
    """A field that a path variable, a query parameter or a header fills."""

    name: str
    keys: tuple[str, ...]  # every spelling
    repeated: bool
    read: Callable[[str], object]
    encode: FieldEncoder

    @classmethod
    def of(cls, message: Descriptor, name: str, encoders: Encoders) -> TextField:
        """The field of that name."""
        field = message.fields_by_name[name]
        return cls(name, spellings(field), field.is_repeated, text_reader(field), encoders.field(field))

    def __call__(self, text: str, faults: Faults) -> bytes:
        """The whole field, from decoded text; a fault is noted."""
        path = (None, self.name)
        try:
            value = self.read(text)
            return self.encode([value] if self.repeated else value, path, faults)
        except Refused as refusal:
            faults.append(FieldViolation(rendered(path), str(refusal)))
            return b""


class RequestDecoder:
    """HTTP requests under one rule of one method to the method's request message, serialised.

    Attributes:
        takes_body: whether there is one.
        media_type: of the body.
        max_bytes: of the body, where it may not be as large as any; else 0.
    """

    def __init__(self, method: Method, rule: HttpRule, encoders: Encoders) -> None:
        self._descriptor = method.request
        fields = method.request.fields_by_name

        def text_field(name: str) -> TextField:
            return TextField.of(method.request, name, encoders)

        self._variables = {name: text_field(name) for name in template_variables(rule.template)}
        self._raw = rule.raw_request
        self._body = encoders.message(method.request) if rule.body == "*" else None
        self._body_field = text_field(rule.body) if rule.body not in ("", "*") and not self._raw else None
        self._key = text_field(IDEMPOTENCY_KEY) if IDEMPOTENCY_KEY in fields else None
        left = [] if rule.body == "*" else [name for name in fields if name not in (*self._variables, rule.body)]
        by_name = [text_field(name) for name in left if _fits_a_query(fields[name])]
        self._query = {key: field for field in by_name for key in field.keys}
        self.takes_body = rule.body != ""
        self.media_type = self._raw.media_type if self._raw else JSON
        self.max_bytes = self._raw.max_bytes if self._raw else 0

    def __call__(self, body: bytes, variables: Mapping[str, str], query: str, idempotency_key: str | None) -> bytes:
        """The request message.

        Args:
            body: as received; empty where the method takes none.
            variables: path variables, still percent-encoded.
            query: as in the URL, without the question mark.
            idempotency_key: the header, if it was sent.

        Raises:
            InvalidArgument: names each field that was refused.
        """
        faults: Faults = []
        members = self._read(body) if self.takes_body and not self._raw else None
        parts = [_raw_field(self._raw, body) if self._raw else self._encode_body(members, faults)]
        for name, raw in variables.items():
            parts.append(self._bound(name, self._variables[name], decoded(name, raw), members, faults))
        if query:
            parts += self._encode_query(query, faults)
        if idempotency_key is not None and self._key is not None:
            parts.append(self._idempotency(self._key, idempotency_key, members, faults))
        if faults:
            raise InvalidArgument(NOT_VALID, fields=faults)
        return b"".join(parts)

    def _read(self, body: bytes) -> object:
        if not body:
            raise InvalidArgument.field("body", "is empty; send a JSON object, {} at least")
        try:
            return strict_json(body, max_depth=MAX_TEXT_DEPTH)
        except InvalidArgument as refused:
            fields = [
                FieldViolation(proto_path(self._descriptor, fault.field), fault.message) for fault in refused.fields
            ]
            raise InvalidArgument(NOT_VALID, fields=fields) from refused

    def _encode_body(self, members: object, faults: Faults) -> bytes:
        if self._body_field is not None:
            return _whole_body(self._body_field, members, faults)
        if self._body is None:
            return b""
        try:
            return self._body(members, None, faults)
        except Refused as refusal:
            faults.append(FieldViolation("body", str(refusal)))
            return b""

    def _bound(self, name: str, field: TextField, text: str, members: object, faults: Faults) -> bytes:
        """A field that the path or a header has the word on; the body may only say the same."""
        given = [members.get(key) for key in field.keys] if isinstance(members, dict) else []
        if any(isinstance(value, str) and value not in ("", text) for value in given):
            faults.append(FieldViolation(name, "the body says something else than the path or the header"))
        return field(text, faults)

    def _idempotency(self, field: TextField, header: str, members: object, faults: Faults) -> bytes:
        if not header or not header.isascii() or not header.isprintable():
            faults.append(FieldViolation(IDEMPOTENCY_KEY, "must be 1 to 255 printable ASCII characters"))
            return b""
        return self._bound(IDEMPOTENCY_KEY, field, header, members, faults)

    def _encode_query(self, query: str, faults: Faults) -> list[bytes]:
        parts: list[bytes] = []
        seen: set[str] = set()
        for pair in filter(None, query.split("&")):
            raw_name, _, raw_value = pair.partition("=")
            name = decoded("query", raw_name.replace("+", " "))
            field = self._query.get(name)
            if field is None:
                known = ", ".join(dict.fromkeys(field.name for field in self._query.values())) or "none"
                faults.append(FieldViolation(_shown(name) or "query", f"unknown query parameter; known here: {known}"))
                continue
            if field.name in seen and not field.repeated:
                faults.append(FieldViolation(field.name, "the query parameter stands more than once"))
                continue
            seen.add(field.name)
            parts.append(field(decoded(field.name, raw_value.replace("+", " ")), faults))
            if len(faults) >= MAX_FAULTS:
                break
        return parts


def _raw_field(raw: RawBody, body: bytes) -> bytes:
    if not body:
        raise InvalidArgument.field("body", f"is empty; send {raw.media_type}")
    return wire.tag(raw.field.number, wire.LENGTH) + wire.length_delimited(body)


def _fits_a_query(field: FieldDescriptor) -> bool:
    return field.message_type is None or field.message_type.full_name == "google.protobuf.Timestamp"


def _whole_body(body: TextField, value: object, faults: Faults) -> bytes:
    try:
        return body.encode(value, (None, body.name), faults)
    except Refused as refusal:
        faults.append(FieldViolation(body.name, str(refusal)))
        return b""


def _shown(name: str) -> str:
    return name if len(name) <= 64 else name[:63] + "…"
