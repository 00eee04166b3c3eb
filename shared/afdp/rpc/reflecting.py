"""The descriptors that reflection shows: those of all packages, of health, error details and reflection itself."""

from __future__ import annotations

from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from afdp.rpc.descriptors import pool


class ReflectionPool:
    """Our pool, which also finds the file of a method: protobuf's own finds those of services only."""

    def __init__(self) -> None:
        self._pool = pool()
        # Without the types of error details a reflecting client cannot show them.
        for module in (health_pb2, reflection_pb2, duration_pb2, error_details_pb2):
            self._pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  # protobuf's name
        """The file of a message, enumeration, service, method or field.

        Raises:
            KeyError: there is none.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            owner, _, _ = symbol.rpartition(".")
            return self._pool.FindFileContainingSymbol(owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)
