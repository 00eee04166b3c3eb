"""What the gateway counts. The first two carry the names that dashboards and alerts already use."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

OTHER = "other"
"""The endpoint of requests that match no route: labels stay bounded whatever is asked for."""

IN_FLIGHT = Gauge("afdp_gateway_in_flight_requests", "Requests being served.")
IN_FLIGHT_LIMIT = Gauge("afdp_gateway_in_flight_requests_limit", "How many requests may be served at once.")
BUFFERED = Gauge("afdp_gateway_buffered_bytes", "Bytes of the bodies of requests that are being served.")
BUFFERED_LIMIT = Gauge("afdp_gateway_buffered_bytes_limit", "How many there may be.")
REFUSED = Counter("afdp_gateway_overload_refusals_total", "Requests refused because too many were being served.")
UPSTREAM_ERRORS = Counter(
    "afdp_gateway_upstream_errors_total", "Calls to the notary that failed, by gRPC method and code.", ["rpc", "code"]
)

_requests = Counter(
    "http_requests_total", "HTTP requests, by method, route template and status.", ["method", "endpoint", "code"]
)
_duration = Histogram(
    "http_request_duration_seconds",
    "Time from a request's head to the end of its answer.",
    ["method", "endpoint"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def observe(method: str, endpoint: str, status: int, seconds: float) -> None:
    """Counts one request that was answered."""
    method = method if method in _METHODS else OTHER
    _counter(method, endpoint, status).inc()
    _histogram(method, endpoint).observe(seconds)


# Finding the child of a metric by its labels costs more than counting: both are bounded, so they are kept.
@cache
def _counter(method: str, endpoint: str, status: int) -> Counter:
    return _requests.labels(method, endpoint, str(status))


@cache
def _histogram(method: str, endpoint: str) -> Histogram:
    return _duration.labels(method, endpoint)
