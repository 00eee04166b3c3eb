"""Logs, traces and metrics, the same in every service.

Logs are JSON lines on standard error and carry the trace and request of the call they belong to. Traces are sampled by
their root (1 % by default) and exported only where a collector is named. Metrics are Prometheus'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from prometheus_client import Info

from afdp.config import ServiceSettings
from afdp.telemetry.logs import configure_logging
from afdp.telemetry.metrics import start_metrics
from afdp.version import VERSION


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a service reports through."""

    service: str
    tracer: TracerProvider


_build = Info("afdp_build", "Which service this is, of which version, and whether FIPS mode is required.")


@contextmanager
def start_telemetry(service: str, settings: ServiceSettings) -> Iterator[Telemetry]:
    """Starts logging, tracing and the metrics port; on leaving, flushes what is still to be exported."""
    configure_logging(service, settings.log_level)
    _build.info({"service": service, "version": VERSION, "fips": settings.fips})
    resource = Resource.create({"service.name": f"afdp-{service}", "service.version": VERSION})
    # Shut down below, in the right order, not at interpreter exit.
    tracer = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.trace_ratio), resource=resource, shutdown_on_exit=False
    )
    if settings.otlp_endpoint:
        exporter = OTLPSpanExporter(
            endpoint=settings.otlp_endpoint, insecure=settings.otlp_endpoint.startswith("http:")
        )
        tracer.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(tracer)
    server = start_metrics(settings) if settings.metrics_port else None
    try:
        yield Telemetry(service, tracer)
    finally:
        tracer.shutdown()
        if server:
            server.shutdown()
            server.server_close()
