"""Whose keys a tenant's administrators see, and which they may change."""

from __future__ import annotations

import pytest

from afdp.errors import NotFound, PermissionDenied
from afdp.formats.statement import Submitter
from afdp.messages.signer import KeyPurpose, PublicKey
from afdp.notary.access.key_rights import KeyRights
from afdp.notary.model import Principal

RIGHTS = KeyRights(frozenset({"operator"}))


def principal(tenant: str) -> Principal:
    return Principal(tenant, Submitter("https://issuer.example", "somebody", "oidc"))


def key(key_id: str, *tenants: str, purpose: KeyPurpose = KeyPurpose.EVIDENCE) -> PublicKey:
    return PublicKey(key_id=key_id, purpose=purpose, tenants=list(tenants))


COMMON, LOG = key("notary:1", "*"), key("log:1", purpose=KeyPurpose.LOG)
ACMES, SHARED, OTHERS = key("acme:1", "acme"), key("shared:1", "acme", "bank"), key("bank:1", "bank")
ALL = [COMMON, LOG, ACMES, SHARED, OTHERS]


def test_an_operator_sees_every_key_as_it_is_and_may_change_it() -> None:
    assert RIGHTS.seen(principal("operator"), ALL) == ALL
    for each in ALL:
        RIGHTS.require_version(principal("operator"), each)
        RIGHTS.require_key(principal("operator"), ALL, each.key_id.split(":")[0])
    RIGHTS.require_key(principal("operator"), ALL, "")
    RIGHTS.require_operator(principal("operator"))


def test_a_tenant_sees_its_own_keys_and_common_ones_and_not_who_shares_them() -> None:
    seen = RIGHTS.seen(principal("acme"), ALL)

    assert [each.key_id for each in seen] == ["notary:1", "log:1", "acme:1", "shared:1"]
    assert [each.tenants for each in seen] == [["*"], [], ["acme"], ["acme"]]
    assert SHARED.tenants == ["acme", "bank"]


def test_a_tenant_changes_what_signs_for_it_alone() -> None:
    acme = principal("acme")
    RIGHTS.require_version(acme, ACMES)
    RIGHTS.require_key(acme, ALL, "acme")
    for each in (COMMON, LOG, SHARED):
        with pytest.raises(PermissionDenied):
            RIGHTS.require_version(acme, each)
        with pytest.raises(PermissionDenied):
            RIGHTS.require_key(acme, ALL, each.key_id.split(":")[0])
    with pytest.raises(PermissionDenied):
        RIGHTS.require_key(acme, ALL, "")
    with pytest.raises(PermissionDenied):
        RIGHTS.require_operator(acme)


def test_another_tenants_key_is_not_there_nor_is_one_that_there_is_not() -> None:
    acme = principal("acme")
    refusals = []
    for version, name in ((OTHERS, "bank"), (None, "none")):
        with pytest.raises(NotFound) as refused:
            RIGHTS.require_version(acme, version)
        refusals.append(str(refused.value))
        with pytest.raises(NotFound) as refused:
            RIGHTS.require_key(acme, ALL, name)
        refusals.append(str(refused.value))
    assert refusals[:2] == refusals[2:]


def test_a_key_that_once_signed_for_others_too_is_not_a_tenants_own() -> None:
    with pytest.raises(PermissionDenied):
        RIGHTS.require_key(principal("acme"), [key("k:1", "acme", "bank"), key("k:2", "acme")], "k")
