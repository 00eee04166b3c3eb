"""Authentication that an address cannot try without end."""

from __future__ import annotations

from time import monotonic

from afdp.errors import ResourceExhausted
from afdp.limits.failures import FailureLimit, speaks_for_one
from afdp.limits.rates import Rate
from afdp.notary.access.gate import Authenticator
from afdp.notary.access.limiter import LIMITED
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.model import Principal
from afdp.rpc import answer
from afdp.rpc.caller import Caller


class GuardedAuthenticator:
    """Asks another authenticator, but not for an address whose credentials have failed too often."""

    def __init__(self, inner: Authenticator, rate: Rate) -> None:
        self._inner = inner
        self._limit = FailureLimit(rate)

    async def authenticate(self, caller: Caller) -> Principal:
        """As `Authenticator.authenticate`.

        Raises:
            ResourceExhausted: nothing from this address is looked at now.
        """
        if not speaks_for_one(caller.address):
            return await self._inner.authenticate(caller)
        shown = caller.authorization or (caller.certificate.der.hex() if caller.certificate else "")
        if (wait := self._limit.wait(caller.address, shown, monotonic())) > 0:
            LIMITED.labels("address", "authentication").inc()
            answer.tell(("retry-after", str(int(wait) + 1)))
            raise ResourceExhausted("credentials from this address have failed too often", retry_after=wait)
        try:
            principal = await self._inner.authenticate(caller)
        except CredentialRefused:
            self._limit.failed(caller.address, shown, monotonic())
            raise
        self._limit.succeeded(shown)
        return principal
