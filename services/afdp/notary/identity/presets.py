"""What is known of the providers that many have. A file's own settings win, name by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Realm roles; the level of a log-in is its acr, whose names the realm chooses.
    "keycloak": {"roles": {"claims": ["realm_access.roles"]}, "groups": {"claims": ["groups"]}},
    # `oid` is a person's for all applications, `sub` for one; applications have their permissions as roles only.
    "entra": {
        "algorithms": ["RS256"],
        "subject": ["oid", "sub"],
        "roles": {"claims": ["roles"]},
        "groups": {"claims": ["groups"]},
        "scopes": {"claims": ["scp", "roles"]},
    },
    # `sub` is a log-in name, often an e-mail address; `uid` is not, and clients have none.
    "okta": {
        "algorithms": ["RS256"],
        "subject": ["uid", "sub"],
        "groups": {"claims": ["groups"]},
        "roles": {"claims": ["groups"]},
        "scopes": {"claims": ["scp"]},
    },
    # Workloads: they are told apart by rules, and their tokens know neither scopes nor factors.
    "github-actions": {
        "issuer": "https://token.actions.githubusercontent.com",
        "algorithms": ["RS256"],
        "scopes": {},
        "mfa": {},
        "max_lifetime_seconds": 3_600,
    },
    "gitlab": {"issuer": "https://gitlab.com", "algorithms": ["RS256"], "scopes": {}, "mfa": {}},
    "kubernetes": {"algorithms": ["RS256", "ES256"], "scopes": {}, "mfa": {}},
}
"""The settings that each preset stands for."""

WORKLOADS = frozenset({"github-actions", "gitlab", "kubernetes"})
"""Presets whose tokens are anybody's on that platform, so that rules must say whose are meant."""
