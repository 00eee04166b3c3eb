"""The name of a tenant: one rule, wherever a name comes in, be it from a setting, a token, a certificate or a peer.

Names stand in receipts, in the trust root, in metrics and in logs, all of which strangers may read: so they are short
and plain, and an e-mail address is none.
"""

from __future__ import annotations

import re

TENANT_RULE = "must be 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', a letter or digit first"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_tenant(name: str) -> bool:
    """Whether a tenant may be called so."""
    return _NAME.fullmatch(name) is not None


def check_tenant(name: str) -> str:
    """The name itself, for settings' validators.

    Raises:
        ValueError: no tenant may be called so.
    """
    if not is_tenant(name):
        raise ValueError(TENANT_RULE)
    return name
