"""Whether the policies could be used: a look of `python -m afdp.notary check`."""

from __future__ import annotations

from collections.abc import Sequence

from afdp.errors import FailedPrecondition
from afdp.notary.access.opening import live_policies
from afdp.notary.config import NotarySettings
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
