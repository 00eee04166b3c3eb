"""Which calls make spans."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from afdp.config import ServiceSettings
from afdp.messages.notary import (
    GetReceiptRequest,
    GetReceiptResponse,
    NotaryServiceBase,
    SignEvidenceStreamRequest,
    SignEvidenceStreamResponse,
)
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"
METHOD = "/afdp.notary.v1.NotaryService/GetReceipt"


STREAM = "/afdp.notary.v1.NotaryService/SignEvidenceStream"


class Receipts(NotaryServiceBase):
    async def get_receipt(self, request: GetReceiptRequest) -> GetReceiptResponse:
        return GetReceiptResponse()

    async def sign_evidence_stream(
        self, requests: AsyncIterator[SignEvidenceStreamRequest]
    ) -> AsyncIterator[SignEvidenceStreamResponse]:
        async for request in requests:
            yield SignEvidenceStreamResponse(sequence=request.sequence)


@pytest.fixture
async def traced() -> AsyncIterator[tuple[grpc.aio.Channel, InMemorySpanExporter]]:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    settings = ServiceSettings(port=0, metrics_port=0, drain_seconds=0.1)
    async with (
        running_server(Receipts(), settings, Telemetry("receipts", provider)) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel, spans


PARENTS = pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", 1),
        (f"00-{TRACE}-b7ad6b7169203331-00", 0),
        ("00-not-well-formed", 1),
        (None, 1),
    ],
)


@PARENTS
async def test_only_a_trace_that_its_caller_does_not_sample_makes_no_span(
    traced: tuple[grpc.aio.Channel, InMemorySpanExporter], traceparent: str | None, expected: int
) -> None:
    channel, spans = traced

    await channel.unary_unary(METHOD)(b"", metadata=[("traceparent", traceparent)] if traceparent else None)

    found = spans.get_finished_spans()
    assert len(found) == expected
    if traceparent and traceparent.endswith("-01"):
        assert f"{found[0].context.trace_id:032x}" == TRACE


@PARENTS
async def test_a_stream_is_answered_whether_it_is_traced_or_not(
    traced: tuple[grpc.aio.Channel, InMemorySpanExporter], traceparent: str | None, expected: int
) -> None:
    channel, spans = traced
    metadata = [("traceparent", traceparent)] if traceparent else None

    answers = [
        answer async for answer in channel.stream_stream(STREAM)(iter([b"\x08\x07", b"\x08\x08"]), metadata=metadata)
    ]

    assert answers == [b"\x08\x07", b"\x08\x08"]
    found = spans.get_finished_spans()
    assert [span.name for span in found] == [STREAM] * expected
    if traceparent and traceparent.endswith("-01"):
        assert f"{found[0].context.trace_id:032x}" == TRACE


async def test_health_checks_make_no_spans(traced: tuple[grpc.aio.Channel, InMemorySpanExporter]) -> None:
    channel, spans = traced

    await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")

    assert spans.get_finished_spans() == ()
