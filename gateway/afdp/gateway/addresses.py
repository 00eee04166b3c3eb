"""Bounds by the address that a request comes from, before anything is known of who sends it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from time import monotonic

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from afdp.errors import ResourceExhausted
from afdp.gateway.clients import told_of_client
from afdp.gateway.exchange import exchange_of
from afdp.gateway.rekor import error_response
from afdp.limits.failures import FailureLimit, network_of, speaks_for_one
from afdp.limits.rates import Buckets, Rate
from afdp.rpc import answer
from afdp.rpc.peers import FORWARDED_ADDRESS

LIMITED = Counter("afdp_gateway_rate_limited_total", "Requests refused by the address that they came from.", ["scope"])

_ADDRESSES = 65_536
_ALWAYS_SERVED = frozenset({"/health", "/metrics"})
_UNAUTHENTICATED = 401


class AddressLimits:
    """How often requests may come from one address, and how often credentials from there may fail.

    Args:
        app: what answers.
        rate: of requests; None: as many as come.
        failures: of credentials that the notary does not believe; None: without end.
        is_proxy: whether an address is a proxy of ours, which says for whom it speaks.
    """

    def __init__(self, app: ASGIApp, rate: Rate | None, failures: Rate | None, is_proxy: Callable[[str], bool]) -> None:
        self._app = app
        self._requests = Buckets(rate, _ADDRESSES) if rate is not None else None
        self._failures = FailureLimit(failures) if failures is not None else None
        self._is_proxy = is_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS_SERVED:
            await self._app(scope, receive, send)
            return
        address = address_of(scope, self._is_proxy)
        now = monotonic()
        if (refusal := self._over_rate(address, now)) is not None:
            await self._refuse(refusal, scope, receive, send)
            return
        credential = _credential(scope) if self._failures is not None else ""
        if self._failures is None or not credential or not speaks_for_one(address):
            await self._app(scope, receive, send)
            return
        if (wait := self._failures.wait(address, credential, now)) > 0:
            LIMITED.labels("authentication").inc()
            refusal = ResourceExhausted("credentials from this address have failed too often", retry_after=wait)
            await self._refuse(refusal, scope, receive, send)
            return
        await self._app(scope, receive, send)
        status = exchange_of(scope).status  # as the notary thinks of the credential
        if status == _UNAUTHENTICATED:
            self._failures.failed(address, credential, monotonic())
        elif 0 < status < 400:
            self._failures.succeeded(credential)

    def _over_rate(self, address: str, now: float) -> ResourceExhausted | None:
        if self._requests is None:
            return None
        bucket = self._requests.of(network_of(address))
        if bucket.left(now) < 1:
            LIMITED.labels("address").inc()
            rate, wait = bucket.rate, bucket.wait(now)
            answer.tell(("ratelimit-policy", f'"address";q={rate.burst};w={rate.window}'))
            answer.tell(("ratelimit", f'"address";r=0;t={int(wait) + 1}'))
            return ResourceExhausted("too many requests come from this address", retry_after=wait)
        bucket.take(now)
        return None

    async def _refuse(self, refusal: ResourceExhausted, scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(scope, refusal, exchange_of(scope).request_id)(scope, receive, send)


def address_of(scope: Scope, is_proxy: Callable[[str], bool]) -> str:
    """The IP address of who sends a request; of what a proxy of ours hands on, the last that is no proxy of ours.

    What stands before that in `X-Forwarded-For` anybody may have written.
    """
    for name, value in told_of_client(scope):
        if name == FORWARDED_ADDRESS:  # by the certificate of who hands it on
            return value
    address: str = (scope.get("client") or ("",))[0]
    if not address or not is_proxy(address):
        return address
    hops = [hop.strip() for name, value in scope["headers"] if name == b"x-forwarded-for" for hop in value.split(b",")]
    for hop in reversed(hops):
        try:
            address = str(ip_address(hop.decode("ascii")))
        except ValueError:
            return address
        if not is_proxy(address):
            return address
    return address


def _credential(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value, "latin-1")
    return ""
