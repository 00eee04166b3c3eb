"""What a generated client needs of a transport. `afdp.rpc` has the one over gRPC."""

from collections.abc import AsyncIterator
from typing import Any, Protocol


class Caller(Protocol):
    """Sends request messages to a full method name (`/package.Service/Method`) and gives the answer, or a stream.

    `timeout` is in seconds; None leaves it to the transport's default. Errors are those of `afdp.errors`.
    """

    async def unary_unary(self, method: str, request: Any, timeout: float | None) -> Any: ...
    def unary_stream(self, method: str, request: Any, timeout: float | None) -> AsyncIterator[Any]: ...
    async def stream_unary(self, method: str, requests: AsyncIterator[Any], timeout: float | None) -> Any: ...
    def stream_stream(self, method: str, requests: AsyncIterator[Any], timeout: float | None) -> AsyncIterator[Any]: ...
