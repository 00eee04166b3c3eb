"""How much tenants may notarise a day, and how much they did.

The store counts, durably and for all notaries together, in the transaction that writes the records; its answer says
where a tenant stands. So asking costs no round trip, and a notary that was just started lets in what comes before its
first batch is written. What is on its way here counts too, and for a moment twice: a tenant may be refused a little
before its allowance is used up, and can go over it by no more than what is on its way through other notaries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field

from afdp.errors import InvalidArgument, ResourceExhausted
from afdp.messages.metadata import TenantUsage
from afdp.notary.tenant_labels import TenantLabels

logger = logging.getLogger(__name__)

ALL = "*"
_DAY = 86_400  # seconds

_packages = Counter(
    "afdp_notary_tenant_packages", "Evidence packages by tenant: receipt, error or over_quota.", ["tenant", "outcome"]
)
_bytes = Counter("afdp_notary_tenant_bytes", "Bytes of evidence that have a receipt, by tenant.", ["tenant"])


class Allowance(BaseModel):
    """What one tenant may notarise; None: as much as it likes.

    Attributes:
        records_per_day: evidence packages, from midnight to midnight, UTC.
        bytes_per_day: bytes of evidence in canonical form.
        batch_packages: packages of one batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    records_per_day: Annotated[int, Field(ge=0)] | None = None
    bytes_per_day: Annotated[int, Field(ge=0)] | None = None
    batch_packages: Annotated[int, Field(ge=1)] | None = None


@dataclass(slots=True)
class _Used:
    """What a tenant has used of a day, as the store said last, and what is on its way here."""

    day: int = 0
    records: int = 0
    bytes: int = 0
    records_coming: int = 0
    bytes_coming: int = 0


class Allowances:
    """Lets tenants notarise, as much as is allowed."""

    def __init__(
        self,
        by_tenant: Mapping[str, Allowance],
        labels: TenantLabels,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`by_tenant` has what is allowed, under `*` to all that are not named; `clock` gives Unix seconds."""
        self._by_tenant = by_tenant
        self._labels = labels
        self._clock = clock
        self._used: dict[str, _Used] = {}
        self._said: dict[str, int] = {}  # on which day each tenant's quota was last said to be used up
        limits = ((each.records_per_day, each.bytes_per_day) for each in by_tenant.values())
        self.counted = any(limit is not None for pair in limits for limit in pair)
        """Whether the store has to count."""

    def require_batch(self, tenant: str, packages: int) -> None:
        """Refuses a batch of too many packages. Raises InvalidArgument."""
        allowance = self._of(tenant)
        if allowance is not None and allowance.batch_packages is not None and packages > allowance.batch_packages:
            raise InvalidArgument.field(
                "evidence_packages", f"must be at most {allowance.batch_packages} packages for your tenant"
            )

    @contextmanager
    def taking(self, tenant: str, size: int) -> Iterator[None]:
        """One package of a tenant, of so many bytes, on its way.

        Raises:
            ResourceExhausted: the day's allowance is used up; says when the next day begins.
        """
        label = self._labels.of(tenant)
        used = self._admitted(tenant, size, label) if self.counted else None
        try:
            yield
        except BaseException:
            _packages.labels(label, "error").inc()
            raise
        finally:
            if used is not None:
                used.records_coming -= 1
                used.bytes_coming -= size
        _packages.labels(label, "receipt").inc()
        _bytes.labels(label).inc(size)

    def told(self, usage: Sequence[TenantUsage]) -> None:
        """Hears from the store what tenants have used."""
        for each in usage:
            if self._of(each.tenant) is None:
                continue
            used = self._used.setdefault(each.tenant, _Used())
            if each.day > used.day:
                used.day, used.records, used.bytes = each.day, each.records, each.bytes
            elif each.day == used.day:  # answers may overtake each other
                used.records, used.bytes = max(used.records, each.records), max(used.bytes, each.bytes)

    def _of(self, tenant: str) -> Allowance | None:
        return self._by_tenant.get(tenant) or self._by_tenant.get(ALL)

    def _admitted(self, tenant: str, size: int, label: str) -> _Used | None:
        allowance = self._of(tenant)
        if allowance is None:
            return None
        used = self._used.setdefault(tenant, _Used())
        now = self._clock()
        today = used.day >= int(now // _DAY)  # the store, whose clock may be ahead, says when a day begins
        records = (used.records if today else 0) + used.records_coming + 1
        size_ = (used.bytes if today else 0) + used.bytes_coming + size
        for what, number, most in (
            ("packages", records, allowance.records_per_day),
            ("bytes of evidence", size_, allowance.bytes_per_day),
        ):
            if most is not None and number > most:
                _packages.labels(label, "over_quota").inc()
                self._say(tenant, what, int(now // _DAY))
                wait = _DAY - now % _DAY
                raise ResourceExhausted(
                    f"your tenant may notarise {most:,} {what} a day (UTC), and has", retry_after=wait
                )
        used.records_coming += 1
        used.bytes_coming += size
        return used

    def _say(self, tenant: str, what: str, day: int) -> None:
        """Tells the operator, once a day."""
        if self._said.get(tenant) != day:
            self._said[tenant] = day
            logger.warning(
                "a tenant has used up its quota of the day", extra={"fields": {"tenant": tenant, "of": what}}
            )
