"""Every RPC across tenants, over gRPC and REST: what belongs to one is not there for another, whatever it asks with.

Both callers are administrators, and a policy of the test's own lets them look after keys, so that what keeps them apart
is beneath the policies. The table is held against the descriptors: an RPC without an entry fails.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uuid_utils

from afdp.errors import InvalidArgument, NotaryError, NotFound, PermissionDenied
from afdp.messages import notary as pb
from afdp.notary.evidence import to_message
from afdp.rpc.descriptors import method, service_methods
from tests.e2e.evidence import package
from tests.e2e.two_tenants import COMMON_KEY, COMMON_LOG, OWN_KEY, OWN_LOG, SERVICE, Tenant, World, running_world
from tests.local_entries import fresh_request


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running_world(tmp_path_factory.mktemp("tenants")) as found:
        yield found


# --- what is asserted -------------------------------------------------------------------------------------------------


async def _refused(call: Awaitable[Any], error: type[NotaryError]) -> str:
    with pytest.raises(error) as refused:
        await call
    return str(refused.value)


async def _is_not_there(
    beta: Tenant, rpc: str, foreign: Any, unknown: Any, paths: tuple[str, str], get: bool = True, body: Any = None
) -> None:
    """A foreign identifier is answered in the very words of one that there never was."""
    assert await _refused(beta.call(rpc, foreign), NotFound) == await _refused(beta.call(rpc, unknown), NotFound)
    answers = [await (beta.get(path) if get else beta.post(path, body)) for path in paths]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def _token_is_refused(beta: Tenant, rpc: str, request: Any, path: str, token: str, **parameters: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await beta.call(rpc, request)
    assert [each.field for each in refused.value.fields] == ["page_token"]
    assert (await beta.get(path, page_token=token, **parameters))[0] == 400


def _statement(receipt: Mapping[str, Any]) -> dict[str, Any]:
    bundle = receipt["bundle"]
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    notary: dict[str, Any] = json.loads(payload)["predicate"]["notary"]
    return notary


def _is_beta_s_own(world: World, receipt: pb.NotarizationReceipt | Mapping[str, Any] | None) -> None:
    assert receipt is not None
    if isinstance(receipt, pb.NotarizationReceipt):
        found = {"receipt_id": receipt.receipt_id, "key_id": receipt.key_id, "bundle": json.loads(receipt.bundle)}
    else:
        found = dict(receipt)
    assert found["receipt_id"] != world.owned.receipt["receipt_id"]
    assert found["key_id"].startswith(COMMON_KEY)
    assert _statement(found)["tenant"] == "beta"


def _message(body: Mapping[str, Any]) -> pb.EvidencePackage:
    found: pb.EvidencePackage = to_message(json.dumps(body).encode())
    return found


def _unknown_hash() -> str:
    return sha256(uuid.uuid4().bytes).hexdigest()


UNKNOWN = "019a0000-0000-7000-8000-000000000000"


# --- the table --------------------------------------------------------------------------------------------------------


async def sign_evidence(w: World) -> None:
    """The same evidence under the same key, deduplicated even: a receipt of beta's own."""
    request = pb.SignEvidenceRequest(_message(w.owned.package), idempotency_key="k", dedupe=True)
    first = (await w.beta.call("SignEvidence", request)).receipt
    _is_beta_s_own(w, first)
    body = {"evidence_package": w.owned.package, "dedupe": True}
    status, answer = await w.beta.post("/api/v1/evidence/sign", body, **{"idempotency-key": "k"})
    assert status == 200
    assert answer["receipt"]["receipt_id"] == first.receipt_id
    other = {"evidence_package": package()}
    status, clash = await w.beta.post("/api/v1/evidence/sign", other, **{"idempotency-key": "k"})
    assert status == 409
    assert not _names_alpha(w, clash)


async def sign_evidence_batch(w: World) -> None:
    request = pb.SignEvidenceBatchRequest([_message(w.owned.package)], idempotency_key="b")
    answer = await w.beta.call("SignEvidenceBatch", request)
    assert answer.batch_workflow_id != w.owned.batch_id
    _is_beta_s_own(w, answer.results[0].receipt)
    body = {"evidence_packages": [w.owned.package]}
    status, again = await w.beta.post("/api/v1/evidence/sign/batch", body, **{"idempotency-key": "b"})
    assert (status, again["batch_workflow_id"]) == (200, answer.batch_workflow_id)


async def sign_evidence_stream(w: World) -> None:
    asked = pb.SignEvidenceRequest(_message(w.owned.package), idempotency_key="k", dedupe=True)
    [answer] = await w.beta.stream("SignEvidenceStream", [pb.SignEvidenceStreamRequest(1, asked)])
    assert answer.response is not None
    _is_beta_s_own(w, answer.response.receipt)


async def validate_evidence(w: World) -> None:
    evidence, signature = _message(package(**w.owned.package)), w.owned.receipt["signature_b64"]
    unknown = base64.b64encode(b"nothing").decode()
    answers = [
        await w.beta.call("ValidateEvidence", pb.ValidateEvidenceRequest(evidence, each))
        for each in (signature, unknown)
    ]
    assert answers[0] == answers[1]
    assert not answers[0].is_valid
    bodies = [{"evidence_package": w.owned.package, "signature": each} for each in (signature, unknown)]
    told = [await w.beta.post("/api/v1/evidence/validate", body) for body in bodies]
    assert told[0] == told[1]
    assert (told[0][0], told[0][1]["is_valid"]) == (200, False)


async def get_evidence(w: World) -> None:
    # Beta may have notarised the same package meanwhile: what only alpha has is in its batch.
    _, found = await w.alpha.get("/api/v1/evidence", event_type="alpha.only")
    only = next(each["evidence_package_hash"] for each in found["evidence"] if each["actor_id"] != "of-alpha")
    unknown = _unknown_hash()
    await _is_not_there(
        w.beta,
        "GetEvidence",
        pb.GetEvidenceRequest(only),
        pb.GetEvidenceRequest(unknown),
        (f"/api/v1/evidence/{only}", f"/api/v1/evidence/{unknown}"),
    )


async def search_evidence(w: World) -> None:
    artifact = w.owned.package["artifacts"][0]["hash_sha256"]
    for filters in ({}, {"evidence_package_hash": w.owned.hash}, {"artifact_hash": artifact}, {"actor_id": "of-alpha"}):
        answer = await w.beta.call("SearchEvidence", pb.SearchEvidenceRequest(**filters))
        _, told = await w.beta.get("/api/v1/evidence", **filters)
        ids = {each.receipt_id for each in answer.evidence} | {each["receipt_id"] for each in told["evidence"]}
        assert not ids & await _receipts_of(w.alpha)
    token = w.owned.page_token
    request = pb.SearchEvidenceRequest(page_size=2, page_token=token)
    await _token_is_refused(w.beta, "SearchEvidence", request, "/api/v1/evidence", token, page_size=2)


async def export_evidence(w: World) -> None:
    for filters in ({}, {"evidence_package_hash": w.owned.hash}, {"actor_id": "of-alpha"}, {"log_index": 0}):
        told = await w.beta.rest.get("/api/v1/evidence:export", params=filters)
        assert told.status_code == 200
        assert not [each for each in await _receipts_of(w.alpha) if each in told.text]
    afters = w.owned.receipt["receipt_id"], str(uuid_utils.uuid7())
    answers = [await w.beta.get("/api/v1/evidence:export", after=each) for each in afters]
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


async def get_workflow_status(w: World) -> None:
    for own, prefix in ((w.owned.workflow_id, "simple-signing-"), (w.owned.batch_id, "batch-signing-")):
        unknown = prefix + UNKNOWN
        await _is_not_there(
            w.beta,
            "GetWorkflowStatus",
            pb.GetWorkflowStatusRequest(own),
            pb.GetWorkflowStatusRequest(unknown),
            (f"/api/v1/workflows/{own}/status", f"/api/v1/workflows/{unknown}/status"),
        )


async def get_notarization_receipt(w: World) -> None:
    unknown = "simple-signing-" + UNKNOWN
    ids = (w.owned.workflow_id, unknown)
    answers = [await w.beta.call("GetNotarizationReceipt", pb.GetNotarizationReceiptRequest(each)) for each in ids]
    assert answers[0] == answers[1]
    assert not answers[0].found
    told = [await w.beta.get(f"/api/v1/workflows/{each}/receipt") for each in ids]
    assert told[0] == told[1]


async def list_workflows(w: World) -> None:
    answer = await w.beta.call("ListWorkflows", pb.ListWorkflowsRequest(page_size=1000))
    _, told = await w.beta.get("/api/v1/workflows", page_size=1000)
    _, of_alpha = await w.alpha.get("/api/v1/workflows", page_size=1000)
    foreign = {each["workflow_id"] for each in of_alpha["workflows"]}
    assert foreign
    assert not foreign & {each.workflow_id for each in answer.workflows}
    assert not foreign & {each["workflow_id"] for each in told["workflows"]}
    assert told["total_count"] == len(told["workflows"])
    token = w.owned.workflows_token
    request = pb.ListWorkflowsRequest(page_size=1, page_token=token)
    await _token_is_refused(w.beta, "ListWorkflows", request, "/api/v1/workflows", token, page_size=1)


async def get_receipt(w: World) -> None:
    own = w.owned.receipt["receipt_id"]
    await _is_not_there(
        w.beta,
        "GetReceipt",
        pb.GetReceiptRequest(own),
        pb.GetReceiptRequest(UNKNOWN),
        (f"/api/v1/receipts/{own}", f"/api/v1/receipts/{UNKNOWN}"),
    )


async def watch_receipts(w: World) -> None:
    """Who shows another's cursor is told of its own receipts from there on."""
    cursor = (await w.alpha.hear("", 1))[0].cursor
    made = {}
    for tenant in (w.alpha, w.beta):
        status, signed = await tenant.post("/api/v1/evidence/sign", {"evidence_package": package()})
        assert status == 200
        made[tenant.name] = signed["receipt"]["receipt_id"]
    for tenant in (w.beta, w.alpha):
        told = await tenant.hear(cursor, 2)
        assert told[-1].receipt_id == made[tenant.name]
        async with tenant.rest.stream("GET", "/api/v1/receipts:watch", params={"cursor": cursor}) as answer:
            lines = [line async for line in _until(answer.aiter_lines(), made[tenant.name])]
        assert not [line for line in lines for name, each in made.items() if name != tenant.name and each in line]


async def _until(lines: AsyncIterator[str], word: str) -> AsyncIterator[str]:
    async with asyncio.timeout(30):
        async for line in lines:
            yield line
            if word in line:
                return


async def list_keys(w: World) -> None:
    for tenant, sees in ((w.alpha, True), (w.beta, False)):
        ids = {key.key_id.rpartition(":")[0] for key in (await tenant.call("ListKeys", pb.ListKeysRequest())).keys}
        _, told = await tenant.get("/api/v1/keys")
        assert ids == {key["key_id"].rpartition(":")[0] for key in told["keys"]}
        assert COMMON_KEY in ids
        assert (OWN_KEY in ids) is sees


async def rotate_key(w: World) -> None:
    foreign, unknown, common = (pb.RotateKeyRequest(pb.KeyPurpose.EVIDENCE, n) for n in (OWN_KEY, "none", COMMON_KEY))
    refused = [await _refused(w.beta.call("RotateKey", each), NotFound) for each in (foreign, unknown)]
    assert refused[0] == refused[1]
    told = [await w.beta.post("/api/v1/keys:rotate", {"name": name}) for name in (OWN_KEY, "none")]
    assert told[0] == told[1]
    assert told[0][0] == 404
    for name in ("", COMMON_KEY):
        assert (await w.beta.post("/api/v1/keys:rotate", {"name": name}))[0] == 403
    await _refused(w.alpha.call("RotateKey", common), PermissionDenied)
    fresh = (await w.alpha.call("RotateKey", foreign)).key
    assert fresh.key_id == f"{OWN_KEY}:2"


async def revoke_key(w: World) -> None:
    _, told = await w.alpha.get("/api/v1/keys")
    common = next(key["key_id"] for key in told["keys"] if key["key_id"].startswith(COMMON_KEY))
    requests = [pb.RevokeKeyRequest(each, reason="r") for each in (w.owned.key_id, "none:1")]
    refused = [await _refused(w.beta.call("RevokeKey", each), NotFound) for each in requests]
    assert refused[0] == refused[1]
    paths = [f"/api/v1/keys/{each}:revoke" for each in (w.owned.key_id, "none:1", common)]
    answers = [await w.beta.post(path, {"reason": "r"}) for path in paths]
    assert answers[0] == answers[1]
    assert [status for status, _ in answers] == [404, 404, 403]


async def list_affected_receipts(w: World) -> None:
    own, unknown = w.owned.key_id, "none:1"
    await _is_not_there(
        w.beta,
        "ListAffectedReceipts",
        pb.ListAffectedReceiptsRequest(own),
        pb.ListAffectedReceiptsRequest(unknown),
        (f"/api/v1/keys/{own}/receipts", f"/api/v1/keys/{unknown}/receipts"),
    )
    status, told = await w.beta.get(f"/api/v1/keys/{COMMON_KEY}:1/receipts", page_size=1000)
    assert status == 200
    assert {each["receipt_id"] for each in told["receipts"]} <= await _receipts_of(w.beta)


async def export_affected_receipts(w: World) -> None:
    own, unknown = w.owned.key_id, "none:1"
    await _is_not_there(
        w.beta,
        "ExportAffectedReceipts",
        pb.ExportAffectedReceiptsRequest(own),
        pb.ExportAffectedReceiptsRequest(unknown),
        (f"/api/v1/keys/{own}/receipts:export", f"/api/v1/keys/{unknown}/receipts:export"),
    )
    path = f"/api/v1/keys/{COMMON_KEY}:1/receipts:export"
    answers = [await w.beta.get(path, after=each) for each in (w.owned.receipt["receipt_id"], UNKNOWN)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 400
    assert w.owned.receipt["receipt_id"] not in str(await w.beta.get(path))


async def publish_trust(w: World) -> None:
    files = [pb.TrustFile("2.root.json", "{}")]
    await _refused(w.beta.call("PublishTrust", pb.PublishTrustRequest(files)), PermissionDenied)
    body = {"files": [{"name": "2.root.json", "content": "{}"}]}
    assert (await w.beta.post("/api/v1/trust-root:publish", body))[0] == 403


async def add_log_entry(w: World) -> None:
    """Each tenant's into the log that takes its entries: alpha's own one, the common one."""
    for tenant, origin in ((w.alpha, OWN_LOG), (w.beta, COMMON_LOG)):
        status, answer = await tenant.post("/api/v2/log/entries", fresh_request())
        assert status == 201, answer
        assert answer["inclusionProof"]["checkpoint"]["envelope"].startswith(f"{origin}\n")
        request = pb.AddLogEntryRequest(json.dumps(fresh_request()).encode())
        entry = json.loads((await tenant.call("AddLogEntry", request)).log_entry)
        assert entry["inclusionProof"]["checkpoint"]["envelope"].startswith(f"{origin}\n")


async def add_log_entries(w: World) -> None:
    request = pb.AddLogEntriesRequest([pb.AddLogEntryRequest(json.dumps(fresh_request()).encode())])
    [result] = (await w.beta.call("AddLogEntries", request)).results
    assert result.response is not None
    envelope = json.loads(result.response.log_entry)["inclusionProof"]["checkpoint"]["envelope"]
    assert envelope.startswith(f"{COMMON_LOG}\n")


async def _once_there(tenant: Tenant, what: str) -> list[dict[str, Any]]:
    """Rows or seals of the audit trail: they are sealed a second after they were written."""
    async with asyncio.timeout(60):
        while True:
            _, answer = await tenant.get(f"/api/v1/audit/{what}")
            if found := answer[what]:
                return list(found)
            await asyncio.sleep(0.1)


async def holds(w: World) -> None:
    placed = (await w.alpha.call("PlaceHold", pb.PlaceHoldRequest(case_number="c", reason="r", actor_id="nobody"))).hold
    status, listed = await w.beta.get("/api/v1/holds", include_released=True)
    assert status == 200
    assert placed.hold_id not in {each["hold_id"] for each in listed["holds"]}
    paths = [f"/api/v1/holds/{each}:release" for each in (placed.hold_id, UNKNOWN)]
    answers = [await w.beta.post(path, {"reason": "r"}) for path in paths]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    _, own = await w.alpha.get("/api/v1/holds")
    assert placed.hold_id in {each["hold_id"] for each in own["holds"]}
    assert (await w.alpha.post(paths[0], {"reason": "over"}))[0] == 200


async def erasures(w: World) -> None:
    request = pb.EraseSubjectRequest(subject="human:nobody", reason="r")
    erased = (await w.alpha.call("EraseSubject", request)).erasure
    answers = [await w.beta.get(f"/api/v1/erasures/{each}") for each in (erased.erasure_id, "ab" * 16)]
    assert answers[0][0] == answers[1][0] == 404
    assert answers[0][1]["detail"] == answers[1][1]["detail"]
    assert (await w.alpha.get(f"/api/v1/erasures/{erased.erasure_id}"))[0] == 200
    assert [each["erasure_id"] for each in (await w.alpha.get("/api/v1/erasures"))[1]["erasures"]] == [
        erased.erasure_id
    ]
    assert (await w.beta.get("/api/v1/erasures"))[1]["erasures"] == []


async def run_retention(w: World) -> None:
    await _refused(w.beta.call("RunRetention", pb.RunRetentionRequest(dry_run=True)), PermissionDenied)


async def list_audit_events(w: World) -> None:
    for tenant, name in ((w.alpha, "alpha"), (w.beta, "beta")):
        await tenant.get("/api/v1/evidence")
        status, answer = await tenant.get("/api/v1/audit/events")
        assert status == 200
        assert {json.loads(each)["metadata"]["tenant_uid"] for each in answer["events"]} == {name}


async def export_audit_rows(w: World) -> None:
    for tenant, name in ((w.alpha, "alpha"), (w.beta, "beta")):
        await tenant.get("/api/v1/evidence")
        rows = await _once_there(tenant, "rows")
        assert {json.loads(each["row"])["tenant"] for each in rows} == {name}
    await _refused(w.beta.call("ExportAuditRows", pb.ExportAuditRowsRequest(all_tenants=True)), PermissionDenied)


async def export_audit_seals(w: World) -> None:
    """They are hashes over what everybody does, and the same for everybody."""
    seals = await _once_there(w.beta, "seals")
    assert set(json.loads(seals[0]["body"])) == {"first", "last", "number", "previous", "root", "rows", "time"}


async def get_status(w: World) -> None:
    await _refused(w.beta.call("GetStatus", pb.GetStatusRequest()), PermissionDenied)
    assert (await w.beta.get("/api/v1/status"))[0] == 403


async def who_am_i(w: World) -> None:
    for tenant in (w.alpha, w.beta):
        assert (await tenant.call("WhoAmI", pb.WhoAmIRequest())).tenant == tenant.name
        assert (await tenant.get("/api/v1/whoami"))[1]["tenant"] == tenant.name


async def is_the_same_for_everybody(w: World) -> None:
    """The trust root and the log are published, and a time stamp and health are of nobody in particular."""
    answers = [await tenant.get("/api/v1/trust-root") for tenant in (w.alpha, w.beta)]
    assert answers[0][0] == answers[1][0] == 200


Entry = Callable[[World], Awaitable[None]]
NOT_BUILT: Entry | None = None
"""Planned only: answered so to everybody. Who builds it gives it an entry."""

TABLE: dict[str, Entry | None] = {
    "SignEvidence": sign_evidence,
    "SignEvidenceWithApproval": NOT_BUILT,
    "SignEvidenceBatch": sign_evidence_batch,
    "SignEvidenceStream": sign_evidence_stream,
    "ValidateEvidence": validate_evidence,
    "GetEvidence": get_evidence,
    "SearchEvidence": search_evidence,
    "ExportEvidence": export_evidence,
    "GetWorkflowStatus": get_workflow_status,
    "GetNotarizationReceipt": get_notarization_receipt,
    "ListWorkflows": list_workflows,
    "GetReceipt": get_receipt,
    "WatchReceipts": watch_receipts,
    "DecideApproval": NOT_BUILT,
    "CancelWorkflow": NOT_BUILT,
    "ListKeys": list_keys,
    "RotateKey": rotate_key,
    "RevokeKey": revoke_key,
    "ListAffectedReceipts": list_affected_receipts,
    "ExportAffectedReceipts": export_affected_receipts,
    "PlaceHold": holds,
    "ReleaseHold": holds,
    "ListHolds": holds,
    "EraseSubject": erasures,
    "GetErasure": erasures,
    "ListErasures": erasures,
    "RunRetention": run_retention,
    "ListAuditEvents": list_audit_events,
    "ExportAuditRows": export_audit_rows,
    "ExportAuditSeals": export_audit_seals,
    "GetTrustRoot": is_the_same_for_everybody,
    "GetTrustFile": is_the_same_for_everybody,
    "PublishTrust": publish_trust,
    "CreateTimestamp": is_the_same_for_everybody,
    "AddLogEntry": add_log_entry,
    "AddLogEntries": add_log_entries,
    "GetStatus": get_status,
    "WhoAmI": who_am_i,
    "HealthCheck": is_the_same_for_everybody,
}


@pytest.mark.parametrize("rpc", [each.name for each in service_methods(SERVICE)])
async def test_an_rpc_gives_one_tenant_nothing_of_another_s(world: World, rpc: str) -> None:
    entry = TABLE[rpc]
    known = method(f"/{SERVICE}/{rpc}")
    assert bool(known.planned) is (entry is NOT_BUILT), "an RPC that is built needs an entry of its own"
    if entry is not None:
        await entry(world)


async def test_two_principals_of_a_tenant_may_use_the_same_idempotency_key(world: World) -> None:
    bodies = [{"evidence_package": package()} for _ in world.both_of_beta]
    answers = [
        await one.post("/api/v1/evidence/sign", body, **{"idempotency-key": "ours"})
        for one, body in zip(world.both_of_beta, bodies, strict=True)
    ]
    assert [status for status, _ in answers] == [200, 200]
    again = [
        await one.post("/api/v1/evidence/sign", body, **{"idempotency-key": "ours"})
        for one, body in zip(world.both_of_beta, bodies, strict=True)
    ]
    ids = [[told["receipt"]["receipt_id"] for _, told in each] for each in (answers, again)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


async def test_a_tenant_that_has_used_up_its_day_is_told_until_when_and_the_others_go_on(world: World) -> None:
    async def sign(tenant: Tenant, body: Any = None, **key: str) -> httpx.Response:
        sent = body or {"evidence_package": package()}
        return await tenant.rest.post("/api/v1/evidence/sign", json=sent, headers=key)

    first, key = {"evidence_package": package()}, {"idempotency-key": "the first of the day"}
    many = {"evidence_packages": [package() for _ in range(4)]}
    assert (await world.gamma.post("/api/v1/evidence/sign/batch", many))[0] == 400
    receipt = (await sign(world.gamma, first, **key)).raise_for_status()
    one = {"evidence_packages": [package()]}
    of_batch = (await world.gamma.post("/api/v1/evidence/sign/batch", one, **{"idempotency-key": "a batch"}))[1]
    refused = await sign(world.gamma)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert "2 packages a day" in refused.json()["detail"]
    status, batch = await world.gamma.post("/api/v1/evidence/sign/batch", {"evidence_packages": [package()]})
    assert status == 200
    assert batch["results"][0]["error"]["code"] == "RESOURCE_EXHAUSTED"
    # Who comes again for what was notarised gets it all the same.
    assert (await sign(world.gamma, first, **key)).content == receipt.content
    assert (await sign(world.gamma, {**first, "dedupe": True})).json()["receipt"] == receipt.json()["receipt"]
    again = await world.gamma.post("/api/v1/evidence/sign/batch", one, **{"idempotency-key": "a batch"})
    assert again == (200, of_batch)
    assert (await sign(world.gamma, **key)).status_code == 409
    assert (await sign(world.gamma, **{"idempotency-key": "another"})).status_code == 429
    assert (await sign(world.beta)).status_code == 200
    assert len(await _receipts_of(world.gamma)) == 2


async def _receipts_of(tenant: Tenant) -> set[str]:
    _, told = await tenant.get("/api/v1/evidence", page_size=1000)
    return {each["receipt_id"] for each in told["evidence"]}


def _names_alpha(w: World, told: Any) -> bool:
    return any(word in json.dumps(told) for word in ("alpha", w.owned.receipt["receipt_id"], w.owned.hash))
