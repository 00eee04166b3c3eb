"""One secret out of Vault's KV engine, version 2. Blocks; every reading logs in anew, and logs out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import urllib3
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized, VaultError

from afdp.errors import FailedPrecondition, Unavailable
from afdp.vault.identity import VaultIdentity
from afdp.vault.settings import VaultAccessSettings
from afdp.vault.transport import client, open_pool


def read_secret(settings: VaultAccessSettings, mount: str, path: str, field: str) -> str:
    """The text in a field of what lies at a path.

    Raises:
        FailedPrecondition: there is none, we may not read it, or cannot log in; nothing is quoted but the settings.
        Unavailable: Vault is away.
    """
    identity = VaultIdentity(settings, "vault_", settings.vault_auth)
    address, login = identity.address(), identity.login()
    pool = open_pool(address)

    def connect(token: str) -> Any:
        return client(address, pool, token)

    try:
        try:
            lease = login(connect)
        except (Forbidden, InvalidRequest, Unauthorized):
            raise FailedPrecondition(f"Vault does not let this service in; see {login.settings}") from None
        vault = connect(lease.token)
        try:
            found = vault.adapter.get(f"/v1/{mount}/data/{path}")
        finally:
            if lease.made:
                with suppress(VaultError, urllib3.exceptions.HTTPError):
                    vault.auth.token.revoke_self()
    except InvalidPath:
        raise FailedPrecondition("Vault has nothing there") from None
    except Forbidden:
        raise FailedPrecondition("Vault does not let this service read that") from None
    except (VaultError, urllib3.exceptions.HTTPError):
        raise Unavailable("Vault cannot be reached, or cannot answer") from None
    finally:
        pool.close()
    value = ((found.get("data") or {}).get("data") or {}).get(field)
    if not isinstance(value, str) or not value:
        raise FailedPrecondition("Vault has no text in that field")
    return value
