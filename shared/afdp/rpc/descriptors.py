"""The descriptors of all packages in a pool of our own, and what follows from them: methods and message classes.

The pool is apart from protobuf's default one, so that the process may also load other people's generated code for the
same well-known types.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

import betterproto2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def descriptor_set() -> FileDescriptorSet:
    """The committed descriptor set, with source comments."""
    return FileDescriptorSet.FromString(files("afdp.pb").joinpath("descriptors.binpb").read_bytes())


@cache
def pool() -> DescriptorPool:
    """A pool with every file of the descriptor set."""
    own = DescriptorPool()
    for file in descriptor_set().file:
        own.Add(file)
    return own


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC as the adapter needs it."""

    name: str
    full_name: str  # "/package.Service/Method"
    request: Descriptor
    response: Descriptor
    client_streaming: bool
    server_streaming: bool
    idempotent: bool  # may be sent again after UNAVAILABLE
    planned: str  # named and not built yet: the sentence to say so; else empty
    permission: str  # what a caller must be permitted; empty: anybody may call it
    callers: tuple[str, ...]  # which services may call it; none: any peer that counts


def service_methods(service: str) -> tuple[Method, ...]:
    """The methods of a service, by its full name.

    Raises:
        KeyError: no such service.
    """
    found: ServiceDescriptor = pool().FindServiceByName(service)
    return tuple(_method(method) for method in found.methods)


@cache
def method(full_name: str) -> Method:
    """One method, by its full name `/package.Service/Method`.

    Raises:
        KeyError: no such method.
    """
    service, _, name = full_name.lstrip("/").partition("/")
    return _method(pool().FindServiceByName(service).methods_by_name[name])


def _method(method: MethodDescriptor) -> Method:
    # GetOptions() parses with the default pool's class, which knows no extension of ours: parse again with our own.
    options: Any = GetMessageClass(pool().FindMessageTypeByName("google.protobuf.MethodOptions")).FromString(
        method.GetOptions().SerializeToString()
    )
    names = ("planned", "permission", "callers")
    planned, permission, callers = (pool().FindExtensionByName(f"afdp.common.v1.{name}") for name in names)
    return Method(
        name=method.name,
        full_name=f"/{method.containing_service.full_name}/{method.name}",
        request=method.input_type,
        response=method.output_type,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        idempotent=options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN,
        planned=options.Extensions[planned],
        permission=options.Extensions[permission],
        callers=tuple(options.Extensions[callers]),
    )


def message_class(descriptor: Descriptor) -> type[betterproto2.Message]:
    """The generated betterproto2 class of a message type."""
    found: type[betterproto2.Message] = _generated(descriptor)
    return found


def enum_class(descriptor: EnumDescriptor) -> type[betterproto2.Enum]:
    """The generated betterproto2 class of an enumeration."""
    found: type[betterproto2.Enum] = _generated(descriptor)
    return found


def _generated(descriptor: Descriptor | EnumDescriptor) -> Any:
    return getattr(import_module(f"afdp.pb.{descriptor.file.package}"), _nested_name(descriptor))


def _nested_name(descriptor: Descriptor | EnumDescriptor) -> str:
    """`Outer.Inner` as betterproto2 names it: `OuterInner`."""
    outer = descriptor.containing_type
    return (_nested_name(outer) if outer else "") + descriptor.name
