"""What a tenant may be called."""

from __future__ import annotations

import pytest

from afdp.formats.tenant import check_tenant, is_tenant


@pytest.mark.parametrize("name", ["a", "acme", "default", "bank-7.example_EU", "0199d3a0-0000-7000-8000-000000000001"])
def test_plain_names_are_tenants(name: str) -> None:
    assert check_tenant(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "*", "-a", ".a", "a/b", "a b", "a\n", "a\0", "jane@example.org", "a" * 64, "bänk", "a*", "a,b", "'; DROP"],
)
def test_what_is_long_or_looks_like_an_address_a_path_or_a_pattern_is_none(name: str) -> None:
    assert not is_tenant(name)
    with pytest.raises(ValueError, match="must be 1 to 63"):
        check_tenant(name)
