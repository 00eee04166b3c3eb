"""What belongs to the call that is being served: set once at the edge, read by logs and by calls to the next hop."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")

# On the event loop's clock, in seconds; None while no call is being served.
deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

# The W3C trace context of the caller; empty where it sent none.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
