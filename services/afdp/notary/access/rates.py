"""How much clients and tenants may do, as settings."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from afdp.formats.tenant import check_tenant
from afdp.limits.rates import Rate, RateText

Class = Literal["create", "read", "admin"]
"""Of methods: what makes something, what only looks, and what administers keys, trust and the audit trail."""

CLASSES: tuple[Class, ...] = get_args(Class)
CREATE_PERMISSIONS = frozenset({"evidence.create", "evidence.approve"})
READ_PERMISSIONS = frozenset({"evidence.read"})


def class_of(permission: str) -> Class:
    """The class of the methods that ask for a permission."""
    if permission in CREATE_PERMISSIONS:
        return "create"
    return "read" if permission in READ_PERMISSIONS else "admin"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Share(_Model):
    """What one client or one tenant may do. A rate that is left out is that of everybody.

    Attributes:
        create, read, admin: calls of each class; each package of a batch and each message of a stream counts.
        in_flight: calls at once, in one process.
    """

    create: RateText = None
    read: RateText = None
    admin: RateText = None
    in_flight: Annotated[int, Field(ge=1)] | None = None

    def rate(self, name: Class) -> Rate | None:
        """The rate of a class; None: none."""
        found: Rate | None = getattr(self, name)
        return found

    def over(self, given: Share) -> Share:
        """This one where it says something, else what is given."""
        return given.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class Shares(_Model):
    """What each client of a tenant may do, and the tenant as a whole."""

    client: Share = Share()
    tenant: Share = Share()


class RateLimits(_Model):
    """For everybody, and for tenants that differ.

    The defaults are beyond what one machine does, so that they stop a runaway and hurt nobody.

    Attributes:
        client: what each client may do.
        tenant: what each tenant may do as a whole.
        tenants: where single tenants differ, by their names.
    """

    client: Share = Share()
    tenant: Share = Share()
    tenants: dict[Annotated[str, AfterValidator(check_tenant)], Shares] = {}

    def of(self, tenant: str) -> Shares:
        """What is in force for a tenant."""
        client, whole = self.client.over(_CLIENT), self.tenant.over(_TENANT)
        own = self.tenants.get(tenant)
        return (
            Shares(client=client, tenant=whole)
            if own is None
            else Shares(client=own.client.over(client), tenant=own.tenant.over(whole))
        )


_CLIENT = Share(create=Rate(5000, 10_000), read=Rate(2000, 4000), admin=Rate(20, 100), in_flight=1024)
_TENANT = Share(create=Rate(20_000, 40_000), read=Rate(8000, 16_000), admin=Rate(50, 200), in_flight=4096)
