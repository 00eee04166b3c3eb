"""Who may do what, through the whole stack: the table of the document, evidence by its labels, changing policies."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.json_format import MessageToDict

from afdp.certs.deployment import spiffe_id
from afdp.certs.names import TRUST_DOMAIN
from afdp.client.tls import ClientTls
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.gateway.descriptors import HttpRule, load_api
from afdp.rpc.codec import decoder
from afdp.rpc.descriptors import Method, service_methods
from tests.conftest import open_folder
from tests.e2e import schemathesis_hooks
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.e2e.wire import NOTARY, message, request
from tests.local_entries import ENTRIES, fresh_request
from tests.local_issuer import LocalIssuer, write_identity

ROOT = Path(__file__).resolve().parents[2]
METHODS = service_methods(NOTARY)
RULES = {method.name: method.rules for method in load_api().methods}
READ, WRITE = "afdp.notary.read", "afdp.notary.write"
OPERATOR, OTHER = "default", "acme"
BY_CERTIFICATE = "certificate, ai_engineer"
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
CLEARANCE = (ROOT / "deploy" / "policies" / "clearance.cedar").read_text()


@dataclass(frozen=True)
class Guarded:
    """A stack that lets in who is permitted, what it believes, and its folder of policies."""

    stack: Stack
    issuer: LocalIssuer
    policies: Path

    def token(self, *roles: str, scopes: tuple[str, ...] = (READ, WRITE), tenant: str = OPERATOR, **claims: Any) -> str:
        said = {"realm_access": {"roles": list(roles)}, "scope": " ".join(scopes), "tenant": tenant}
        return self.issuer.token(self.issuer.claims(**said, **claims))

    def tls(self, person: str) -> ClientTls:
        """The certificate of somebody; only that of `engineer` is known to the notary."""
        folder = self.stack.certificates
        return ClientTls(folder / "ca.pem", folder / f"{person}.pem", folder / f"{person}-key.pem")

    def rest(self, person: str = "analyst") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.stack.url, trust_env=False, timeout=30, verify=self.tls(person).context()
        )

    def channel(self, person: str = "analyst") -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(*self.tls(person).pem())
        return grpc.aio.secure_channel(f"127.0.0.1:{self.stack.port('notary')}", credentials)

    def audit(self) -> list[dict[str, Any]]:
        """What is in the audit log by now."""
        lines = (self.stack.data_dir / "logs" / "notary.log").read_text().splitlines()
        return [event for line in lines if '"afdp.audit"' in line and (event := json.loads(line))]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded() -> AsyncIterator[Guarded]:
    with open_folder() as folder:
        policies = folder / "policies"
        policies.mkdir()
        (policies / "clearance.cedar").write_text(CLEARANCE)
        issuer = LocalIssuer(folder)
        claims = issuer.settings(clearance={"claims": "clearance"})
        engineer = {"uri": spiffe_id("engineer", TRUST_DOMAIN), "tenant": OPERATOR, "roles": "ai_engineer"}
        believed = {"issuers": [claims], "certificates": [engineer]}
        file = write_identity(folder / "identity.yaml", believed)
        settings = {
            **NO_KEY_RECORDS,
            "AFDP_AUTH": "required",
            "AFDP_IDENTITY": str(file),
            "AFDP_POLICIES": f"builtin,{policies}",
            "AFDP_POLICY_INTERVAL_SECONDS": "0.1",
            "AFDP_AUDIT_INTERVAL_SECONDS": "0.5",
        }
        options = StackOptions(folder / "data", free_offset(), tls=True, settings={"notary": settings})
        async with running_stack(options) as stack:
            yield Guarded(stack, issuer, policies)


@pytest_asyncio.fixture(loop_scope="session")
async def rest(guarded: Guarded) -> AsyncIterator[httpx.AsyncClient]:
    async with guarded.rest() as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def channel(guarded: Guarded) -> AsyncIterator[grpc.aio.Channel]:
    async with guarded.channel() as opened:
        yield opened


def bearer(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


# --- the table -------------------------------------------------------------------------------------------------------


def documented() -> dict[str, dict[str, str]]:
    """The table of docs/access.md: by RPC, what each caller gets."""
    lines = [line for line in (ROOT / "docs" / "access.md").read_text().splitlines() if line.startswith("| ")]
    at = next(index for index, line in enumerate(lines) if line.startswith("| RPC |"))
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[at:]]
    names = {method.name for method in METHODS}
    return {row[0]: dict(zip(head[3:], row[3:], strict=True)) for row in rows if row[0] in names}


def credentials(guarded: Guarded) -> dict[str, str | None]:
    """What each caller of the table shows."""
    return {
        "nobody": None,
        "ai_engineer": guarded.token("ai_engineer"),
        "security_analyst": guarded.token("security_analyst"),
        "admin": guarded.token("admin"),
        "admin, scope read": guarded.token("admin", scopes=(READ,)),
        "admin, scope write": guarded.token("admin", scopes=(WRITE,)),
        "no role": guarded.token(),
        "admin of another tenant": guarded.token("admin", tenant=OTHER),
    }


CUT_OFF = "Internal error from Core"
"""What gRPC's client may say where the answer comes while it still writes: then it does not say which answer."""


async def over_grpc(channel: grpc.aio.Channel, method: Method, token: str | None) -> str:
    """What the table would say of the answer."""
    body = b"" if method.planned else message(method, request(method.name)).SerializeToString()
    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    sent = iter([body]) if method.client_streaming else body
    call = getattr(channel, shape)(method.full_name)(sent, metadata=[*bearer(token).items()], timeout=30)
    try:
        if method.server_streaming:
            async for _ in call:
                break
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        if method.client_streaming and error.details() == CUT_OFF:
            return await over_grpc(channel, method, token)
        refused = {grpc.StatusCode.UNAUTHENTICATED: "401", grpc.StatusCode.PERMISSION_DENIED: "403"}
        return refused.get(error.code(), "✓" if error.code() not in FAULTS else str(error.details()))
    return "✓"


async def over_rest(rest: httpx.AsyncClient, method: Method, rule: HttpRule, token: str | None) -> str:
    fields = MessageToDict(message(method, request(method.name)), preserving_proto_field_name=True)
    path = re.sub(r"\{(\w+)\}", lambda found: str(fields.pop(found[1])), rule.template)
    query = fields if not rule.body else {}
    headers = {**bearer(token), "content-type": rule.raw_request.media_type if rule.raw_request else "application/json"}
    content = b"" if not rule.body else b"x" if rule.raw_request else json.dumps(fields).encode()
    for _ in range(60):
        # A stream is not waited for to end.
        async with rest.stream(rule.verb, path, params=query, content=content, headers=headers) as answer:
            text = "" if method.server_streaming else (await answer.aread()).decode(errors="replace")
        if answer.status_code not in (429, 503):  # a busy machine decides nothing
            break
        await asyncio.sleep(0.5)
    assert answer.status_code < 500, text
    return str(answer.status_code) if answer.status_code in (401, 403) else "✓"


async def test_every_rpc_is_for_whom_the_table_says(guarded: Guarded, channel: grpc.aio.Channel) -> None:
    table = documented()
    found = {
        method.name: {who: await over_grpc(channel, method, token) for who, token in credentials(guarded).items()}
        for method in METHODS
    }

    assert table.keys() == found.keys()
    for name, answers in found.items():
        assert answers == {who: table[name][who] for who in answers}, name


async def test_every_path_is_for_whom_the_table_says(guarded: Guarded, rest: httpx.AsyncClient) -> None:
    table = documented()
    bound = [method for method in METHODS if method.name in RULES and not method.planned]
    assert len(bound) > 15
    for method in bound:
        for rule in RULES[method.name]:
            answers = {who: await over_rest(rest, method, rule, token) for who, token in credentials(guarded).items()}
            assert answers == {who: table[method.name][who] for who in answers}, method.name


async def test_a_stranger_learns_nothing_from_a_refusal(guarded: Guarded, rest: httpx.AsyncClient) -> None:
    """Not whether there is such a record, nor such a principal, nor what is wrong with the request."""
    known = await sign(rest, guarded.token("ai_engineer"))
    issuer = guarded.issuer
    tokens = [
        None,
        "x",
        issuer.token()[:-8] + "AAAAAAAA",
        issuer.token(issuer.claims(sub="nobody", exp=1)),
        issuer.token(issuer.claims(iss="https://other.example")),
    ]
    bodies = set()
    for token in tokens:
        for path in (f"/api/v1/receipts/{known['receipt']['receipt_id']}", "/api/v1/receipts/nonsense"):
            answer = await rest.get(path, headers=bearer(token))
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            document = answer.json()
            bodies.add(json.dumps({name: document[name] for name in document if name != "request_id"}))
    assert len(bodies) == 1


async def test_health_reflection_and_what_is_public_need_no_credential(
    guarded: Guarded, rest: httpx.AsyncClient, channel: grpc.aio.Channel
) -> None:
    for path in ("/health", "/ready", "/openapi.json", "/api/v1/trust-root", "/log/checkpoint"):
        assert (await rest.get(path)).status_code == 200, path
    health: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    healthy: bytes = await health(b"")
    assert healthy == b"\x08\x01"


async def test_who_asks_who_it_is_hears_what_the_notary_makes_of_its_credential(
    guarded: Guarded, rest: httpx.AsyncClient
) -> None:
    told = (await rest.get("/api/v1/whoami", headers=bearer(guarded.token("ai_engineer", scopes=(READ,))))).json()
    nobodys = (await rest.get("/api/v1/whoami", headers=bearer(guarded.token()))).json()
    auditors = (await rest.get("/api/v1/whoami", headers=bearer(guarded.token("security_analyst")))).json()

    assert (told["tenant"], told["method"], told["roles"]) == ("default", "oidc", ["ai_engineer"])
    assert (told["scopes"], told["has_scopes"]) == ([READ], True)
    assert told["expires_at"]
    may = {each["name"]: (each["allowed"], each["policies"]) for each in told["permissions"]}
    assert may["evidence.read"] == (True, [])
    assert may["evidence.create"] == (False, [])
    explained = {each["name"]: (each["allowed"], each["policies"]) for each in auditors["permissions"]}
    assert explained["audit.read"] == (True, ["role-security-analyst"])
    assert not may["audit.read"][0]
    assert set(may) == {method.permission for method in METHODS} - {"", "authenticated"}
    assert not any(each["allowed"] for each in nobodys["permissions"])
    assert auditors["policy_hash"]
    assert told["policy_hash"] == nobodys["policy_hash"] == ""
    refused = await rest.get("/api/v1/whoami")
    assert refused.status_code == 401


# --- tokens that are a certificate's (RFC 8705) ---------------------------------------------------------------------


async def test_a_bound_token_is_taken_with_its_own_certificate_only(guarded: Guarded) -> None:
    pem = (guarded.stack.certificates / "analyst.pem").read_bytes()
    shown = x509.load_pem_x509_certificate(pem).fingerprint(SHA256())
    bound = {"x5t#S256": base64.urlsafe_b64encode(shown).rstrip(b"=").decode()}
    token = guarded.token("ai_engineer", cnf=bound)
    method = next(each for each in METHODS if each.name == "SearchEvidence")

    for person, answer in (("analyst", "✓"), ("engineer", "401"), ("analyst", "✓")):
        async with guarded.rest(person) as rest, guarded.channel(person) as channel:
            assert await over_rest(rest, method, RULES[method.name][0], token) == answer
            assert await over_grpc(channel, method, token) == answer


async def test_a_token_decides_where_there_is_a_certificate_too(guarded: Guarded) -> None:
    method = next(each for each in METHODS if each.name == "SearchEvidence")

    async with guarded.rest("engineer") as rest:
        assert await over_rest(rest, method, RULES[method.name][0], None) == "✓"
        assert await over_rest(rest, method, RULES[method.name][0], guarded.token()) == "403"
        assert await over_rest(rest, method, RULES[method.name][0], "no.token.at-all") == "401"


# --- evidence by its labels ------------------------------------------------------------------------------------------


async def sign(rest: httpx.AsyncClient, token: str, **metadata: Any) -> dict[str, Any]:
    answer = await rest.post(
        "/api/v1/evidence/sign", json={"evidence_package": package(metadata=metadata)}, headers=bearer(token)
    )
    assert answer.status_code == 200, answer.text
    signed: dict[str, Any] = answer.json()
    return signed


async def test_evidence_above_ones_clearance_is_not_notarised(guarded: Guarded, rest: httpx.AsyncClient) -> None:
    engineer = bearer(guarded.token("ai_engineer", clearance="internal"))
    secret = package(metadata={"classification": "restricted"})
    answer = await rest.post("/api/v1/evidence/sign", json={"evidence_package": secret}, headers=engineer)
    assert answer.status_code == 403
    assert answer.json()["detail"] == "you are not permitted to notarise this evidence"

    mixed = [package(), secret, package(metadata={"classification": "internal"})]
    answer = await rest.post("/api/v1/evidence/sign/batch", json={"evidence_packages": mixed}, headers=engineer)
    assert answer.status_code == 200
    assert [(each["error"] or {}).get("code") for each in answer.json()["results"]] == [None, "PERMISSION_DENIED", None]


async def test_in_a_stream_forbidden_evidence_fails_alone(guarded: Guarded, channel: grpc.aio.Channel) -> None:
    method = next(method for method in METHODS if method.name == "SignEvidenceStream")
    packages = [package(), package(metadata={"classification": "restricted"}), package()]
    sent = [
        message(method, {"sequence": at, "request": {"evidence_package": each}}).SerializeToString()
        for at, each in enumerate(packages, 1)
    ]
    token = guarded.token("ai_engineer", clearance="internal")
    stream: Any = channel.stream_stream(method.full_name)
    call = stream(iter(sent), metadata=[*bearer(token).items()], timeout=30)
    decode = decoder(method.response)
    answers = {found.sequence: found for data in [each async for each in call] for found in [decode(data)]}
    assert [answers[at].error is not None for at in (1, 2, 3)] == [False, True, False]
    assert answers[2].error.code == "PERMISSION_DENIED"


async def test_evidence_above_ones_clearance_is_as_if_it_were_not_there(
    guarded: Guarded, rest: httpx.AsyncClient
) -> None:
    cleared = guarded.token("ai_engineer", clearance="restricted")
    uncleared = guarded.token("ai_engineer", clearance="internal")
    signed = await sign(rest, cleared, classification="restricted")
    receipt = signed["receipt"]
    paths = {
        f"/api/v1/receipts/{receipt['receipt_id']}": f"/api/v1/receipts/{'0' + receipt['receipt_id'][1:]}",
        f"/api/v1/evidence/{receipt['evidence_package_hash']}": f"/api/v1/evidence/{'5e' * 32}",
        f"/api/v1/workflows/{signed['workflow_id']}/status": "/api/v1/workflows/simple-signing-"
        f"{'0' + receipt['receipt_id'][1:]}/status",
    }
    for path, absent in paths.items():
        assert (await rest.get(path, headers=bearer(cleared))).status_code == 200
        hidden, none = [await rest.get(each, headers=bearer(uncleared)) for each in (path, absent)]
        assert hidden.status_code == none.status_code == 404
        said = [{name: value for name, value in each.json().items() if name != "request_id"} for each in (hidden, none)]
        assert said[0] == said[1]
    found = await rest.get(f"/api/v1/workflows/{signed['workflow_id']}/receipt", headers=bearer(uncleared))
    assert found.json()["found"] is False

    for path, name in (("/api/v1/evidence", "evidence"), ("/api/v1/workflows", "workflows")):
        seen, unseen = [
            {each["workflow_id"] for each in (await rest.get(path, headers=bearer(token))).json()[name]}
            for token in (cleared, uncleared)
        ]
        assert signed["workflow_id"] in seen - unseen
    await _told_as_denied(rest, guarded.token("security_analyst"), receipt["receipt_id"])


async def _told_as_denied(rest: httpx.AsyncClient, auditor: str, receipt_id: str) -> None:
    """The audit trail says of each of those answers that a policy denied it, and which one."""
    wanted = {"resource": f"receipt:{receipt_id}", "result": "deny"}
    answer = await rest.get("/api/v1/audit/events", params=wanted, headers=bearer(auditor))
    denied = [json.loads(each) for each in answer.json()["events"]]
    assert {each["api"]["operation"]: each["unmapped"].get("answered") for each in denied} == {
        "GetReceipt": "NOT_FOUND",
        "GetEvidence": "NOT_FOUND",
        "GetWorkflowStatus": "NOT_FOUND",
        "GetNotarizationReceipt": None,  # which is answered by `found`
    }
    decisions = [decision for each in denied for decision in each["authorizations"]]
    assert [each["decision"] for each in decisions] == ["deny"] * len(denied)
    assert len({each["policy"]["name"] for each in decisions}) == 1
    lists = await rest.get("/api/v1/audit/events", params={"result": "deny"}, headers=bearer(auditor))
    left_out = [each for each in map(json.loads, lists.json()["events"]) if "a list leaves" in json.dumps(each)]
    assert {each["api"]["operation"] for each in left_out} == {"SearchEvidence", "ListWorkflows"}


# --- policies that change --------------------------------------------------------------------------------------------


async def test_policies_are_reloaded_under_load_without_a_failed_request(
    guarded: Guarded, rest: httpx.AsyncClient
) -> None:
    token, admin = guarded.token("ai_engineer"), guarded.token("admin")
    answers: list[int] = []
    answered = asyncio.Condition()

    async def load() -> None:
        while True:
            answer = await rest.get("/api/v1/evidence?page_size=1", headers=bearer(token))
            async with answered:
                answers.append(answer.status_code)
                answered.notify_all()

    async def closed() -> bool:
        return (await rest.get("/api/v1/keys", headers=bearer(admin))).status_code == 403

    more = guarded.policies / "more.cedar"
    async with asyncio.timeout(60):
        loads = [asyncio.create_task(load()) for _ in range(4)]
        for _ in range(3):
            written(more, '@id("closed") forbid (principal, action, resource) when { context.rpc == "ListKeys" };')
            while not await closed():
                pass
            written(more, "this is no policy")
            async with answered:
                for _ in range(20):
                    await answered.wait()
            assert await closed()  # the old ones stay
            more.unlink()
            while await closed():
                pass
        for each in loads:
            each.cancel()
        await asyncio.wait(loads)
    assert len(answers) > 60
    assert set(answers) == {200}


def written(file: Path, text: str) -> None:
    """In one step, as whoever delivers policies should."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


# --- the audit log ---------------------------------------------------------------------------------------------------


async def test_each_decision_is_in_the_audit_log_and_no_token_is(guarded: Guarded, rest: httpx.AsyncClient) -> None:
    token = guarded.token("ai_engineer", sub="alice")
    allowed = await rest.post(
        "/api/v1/evidence/sign", json={"evidence_package": package()}, headers={**bearer(token), "x-request-id": "a-1"}
    )
    await rest.get("/api/v1/keys", headers={**bearer(token), "x-request-id": "a-2"})
    await rest.get("/api/v1/keys", headers={"x-request-id": "a-3"})
    admin = {**bearer(guarded.token("admin")), "x-request-id": "a-4"}
    await rest.post("/api/v1/keys:rotate", json={"name": "nobody"}, headers=admin)
    entry = json.dumps(fresh_request()).encode()
    written = await rest.post(
        ENTRIES,
        content=entry,
        headers={**bearer(token), "x-request-id": "a-5", "content-type": "application/json"},
    )
    assert written.status_code == 201

    async with asyncio.timeout(30):
        while True:
            events = {each.get("request_id") or each.get("last_request_id"): each for each in guarded.audit()}
            if {"a-1", "a-2", "a-3", "a-4", "a-5"} <= events.keys():
                break
            await asyncio.sleep(0.05)  # the trail is a file of another process

    digest = allowed.json()["receipt"]["evidence_package_hash"]
    assert events["a-1"]["resource"] == f"evidence:{digest}"
    assert (events["a-1"]["result"], events["a-1"]["policies"]) == ("allow", ["role-ai-engineer"])
    assert (events["a-2"]["subject"], events["a-2"]["result"], events["a-2"]["permission"]) == (
        "alice",
        "deny",
        "keys.admin",
    )
    assert (events["a-3"]["reason"], events["a-3"]["step"]) == (
        "no rule fits the client certificate",
        "authentication",
    )
    assert events["a-4"]["resource"] == "key:nobody"
    assert events["a-5"]["resource"] == f"entry:{sha256(entry).hexdigest()}"
    log = (guarded.stack.data_dir / "logs" / "notary.log").read_text()
    assert token not in log
    assert token.rpartition(".")[2] not in log


# --- tools that others wrote -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["nobody", "admin"])
async def test_schemathesis_finds_no_server_error_whoever_calls(guarded: Guarded, tmp_path: Path, role: str) -> None:
    header = ["-H", f"Authorization: Bearer {guarded.token('admin', OTHER)}"] if role == "admin" else []
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("st")), "run", f"{guarded.stack.url}/openapi.json", "--no-color"),
        *("--tls-verify", str(guarded.tls("analyst").ca)),
        *("--checks", "not_a_server_error", "--max-time", "8", "--max-examples", "5", "--seed", "1", *header),
        *("--request-timeout", "10", "--generation-database", "none"),
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": schemathesis_hooks.__name__, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-6000:]
