"""How Vault is: there or not, for how long our token holds, and whether it may do what it must and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from afdp.errors import NotaryError
from afdp.signer.part import Part
from afdp.signer.vault.opening import Vault

_SOON = 600.0  # seconds

# What a signer's token must be able to do, and what it must not.
_NEEDED = {"sign/{key}": "update", "keys/{key}": "read"}
_DANGEROUS = ("keys/{key}/rotate", "keys/{key}/config", "export/signing-key/{key}", "backup/{key}")


async def report(vault: Vault, keys: Sequence[str]) -> list[Part]:
    """The parts `vault` and `vault policy`."""
    mount = vault.mount
    paths = [f"{mount}/{path.format(key=key)}" for key in keys for path in (*_NEEDED, *_DANGEROUS)]
    try:
        await vault.call(lambda client: client.auth.token.lookup_self())
    except NotaryError as error:
        return [Part("vault", False, f"{vault.access.address.url}: {error}", "see docs/deployment.md, Vault")]
    try:
        granted = await vault.call(lambda client: client.sys.get_capabilities(paths)["data"])
    except NotaryError:
        advice = "apply deploy/vault/policies/signer.hcl"
        return [_token_part(vault), Part("vault policy", True, "the token may not ask what it may do", advice)]
    return [_token_part(vault), _policy_part(mount, keys, granted)]


def _token_part(vault: Vault) -> Part:
    access = vault.access
    left = access.lease.remaining() if access.lease else None
    holds = "does not end" if left is None else f"holds for another {left:.0f} s"
    detail = f"{access.address.url}: logged in by {access.login.method}; the token {holds}"
    advice = ""
    if left is not None and left < _SOON and access.lease and not access.lease.renewable and not access.lease.made:
        advice = f"replace the token in {access.login.settings}: it cannot be renewed"
    elif left is None:
        advice = "give the signer a token that ends, or a login: one that does not end is a root token"
    return Part("vault", not advice, detail, advice)


def _policy_part(mount: str, keys: Sequence[str], granted: Mapping[str, Sequence[str]]) -> Part:
    def may(path: str, key: str, *capabilities: str) -> bool:
        return bool({*capabilities, "root"} & {*granted.get(f"{mount}/{path.format(key=key)}", ())})

    missing = [
        f"{capability} {mount}/{path.format(key=key)}"
        for key in keys
        for path, capability in _NEEDED.items()
        if not may(path, key, capability)
    ]
    if missing:
        return Part("vault policy", False, f"the token may not {missing[0]}", "apply deploy/vault/policies/signer.hcl")
    excess = [
        path.format(key=key)
        for key in keys
        for path in _DANGEROUS
        if may(path, key, "create", "read", "update", "sudo")
    ]
    if excess:
        remedy = "give the signer a token of the policy deploy/vault/policies/signer.hcl alone"
        return Part("vault policy", False, f"the token may also use {mount}/{excess[0]}", remedy)
    return Part("vault policy", True, "the token may sign with its keys and read their public halves, and not rotate")
