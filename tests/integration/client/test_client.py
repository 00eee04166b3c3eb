"""The four clients give the same values and the same errors: each test runs for each of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from afdp.client import AsyncNotaryClient, NotaryClient, Retry
from afdp.client.errors import NotConnected, TimedOut
from afdp.client.values import (
    AffectedReceipt,
    Dependency,
    EvidenceSummary,
    KeyRevocation,
    PartHealth,
    Permission,
    StatusPart,
    Validation,
    Workflow,
    WorkflowSummary,
)
from afdp.errors import (
    AlreadyExists,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from afdp.formats.evidence import canonical_evidence
from afdp.formats.receipt import Receipt
from afdp.messages import notary as pb
from afdp.messages.common import FieldError, ItemError
from afdp.pb.google.protobuf import Struct
from afdp.verify.receipts import verify_receipt
from tests.integration.client.conftest import QUICK, Asker, Running, ScriptedNotary
from tests.local_notary import CARD, MODEL, LocalNotary, evidence_of

LOCAL = LocalNotary()
RECEIPT = LOCAL.notarise()
PACKAGE = evidence_of({"model.bin": MODEL, "model.md": CARD}, build=7, ratio=0.5, big=1e20, note="naïve")
NOON = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)


def receipt_message(receipt: Receipt = RECEIPT) -> pb.NotarizationReceipt:
    return pb.NotarizationReceipt(
        evidence_package_hash=receipt.evidence_package_hash,
        rekor_log_id=receipt.rekor_log_id,
        rekor_server_url=receipt.rekor_server_url,
        signature_b64=receipt.signature_b64,
        public_key_b64=receipt.public_key_b64,
        integrated_time=receipt.integrated_time,
        log_index=receipt.log_index,
        receipt_id=receipt.receipt_id,
        state=pb.ReceiptState.LOGGED,
        key_id=receipt.key_id,
        bundle=receipt.bundle.to_json(),
    )


def signed_message() -> pb.SignEvidenceResponse:
    return pb.SignEvidenceResponse("simple-signing-1", receipt_message(), pb.WorkflowStatus.COMPLETED)


async def test_signing_gives_a_receipt_that_verifies(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", signed_message())

    signed = await ask("sign", PACKAGE, wait_for="logged", idempotency_key="key-1", dedupe=True)

    assert signed.workflow_id == "simple-signing-1"
    assert signed.status == "completed"
    assert signed.error is None
    assert signed.receipt == RECEIPT
    assert verify_receipt(signed.receipt, LOCAL.trust).verified
    [request] = notary.requests
    assert request.wait_for == pb.ReceiptState.LOGGED
    assert request.idempotency_key == "key-1"
    assert request.dedupe is True


async def test_the_evidence_arrives_as_it_was_given(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", signed_message())

    await ask("sign", PACKAGE)

    package = notary.requests[0].evidence_package
    assert package.timestamp_utc == PACKAGE.timestamp_utc
    assert [(each.name, each.hash_sha256) for each in package.artifacts] == [
        (each.name, each.hash_sha256) for each in PACKAGE.artifacts
    ]
    assert package.metadata.plain == {"build": 7.0, "ratio": 0.5, "big": 1e20, "note": "naïve"}


async def test_evidence_may_be_given_as_the_json_that_the_api_takes(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", signed_message())
    evidence = json.loads(canonical_evidence(evidence_of({})))
    evidence["actor"] = {"type": "human", "id": "alice"}

    await ask("sign", evidence)

    assert notary.requests[0].evidence_package.actor.actor_type == "human"


async def test_evidence_with_a_member_that_is_unknown_is_refused_by_name(ask: Asker, notary: ScriptedNotary) -> None:
    evidence = json.loads(canonical_evidence(evidence_of({})))
    evidence["colour"] = "blue"

    with pytest.raises(InvalidArgument) as refused:
        await ask("sign", evidence)

    assert [fault.field for fault in refused.value.fields] == ["evidence_package.colour"]
    assert not notary.requests


async def test_a_retry_carries_the_same_key_so_that_nothing_is_notarised_twice(
    ask: Asker, notary: ScriptedNotary
) -> None:
    away = Unavailable("the signer is away", retry_after=0.01)
    notary.lay_out("SignEvidence", away, signed_message())
    if "rest" in ask.kind:  # HTTP's Retry-After counts in whole seconds, more than this test has patience for
        notary.lay_out("SignEvidence", Unavailable("the signer is away"), signed_message())

    signed = await ask("sign", PACKAGE)

    assert signed.receipt == RECEIPT
    first, second = (request.idempotency_key for request in notary.requests)
    assert first == second
    assert len(first) == 32


async def test_two_calls_have_two_keys(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", signed_message())

    await ask("sign", PACKAGE)
    await ask("sign", PACKAGE)

    assert len({request.idempotency_key for request in notary.requests}) == 2


async def test_a_notary_that_stays_away_is_an_error_after_the_last_attempt(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", Unavailable("the signer is away"))

    with pytest.raises(Unavailable, match="the signer is away"):
        await ask("sign", PACKAGE)

    assert len(notary.requests) == QUICK.attempts


async def test_a_wait_that_is_too_long_is_the_callers_to_decide(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", ResourceExhausted("the queue is full", retry_after=60))

    with pytest.raises(ResourceExhausted) as refused:
        await ask("sign", PACKAGE)

    assert refused.value.retry_after == 60
    assert len(notary.requests) == 1


async def test_what_the_notary_refuses_is_not_tried_again(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", AlreadyExists("the key was used with other evidence"))

    with pytest.raises(AlreadyExists, match="the key was used with other evidence") as refused:
        await ask("sign", PACKAGE)

    assert len(notary.requests) == 1
    assert refused.value.metadata["request_id"]


async def test_a_refused_field_is_named(ask: Asker, notary: ScriptedNotary) -> None:
    fault = FieldViolation("evidence_package.event_type", "must be dotted")
    notary.lay_out("SignEvidence", InvalidArgument("the request is not valid", fields=[fault]))

    with pytest.raises(InvalidArgument) as refused:
        await ask("sign", PACKAGE)

    assert refused.value.fields == (fault,)


async def test_one_bad_package_of_a_batch_fails_alone(ask: Asker, notary: ScriptedNotary) -> None:
    error = ItemError("INVALID_ARGUMENT", "not valid", [FieldError("evidence_packages[1].actor.id", "is missing")], 0.0)
    failed = pb.SignEvidenceResponse(status=pb.WorkflowStatus.FAILED, error=error)
    answer = pb.SignEvidenceBatchResponse("batch-signing-1", [signed_message(), failed], pb.WorkflowStatus.COMPLETED)
    notary.lay_out("SignEvidenceBatch", answer)

    batch = await ask("sign_batch", [PACKAGE, PACKAGE], idempotency_key="batch")

    assert batch.batch_workflow_id == "batch-signing-1"
    good, bad = batch.results
    assert good.receipt == RECEIPT
    assert bad.receipt is None
    assert isinstance(bad.error, InvalidArgument)
    assert bad.error.fields == (FieldViolation("evidence_packages[1].actor.id", "is missing"),)
    assert len(notary.requests[0].evidence_packages) == 2


async def test_validation_says_what_was_checked(ask: Asker, notary: ScriptedNotary) -> None:
    checks = pb.ValidationResult(True, True, False, False, ["timestamp_valid: there is no timestamp"])
    notary.lay_out("ValidateEvidence", pb.ValidateEvidenceResponse(False, "not in the log", checks))

    validation = await ask("validate", PACKAGE, RECEIPT.signature_b64)

    assert validation == Validation(
        False, "not in the log", True, True, False, False, ("timestamp_valid: there is no timestamp",)
    )
    assert notary.requests[0].signature == RECEIPT.signature_b64


async def test_evidence_comes_back_as_it_was_submitted(ask: Asker, notary: ScriptedNotary) -> None:
    package = pb.EvidencePackage.from_dict(json.loads(canonical_evidence(PACKAGE)))
    notary.lay_out("GetEvidence", pb.GetEvidenceResponse(package, receipt_message(), 3))

    record = await ask("get_evidence", RECEIPT.evidence_package_hash)

    assert canonical_evidence(record.evidence_package) == canonical_evidence(PACKAGE)
    assert record.receipt == RECEIPT
    assert record.receipt_count == 3
    assert notary.requests[0].evidence_package_hash == RECEIPT.evidence_package_hash


async def test_a_search_sends_what_was_given_and_gives_a_page(ask: Asker, notary: ScriptedNotary) -> None:
    summary = pb.EvidenceSummary(
        "ab" * 32, "r-1", "simple-signing-r-1", "ai.model.released", "alice", NOON, NOON, pb.ReceiptState.LOGGED
    )
    notary.lay_out("SearchEvidence", pb.SearchEvidenceResponse([summary], "next"))

    page = await ask("search_evidence", event_type="ai.model.released", start_time=NOON, page_size=1)

    expected = EvidenceSummary(
        "ab" * 32, "r-1", "simple-signing-r-1", "ai.model.released", "alice", NOON, NOON, "logged"
    )
    assert page.items == (expected,)
    assert page.next_page_token == "next"
    [request] = notary.requests
    assert (request.event_type, request.start_time, request.page_size) == ("ai.model.released", NOON, 1)
    assert request.end_time is None


async def test_a_receipt_is_found_by_its_id_and_by_its_workflow(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("GetReceipt", pb.GetReceiptResponse(receipt_message()))
    notary.lay_out("GetNotarizationReceipt", pb.GetNotarizationReceiptResponse(receipt_message(), True))

    assert await ask("get_receipt", RECEIPT.receipt_id) == RECEIPT
    assert await ask("get_workflow_receipt", "simple-signing-1") == RECEIPT


async def test_a_workflow_that_has_no_receipt_yet_has_none(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("GetNotarizationReceipt", pb.GetNotarizationReceiptResponse())

    assert await ask("get_workflow_receipt", "simple-signing-1") is None


async def test_what_is_not_there_is_not_found(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("GetReceipt", NotFound("there is no such receipt"))

    with pytest.raises(NotFound, match="there is no such receipt"):
        await ask("get_receipt", "0199d3a0-0000-7000-8000-000000000000")


async def test_a_workflow_says_where_it_stands(ask: Asker, notary: ScriptedNotary) -> None:
    result = Struct.from_dict({"receipt_id": "r-1", "log_index": 5})
    notary.lay_out(
        "GetWorkflowStatus",
        pb.GetWorkflowStatusResponse("simple-signing-1", pb.WorkflowStatus.COMPLETED, NOON, None, "", result),
    )

    workflow = await ask("get_workflow_status", "simple-signing-1")

    assert workflow == Workflow("simple-signing-1", "completed", NOON, None, "", {"receipt_id": "r-1", "log_index": 5})


async def test_workflows_are_listed_by_status(ask: Asker, notary: ScriptedNotary) -> None:
    summary = pb.WorkflowSummary(
        "simple-signing-1", "simple_signing", pb.WorkflowStatus.FAILED, NOON, NOON, "a.b", "alice"
    )
    notary.lay_out("ListWorkflows", pb.ListWorkflowsResponse([summary], "", 1))

    page = await ask("list_workflows", status_filter="failed", page_size=10)

    assert page.items == (WorkflowSummary("simple-signing-1", "simple_signing", "failed", NOON, NOON, "a.b", "alice"),)
    assert page.total_count == 1
    assert notary.requests[0].status_filter == pb.WorkflowStatus.FAILED


def key_message(**changes: object) -> pb.Key:
    fields: dict[str, object] = {
        "key_id": "afdp-notary-key:1",
        "purpose": pb.KeyPurpose.EVIDENCE,
        "algorithm": "PKIX_ECDSA_P256_SHA_256",
        "hint": "aGludA==",
        "public_key_pem": "-----BEGIN PUBLIC KEY-----",
        "valid_from": NOON,
        "tenants": ["*"],
        "current": True,
        **changes,
    }
    return pb.Key(**fields)  # type: ignore[arg-type]


async def test_keys_are_listed_rotated_and_revoked(ask: Asker, notary: ScriptedNotary) -> None:
    revocation = pb.KeyRevocation(NOON, None, "laptop lost")
    notary.lay_out("ListKeys", pb.ListKeysResponse([key_message()]))
    notary.lay_out("RotateKey", pb.RotateKeyResponse(key_message(key_id="afdp-notary-key:2")))
    notary.lay_out("RevokeKey", pb.RevokeKeyResponse(key_message(revoked=revocation, current=False)))

    [key] = await ask("list_keys")
    rotated = await ask("rotate_key", "timestamp", "afdp-notary-key")
    revoked = await ask("revoke_key", "afdp-notary-key:1", "laptop lost", compromised_since=NOON)

    assert (key.purpose, key.tenants, key.valid_from, key.revoked) == ("evidence", ("*",), NOON, None)
    assert rotated.key_id == "afdp-notary-key:2"
    assert revoked.revoked == KeyRevocation(NOON, None, "laptop lost")
    assert (notary.requests[1].purpose, notary.requests[1].name) == (pb.KeyPurpose.TIMESTAMP, "afdp-notary-key")
    assert notary.requests[2].key_id == "afdp-notary-key:1"
    assert notary.requests[2].compromised_since == NOON


async def test_a_rotation_is_never_sent_twice(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("RotateKey", Unavailable("the signer is away"))

    with pytest.raises(Unavailable):
        await ask("rotate_key")

    assert len(notary.requests) == 1


async def test_affected_receipts_are_listed(ask: Asker, notary: ScriptedNotary) -> None:
    affected = pb.AffectedReceipt("r-1", "ab" * 32, NOON, 7)
    notary.lay_out("ListAffectedReceipts", pb.ListAffectedReceiptsResponse([affected], ""))

    page = await ask("affected_receipts", "afdp-notary-key:1", since=NOON)

    assert page.items == (AffectedReceipt("r-1", "ab" * 32, NOON, 7),)
    assert notary.requests[0].since == NOON


async def test_affected_receipts_are_exported_as_csv(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("ExportAffectedReceipts", pb.ExportAffectedReceiptsResponse(b"r-1,2026-11-24T12:00:00Z,7,ab\r\n"))

    assert await ask("export_affected", "k:1", since=NOON, page_size=2, after="r-0") == (
        b"r-1,2026-11-24T12:00:00Z,7,ab\r\n"
    )
    request = notary.requests[0]
    assert (request.key_id, request.since, request.page_size, request.after) == ("k:1", NOON, 2, "r-0")

    notary.lay_out("ExportAffectedReceipts", pb.ExportAffectedReceiptsResponse(b""))
    assert await ask("export_affected", "k:1") == b""


async def test_the_trust_root_comes_as_files(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("GetTrustRoot", pb.GetTrustRootResponse([pb.TrustFile("log.vkey", "a+b+c\n")]))

    assert await ask("trust_root") == {"log.vkey": "a+b+c\n"}


async def test_readiness_names_the_dependencies(ask: Asker, notary: ScriptedNotary) -> None:
    signer = pb.DependencyStatus("signer", True, 3, "")
    notary.lay_out(
        "HealthCheck", pb.HealthResponse("healthy", "0.1.0", 17, [signer], [pb.PartHealth("fips", True, "off")])
    )

    health = await ask("ready")

    assert (health.status, health.version, health.uptime_seconds) == ("healthy", "0.1.0", 17)
    assert health.dependencies == (Dependency("signer", True, 3, ""),)
    assert health.parts == (PartHealth("fips", True, "off"),)


async def test_a_notary_that_cannot_write_is_unavailable_to_those_who_ask(ask: Asker, notary: ScriptedNotary) -> None:
    signer = pb.DependencyStatus("signer", False, 0, "connection refused")
    notary.lay_out("HealthCheck", pb.HealthResponse("degraded", "0.1.0", 17, [signer]))

    assert (await ask("ready")).status == "degraded"
    with pytest.raises(Unavailable, match="signer: connection refused"):
        await ask("ready", writes=True)


async def test_what_is_not_built_yet_says_so(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("SignEvidence", Unimplemented("not part of this release"))

    with pytest.raises(Unimplemented, match="not part of this release"):
        await ask("sign", PACKAGE)


def test_a_notary_that_nobody_listens_for_is_not_connected(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"

    with NotaryClient(url, retry=QUICK) as client, pytest.raises(NotConnected, match=f"{url}.* cannot be reached"):
        client.list_keys()


async def test_an_answer_that_takes_too_long_is_timed_out(running: Running, notary: ScriptedNotary) -> None:
    async with AsyncNotaryClient(running.url, timeout=0.0001, retry=Retry(attempts=1)) as client:
        with pytest.raises((TimedOut, NotConnected)):
            await client.list_keys()


async def test_a_time_stamp_query_and_its_answer_are_bytes(ask: Asker, notary: ScriptedNotary) -> None:
    notary.lay_out("CreateTimestamp", pb.CreateTimestampResponse(b"\x30\x03\x00\xff"))

    assert await ask("timestamp", b"\x30\x01\xfe") == b"\x30\x03\x00\xff"
    assert notary.requests[0].timestamp_request == b"\x30\x01\xfe"

    notary.lay_out("CreateTimestamp", InvalidArgument.field("timestamp_request", "must be 1 to 8192 bytes"))
    with pytest.raises(InvalidArgument, match="must be 1 to 8192 bytes"):
        await ask("timestamp", b"x")


async def test_who_one_is_and_what_one_may_do(ask: Asker, notary: ScriptedNotary) -> None:
    held = [pb.PermissionHeld("evidence.read", True, ["role-admin"]), pb.PermissionHeld("keys.admin", False)]
    known = pb.WhoAmIResponse("acme", "https://issuer", "alice", "oidc", ["admin"], ["read"], True, held, "ab" * 32)
    notary.lay_out("WhoAmI", known)

    found = await ask("who_am_i")

    assert (found.tenant, found.subject, found.roles, found.scopes) == ("acme", "alice", ("admin",), ("read",))
    assert found.permissions == (
        Permission("evidence.read", True, ("role-admin",)),
        Permission("keys.admin", False, ()),
    )
    assert found.expires_at is None


async def test_the_status_has_each_part_with_what_to_do(ask: Asker, notary: ScriptedNotary) -> None:
    part = pb.StatusPart("signer", "vault", False, "is sealed", "unseal it")
    notary.lay_out("GetStatus", pb.GetStatusResponse([part, pb.StatusPart("notary", "service", True, "up")]))

    assert await ask("status") == (
        StatusPart("signer", "vault", False, "is sealed", "unseal it"),
        StatusPart("notary", "service", True, "up", ""),
    )
