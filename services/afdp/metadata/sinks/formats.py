"""How a sink is told of an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from afdp.audit.cef import cef
from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import ocsf_json
from afdp.metadata.sinks.settings import Format

FORMATS: Mapping[Format, Callable[[RecordedEvent], bytes]] = {"ocsf": ocsf_json, "cef": cef}
"""Each gives one line, without its end."""
