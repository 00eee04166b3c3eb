"""JSON logs with the trace and request they belong to.

`logging.getLogger(__name__).info("…", extra={"fields": {…}})` writes the fields beside the message. Nothing here
redacts: a caller never hands in evidence, tokens, keys or the text of a foreign error that may quote them.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from opentelemetry import trace
from pythonjsonlogger.orjson import OrjsonFormatter

from afdp.telemetry.context import request_id, traceparent


class _Formatter(OrjsonFormatter):
    def __init__(self, service: str) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
            timestamp="time",
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data.update(log_data.pop("fields", {}))
        if request := request_id.get():
            log_data["request_id"] = request
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            log_data["trace_id"] = trace.format_trace_id(span.trace_id)
            log_data["span_id"] = trace.format_span_id(span.span_id)
        elif parent := traceparent.get():  # of a trace that is not sampled: its ID still ties the lines together
            log_data["trace_id"] = parent.split("-")[1]


def configure_logging(service: str, level: str) -> None:
    """Sends every logger of the process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These log each request or each export; our own metrics and access log say as much.
    for noisy in ("httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
