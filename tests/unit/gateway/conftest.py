"""The API's compiled decoders and encoders, and a message type that has every kind of field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from afdp.errors import InvalidArgument
from afdp.gateway.decode import Encoders
from afdp.gateway.descriptors import Api, load_api
from afdp.gateway.encode import Readers, ResponseEncoder
from afdp.gateway.request import RequestDecoder

Decode = Callable[..., Any]


@pytest.fixture(scope="session")
def api() -> Api:
    return load_api()


@pytest.fixture(scope="session")
def decode(api: Api) -> Decode:
    """`decode("SignEvidence", body, …)` is the request message."""
    encoders = Encoders(api.raw_json)
    methods = {method.name: method for method in api.methods}
    decoders = {name: RequestDecoder(method, method.rules[0], encoders) for name, method in methods.items()}

    def run(method: str, body: bytes = b"", *, query: str = "", key: str | None = None, **variables: str) -> Any:
        wire = decoders[method](body, variables, query, key)
        return api.message_class(methods[method].request.full_name).FromString(wire)

    return run


@pytest.fixture(scope="session")
def refusals(decode: Decode) -> Callable[..., dict[str, str]]:
    """`refusals("SignEvidence", body, …)` is what was said about each field."""

    def run(*arguments: Any, **more: Any) -> dict[str, str]:
        with pytest.raises(InvalidArgument) as refused:
            decode(*arguments, **more)
        return {fault.field: fault.message for fault in refused.value.fields}

    return run


@pytest.fixture(scope="session")
def encode(api: Api) -> Callable[[Any], bytes]:
    """A message of the API as JSON."""
    readers = Readers(api.raw_json)

    def run(message: Any) -> bytes:
        return ResponseEncoder(api, message.DESCRIPTOR, readers)(message.SerializeToString())

    return run


_KINDS = descriptor_pb2.FieldDescriptorProto
_SCALARS = ("double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "bytes", "uint32")
_SIGNED = ("sfixed32", "sfixed64", "sint32", "sint64")


@pytest.fixture(scope="session")
def everything() -> Any:
    """The upb class of a message with every type: singular, repeated and in maps; nested; in a oneof; free JSON."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    pool = DescriptorPool()
    for known in ("timestamp", "struct"):
        module = __import__(f"google.protobuf.{known}_pb2", fromlist=["DESCRIPTOR"])
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        file.dependency.append(f"google/protobuf/{known}.proto")
    colour = file.enum_type.add(name="TrafficLight")
    for number, word in enumerate(("UNSPECIFIED", "RED", "DARK_GREEN")):
        colour.value.add(name=f"TRAFFIC_LIGHT_{word}", number=number)
    message = file.message_type.add(name="Everything")
    many, one = _KINDS.LABEL_REPEATED, _KINDS.LABEL_OPTIONAL

    def add(name: str, kind: Any, label: Any = one, type_name: str | None = None) -> Any:
        number = len(message.field) + 1
        return message.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)

    for word in (*_SCALARS, *_SIGNED):
        kind = getattr(_KINDS, f"TYPE_{word.upper()}")
        add(f"one_{word}", kind)
        add(f"many_{word}", kind, many)
    for name, full in (("at", "google.protobuf.Timestamp"), ("free_json", "google.protobuf.Struct")):
        add(f"one_{name}", _KINDS.TYPE_MESSAGE, one, f".{full}")
        add(f"many_{name}", _KINDS.TYPE_MESSAGE, many, f".{full}")
    add("any_value", _KINDS.TYPE_MESSAGE, one, ".google.protobuf.Value")
    add("any_list", _KINDS.TYPE_MESSAGE, one, ".google.protobuf.ListValue")
    add("light", _KINDS.TYPE_ENUM, one, ".t.TrafficLight")
    add("lights", _KINDS.TYPE_ENUM, many, ".t.TrafficLight")
    add("inner", _KINDS.TYPE_MESSAGE, one, ".t.Everything")
    add("inners", _KINDS.TYPE_MESSAGE, many, ".t.Everything")
    for key, value in (("string", "int64"), ("int32", "string"), ("bool", "double")):
        entry = message.nested_type.add(name=f"{key.capitalize()}MapEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=getattr(_KINDS, f"TYPE_{key.upper()}"), label=one)
        entry.field.add(name="value", number=2, type=getattr(_KINDS, f"TYPE_{value.upper()}"), label=one)
        add(f"{key}_map", _KINDS.TYPE_MESSAGE, many, f".t.Everything.{key.capitalize()}MapEntry")
    message.oneof_decl.add(name="choice")
    for name in ("left", "right"):
        add(name, _KINDS.TYPE_STRING).oneof_index = 0
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("t.Everything"))
