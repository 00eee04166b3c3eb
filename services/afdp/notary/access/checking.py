"""Whether policies and identity settings could be used: looks of `python -m afdp.notary check`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from afdp.config import SettingsError
from afdp.errors import FailedPrecondition, NotaryError
from afdp.notary.access.opening import live_policies
from afdp.notary.config import NotarySettings
from afdp.notary.identity.identity import Identity
from afdp.notary.identity.keys import KeySource
from afdp.selfcheck import Finding


async def policies(settings: NotarySettings) -> Sequence[Finding]:
    """What is wrong with them, each fault with its file and line; nothing where nobody asks them."""
    if settings.auth == "off":
        return []
    try:
        live = live_policies(settings)
    except FailedPrecondition as error:
        return [Finding("policies", False, error.message, "mend them; `afdp policy test` tries them")]
    return [Finding("policies", True, live.described)]


async def identity(settings: NotarySettings) -> Sequence[Finding]:
    """What is wrong with the file, by name, and whether issuers' keys can be had; nothing where nobody is asked."""
    if settings.auth == "off":
        return []
    if settings.identity is None:
        remedy = "set AFDP_IDENTITY to a file that says who is believed: docs/identity.md"
        return [Finding("identity", False, "nobody is believed: AFDP_IDENTITY names no file", remedy)]
    try:
        sources = Identity(settings.identity).sources
    except SettingsError as error:
        return [Finding("identity", False, str(error), "mend it: docs/identity.md has all names")]
    found = Finding("identity", True, f"{settings.identity} can be read, and each name in it is known")
    return [found, *await asyncio.gather(*map(_issuer, sources))]


async def _issuer(source: KeySource) -> Finding:
    try:
        return Finding("issuer", True, f"{source.name} publishes {await source.look()}")
    except NotaryError as error:
        remedy = "see that this machine can reach it, and that `issuer` is as in its discovery document"
        return Finding("issuer", False, f"the keys of {source.name} cannot be had: {error.message}", remedy)
