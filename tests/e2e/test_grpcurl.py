"""The gRPC services as grpcurl sees them, by reflection alone."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.rpc.descriptors import service_methods
from afdp.verify.receipts import verify_receipt
from tests.e2e.evidence import package

# What is asked of each service: a call that changes nothing, and a member of its answer.
CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "notary": ("ListKeys", {}, "keys"),
    "signer": ("GetPublicKeys", {}, "keys"),
    "transparency": ("GetLog", {}, "origin"),
    "metadata": ("ListPending", {"page_size": 1}, ""),
}


@pytest.fixture
def grpcurl(tool: Callable[[str], Path], stack: Stack) -> Callable[..., Any]:
    """Runs grpcurl against a service: gives its exit status, standard output and standard error."""
    program = tool("grpcurl")

    async def run(service: str, *arguments: str, data: object = None) -> tuple[int, str, str]:
        given = ["-d", json.dumps(data)] if data is not None else []
        process = await asyncio.create_subprocess_exec(
            *(str(program), "-plaintext", "-max-time", "10", *given),
            *(f"{LOOPBACK}:{stack.port(service)}", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    return run


def full_name(service: str) -> str:
    return f"afdp.{service}.v1.{service.capitalize()}Service"


@pytest.mark.parametrize("service", CALLS)
async def test_a_service_is_listed_described_and_called(grpcurl: Callable[..., Any], service: str) -> None:
    status, services, error = await grpcurl(service, "list")
    assert (status, error) == (0, "")
    assert {full_name(service), "grpc.health.v1.Health"} <= set(services.split())

    _, methods, _ = await grpcurl(service, "list", full_name(service))
    known = service_methods(full_name(service))
    assert methods.split() == sorted(f"{full_name(service)}.{method.name}" for method in known)

    _, described, _ = await grpcurl(service, "describe", full_name(service))
    for method in known:
        assert f"rpc {method.name} (" in described

    name, request, member = CALLS[service]
    status, answer, error = await grpcurl(service, f"{full_name(service)}/{name}", data=request)
    assert (status, error) == (0, "")
    assert not member or json.loads(answer)[member]

    async with asyncio.timeout(10):  # what a service says of itself may be a second old
        while True:
            _, health, _ = await grpcurl(service, "grpc.health.v1.Health/Check", data={"service": full_name(service)})
            if json.loads(health) == {"status": "SERVING"}:
                break


async def test_messages_and_methods_of_the_public_api_are_described(grpcurl: Callable[..., Any]) -> None:
    methods = service_methods(full_name("notary"))
    names = {kind.full_name for method in methods for kind in (method.request, method.response)}

    for name in [*sorted(names)[::6], "afdp.notary.v1.EvidencePackage", "afdp.notary.v1.NotaryService.SignEvidence"]:
        status, described, error = await grpcurl("notary", "describe", name)
        assert (status, error) == (0, ""), name
        assert name.rpartition(".")[2] in described


async def test_evidence_is_signed_by_grpcurl_and_the_receipt_verifies(
    grpcurl: Callable[..., Any], trust: TrustRoot
) -> None:
    method = f"{full_name('notary')}/SignEvidence"

    status, answer, error = await grpcurl("notary", method, data={"evidence_package": package()})

    assert (status, error) == (0, "")
    signed = json.loads(answer)
    assert signed["status"] == "WORKFLOW_STATUS_COMPLETED"
    receipt = signed["receipt"]
    assert receipt["state"] == "RECEIPT_STATE_LOGGED"
    plain = {
        "evidence_package_hash": receipt["evidencePackageHash"],
        "rekor_log_id": receipt["rekorLogId"],
        "rekor_server_url": receipt["rekorServerUrl"],
        "signature_b64": receipt["signatureB64"],
        "public_key_b64": receipt["publicKeyB64"],
        "integrated_time": int(receipt["integratedTime"]),
        "log_index": int(receipt.get("logIndex", 0)),
        "receipt_id": receipt["receiptId"],
        "state": "logged",
        "key_id": receipt["keyId"],
        "bundle": json.loads(b64decode(receipt["bundle"])),
    }
    assert verify_receipt(Receipt.from_object(plain), trust).verified


async def test_a_stream_is_signed_by_grpcurl(stack: Stack, tool: Callable[[str], Path]) -> None:
    items = [{"sequence": number, "request": {"evidence_package": package()}} for number in (3, 4)]
    process = await asyncio.create_subprocess_exec(
        *(str(tool("grpcurl")), "-plaintext", "-d", "@", f"{LOOPBACK}:{stack.port('notary')}"),
        f"{full_name('notary')}/SignEvidenceStream",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate("".join(json.dumps(each) for each in items).encode())

    assert process.returncode == 0
    assert sorted(line.strip() for line in out.decode().splitlines() if '"sequence"' in line) == [
        '"sequence": "3",',
        '"sequence": "4",',
    ]


async def test_a_refusal_tells_grpcurl_the_field(grpcurl: Callable[..., Any]) -> None:
    method = f"{full_name('notary')}/SignEvidence"

    status, _, error = await grpcurl("notary", method, data={"evidence_package": package(spec_version="9")})

    assert status != 0
    assert "Code: InvalidArgument" in error
    message, details = error.split("Details:")
    assert "evidence_package.spec_version: must be 1.0.0" in message
    assert '"field":"evidence_package.spec_version"' in details


async def test_what_is_planned_says_so(grpcurl: Callable[..., Any]) -> None:
    status, _, error = await grpcurl("notary", f"{full_name('notary')}/CancelWorkflow", data={})

    assert status != 0
    assert "Code: Unimplemented" in error
    assert "cancelling is not part of this release" in error
