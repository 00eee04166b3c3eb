"""Tenants as labels of metrics: few, and none that would tell who somebody is."""

from __future__ import annotations

from afdp.formats.tenant import is_tenant

OTHER = "other"


class TenantLabels:
    """The first tenants that are seen get a label of their own, up to a number that is fixed; all others share one.

    A tenant's name is no e-mail address (`afdp.formats.tenant`). Where it may still be a person's, let the number be 0.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._labels: dict[str, str] = {}

    def of(self, tenant: str) -> str:
        """The label of a tenant; for as long as the process lives it stays the same, once it is its own."""
        found = self._labels.get(tenant)
        if found is None:
            if len(self._labels) >= self._most or not is_tenant(tenant):
                return OTHER
            found = self._labels[tenant] = tenant
        return found
