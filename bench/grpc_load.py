"""Load over gRPC: a bounded number of calls in flight on one channel."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc.aio
import orjson
import uvloop
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from afdp.formats.trust import TrustRoot
from afdp.rpc.descriptors import method
from bench.child import leave_result, result_of
from bench.figures import Run, run_of
from bench.packages import evidence
from bench.verified import require_verified

SIGN = "/afdp.notary.v1.NotaryService/SignEvidence"
EMPTY = "/afdp.notary.v1.NotaryService/HealthCheck"


async def run_grpc(address: str, kind: str, seconds: float, in_flight: int, trust: TrustRoot) -> Run:
    """One run in a process of its own; every answer is verified after it."""
    result = await result_of("bench.grpc_load", address, kind, str(seconds), str(in_flight))
    if kind == "sign":
        assert require_verified(result["receipts"], trust) == len(result["latencies"])
    return run_of(result["latencies"], result["seconds"])


def _requests(seconds: float) -> list[bytes]:
    """Encoded before the run: a client's own cost is not the service's."""
    wire = GetMessageClass(method(SIGN).request)
    return [
        json_format.ParseDict({"evidence_package": evidence()}, wire()).SerializeToString()
        for _ in range(int(seconds * 4000))
    ]


async def _load(address: str, kind: str, seconds: float, in_flight: int) -> dict[str, object]:
    requests = _requests(seconds) if kind == "sign" else []
    latencies: list[float] = []
    answers: list[bytes] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(SIGN if kind == "sign" else EMPTY)
        await call(requests.pop() if requests else b"", timeout=30)
        began, cpu = time.perf_counter(), time.process_time()
        until = began + seconds

        async def caller() -> None:
            while (sent := time.perf_counter()) < until:
                answers.append(await call(requests.pop() if requests else b"", timeout=30))
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    receipts = [_receipt(answer) for answer in answers] if kind == "sign" else []
    return {"seconds": took, "cpu": cpu, "latencies": latencies, "receipts": receipts}


def _receipt(answer: bytes) -> dict[str, Any]:
    message = GetMessageClass(method(SIGN).response).FromString(answer).receipt
    receipt = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    states = message.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
    receipt["state"] = states[message.state].name.removeprefix("RECEIPT_STATE_").lower()
    receipt["bundle"] = orjson.loads(message.bundle)
    receipt["more_bundles"] = []
    receipt["anchors"] = [orjson.loads(each) for each in message.anchors]
    return receipt


if __name__ == "__main__":
    file, address, kind, seconds, in_flight = sys.argv[1:]
    leave_result(file, uvloop.run(_load(address, kind, float(seconds), int(in_flight))))
