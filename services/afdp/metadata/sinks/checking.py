"""Whether the sinks of the settings can be reached, for the command `check`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from afdp.config import SettingsError
from afdp.metadata.config import MetadataSettings
from afdp.metadata.sinks.opening import sink_of
from afdp.metadata.sinks.settings import SinkSettings, read_sinks
from afdp.metadata.sinks.sink import SinkError
from afdp.selfcheck import Finding

_PATIENCE = 10.0  # seconds, where the settings grant more
_REMEDY = "docs/siem.md says what each kind needs"


async def audit_sinks(settings: MetadataSettings) -> Sequence[Finding]:
    """Each sink: reached, or why not."""
    if settings.audit_sinks is None:
        return []
    try:
        sinks = read_sinks(settings.audit_sinks).sinks
    except SettingsError as error:
        return [Finding("audit sinks", False, line, "correct the file") for line in str(error).splitlines()]
    return await asyncio.gather(*map(_finding, sinks))


async def _finding(settings: SinkSettings) -> Finding:
    name = f"audit sink {settings.name}"
    hurried = settings.model_copy(update={"timeout_seconds": min(_PATIENCE, settings.timeout_seconds)})
    try:
        return Finding(name, True, await sink_of(hurried).probe())
    except SinkError as error:
        return Finding(name, False, error.reason, _REMEDY)
