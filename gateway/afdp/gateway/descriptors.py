"""The API as its descriptors state it: methods with their HTTP rules, options of ours, and comments.

The descriptor set is loaded into a pool of its own and parsed with that pool's classes, so that `google.api.http` and
our own options are known fields wherever they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

NOTARY = "afdp.notary.v1.NotaryService"

_VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class RawBody:
    """A field whose bytes are the whole body, as they are (`afdp.common.v1.RawBody`)."""

    field: FieldDescriptor
    media_type: str
    max_bytes: int  # 0: as many as any


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One binding of a method to HTTP (`google.api.HttpRule`)."""

    verb: str  # upper case
    template: str  # such as /api/v1/keys/{key_id}:revoke
    body: str  # "*": the whole message, "": none, else the field that the body fills
    raw_request: RawBody | None = None  # the body is no JSON
    raw_response: RawBody | None = None  # nor is the answer


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC and its bindings."""

    name: str
    path: str  # "/package.Service/Method", as gRPC calls it
    request: Descriptor
    response: Descriptor
    streaming: bool  # either way
    tells: bool  # many answers to one request
    idempotent: bool  # may be sent again
    planned: str  # named and not built yet: the sentence to say so; else empty
    rules: tuple[HttpRule, ...]
    success: int = 200  # the HTTP status


class Api:
    """A service, its methods, and what is said about each name in its files.

    Attributes:
        methods: those with an HTTP binding, in the order of the file.
        comments: by full name, of messages, fields, enums, enum values, methods and services; plain text.
        raw_json: full names of bytes fields that stand in JSON as they are.
    """

    def __init__(self, descriptor_set: bytes, service: str = NOTARY) -> None:
        self.pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(descriptor_set).file:
            self.pool.Add(file)
        self._set = self.message_class("google.protobuf.FileDescriptorSet").FromString(descriptor_set)
        self.comments: Mapping[str, str] = dict(_comments(self._set))
        self.raw_json = frozenset(self._fields_with("afdp.common.v1.raw_json"))
        self._raw_bodies = self._fields_with("afdp.common.v1.raw_body")
        self.service: ServiceDescriptor = self.pool.FindServiceByName(service)
        self.methods = tuple(method for method in self._methods(service) if method.rules)

    def message_class(self, full_name: str) -> Any:
        """The upb class of a message type of this pool."""
        kind: type[Message] = GetMessageClass(self.pool.FindMessageTypeByName(full_name))
        return kind

    def _fields_with(self, option: str) -> dict[str, Any]:
        """The value of an option by the full name of each field that has it."""
        extension = self.pool.FindExtensionByName(option)
        return {
            f"{name}.{field.name}": field.options.Extensions[extension]
            for file in self._set.file
            for name, message in _messages(file.package, file.message_type)
            for field in message.field
            if field.options.HasExtension(extension)
        }

    def _methods(self, service: str) -> Iterator[Method]:
        http = self.pool.FindExtensionByName("google.api.http")
        planned = self.pool.FindExtensionByName("afdp.common.v1.planned")
        success = self.pool.FindExtensionByName("afdp.common.v1.success_status")
        for proto in self._service_proto(service).method:
            known = self.service.methods_by_name[proto.name]
            yield Method(
                name=proto.name,
                path=f"/{service}/{proto.name}",
                request=known.input_type,
                response=known.output_type,
                streaming=proto.client_streaming or proto.server_streaming,
                tells=proto.server_streaming and not proto.client_streaming,
                idempotent=proto.options.idempotency_level != 0,
                planned=proto.options.Extensions[planned],
                rules=tuple(self._rules(proto.options.Extensions[http], known))
                if proto.options.HasExtension(http)
                else (),
                success=proto.options.Extensions[success] or 200,
            )

    def _rules(self, http: Any, method: MethodDescriptor) -> Iterator[HttpRule]:
        verb = http.WhichOneof("pattern")
        raw = self._raw_field(method.input_type, http.body), self._raw_field(method.output_type, http.response_body)
        if verb in _VERBS:
            yield HttpRule(verb.upper(), getattr(http, verb), http.body, *raw)
        elif verb == "custom":
            yield HttpRule(http.custom.kind, http.custom.path, http.body, *raw)
        for more in http.additional_bindings:
            yield from self._rules(more, method)

    def _raw_field(self, message: Descriptor, name: str) -> RawBody | None:
        said = self._raw_bodies.get(f"{message.full_name}.{name}")
        return None if said is None else RawBody(message.fields_by_name[name], said.media_type, said.max_bytes)

    def raw_fields(self, message: Descriptor) -> list[RawBody]:
        """The fields of a message that may be the whole body, each of one media type."""
        return [found for field in message.fields if (found := self._raw_field(message, field.name)) is not None]

    def _service_proto(self, full_name: str) -> Any:
        for file in self._set.file:
            for proto in file.service:
                if f"{file.package}.{proto.name}" == full_name:
                    return proto
        raise KeyError(full_name)


def load_api() -> Api:
    """The notary's API from the committed descriptor set."""
    return Api(files("afdp.pb").joinpath("descriptors.binpb").read_bytes())


def _messages(scope: str, messages: Any) -> Iterator[tuple[str, Any]]:
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, message
        yield from _messages(name, message.nested_type)


# --- comments: a location's path leads through field numbers and indexes of descriptor.proto --------------------------

_CHILDREN = {
    "FileDescriptorProto": {4: "message_type", 5: "enum_type", 6: "service"},
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type", 8: "oneof_decl"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}


def _comments(descriptor_set: Any) -> Iterator[tuple[str, str]]:
    for file in descriptor_set.file:
        for location in file.source_code_info.location:
            if location.leading_comments and (name := _name_at(file, location.path)):
                yield name, " ".join(location.leading_comments.split())


def _name_at(file: Any, path: Any) -> str:
    """The full name of what a location's path points at; empty for what has none, such as an option."""
    at, names = file, [file.package]
    for number, index in zip(path[::2], path[1::2], strict=False):
        child = _CHILDREN.get(at.DESCRIPTOR.name, {}).get(number)
        if child is None:
            return ""
        at = getattr(at, child)[index]
        names.append(at.name)
    return ".".join(names) if len(path) % 2 == 0 else ""
