"""Tenants of one deployment side by side: a stack for them, who calls it for each, and what the first one has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.messages import notary as pb
from afdp.rpc import GrpcCaller, open_channel
from afdp.rpc.codec import decoder, encoder
from afdp.rpc.descriptors import method
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.local_issuer import LocalIssuer, write_identity

SERVICE = "afdp.notary.v1.NotaryService"
COMMON_KEY, OWN_KEY = "afdp-file-key", "alpha-key"
COMMON_LOG, OWN_LOG = "notary.localhost", "alpha.notary.localhost"
POLICIES = """
@id("administrators") permit (principal in Role::"admin", action, resource);
@id("operators") forbid (principal, action == Action::"status.read", resource)
unless { context.operators.contains(principal.tenant) };
"""


class Tenant:
    """An administrator of a tenant, over both transports."""

    def __init__(self, stack: Stack, channel: grpc.aio.Channel, name: str, token: str) -> None:
        self.name = name
        self._authorization = f"Bearer {token}"
        self._channel = channel
        self.rest = httpx.AsyncClient(
            base_url=stack.url, trust_env=False, timeout=30, headers={"authorization": self._authorization}
        )

    async def call(self, rpc: str, request: Any) -> Any:
        """One call over gRPC."""
        caller = GrpcCaller(self._channel)
        return await caller.unary_unary(f"/{SERVICE}/{rpc}", request, 20, authorization=self._authorization)

    async def stream(self, rpc: str, requests: list[Any]) -> list[Any]:
        """A stream of requests and all answers to it."""
        known = method(f"/{SERVICE}/{rpc}")
        encode, decode = encoder(known.request), decoder(known.response)
        opened = self._channel.stream_stream(known.full_name)(
            iter([encode(each) for each in requests]), timeout=20, metadata=[("authorization", self._authorization)]
        )
        return [decode(each) async for each in opened]

    async def hear(self, cursor: str, count: int) -> list[pb.WatchReceiptsResponse]:
        """The first answers to who watches receipts."""
        known = method(f"/{SERVICE}/WatchReceipts")
        encode, decode = encoder(known.request), decoder(known.response)
        opened: Any = self._channel.unary_stream(known.full_name)
        call = opened(
            encode(pb.WatchReceiptsRequest(cursor)), timeout=30, metadata=[("authorization", self._authorization)]
        )
        told = [decode(await call.read()) for _ in range(count)]
        call.cancel()
        return told

    async def get(self, path: str, **parameters: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer, without what is of this one call."""
        return _told(await self.rest.get(path, params=parameters))

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """As `get`."""
        return _told(await self.rest.post(path, json=body if body is not None else {}, headers=headers))


def _told(answer: httpx.Response) -> tuple[int, Any]:
    if not answer.headers["content-type"].endswith("json"):
        return answer.status_code, answer.text
    document = answer.json()
    if isinstance(document, dict):
        document.pop("request_id", None)
        document.pop("instance", None)
    return answer.status_code, document


@dataclass
class Belongings:
    """What alpha has."""

    package: dict[str, Any]
    receipt: dict[str, Any]
    workflow_id: str
    batch_id: str
    page_token: str  # of its evidence, two a page
    workflows_token: str

    @property
    def hash(self) -> str:
        return str(self.receipt["evidence_package_hash"])

    @property
    def key_id(self) -> str:
        return str(self.receipt["key_id"])


@dataclass
class World:
    """Two tenants, and what the first one has; another principal of the second one; a third one with a quota."""

    alpha: Tenant
    beta: Tenant
    colleague: Tenant
    gamma: Tenant
    owned: Belongings

    @property
    def both_of_beta(self) -> tuple[Tenant, Tenant]:
        """Its two principals."""
        return self.beta, self.colleague


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    """Alpha has a key and a log of its own, and beta neither."""
    issuer = LocalIssuer(folder)
    identity = write_identity(folder / "identity.yaml", {"issuers": [issuer.settings()]})
    (folder / "policies").mkdir()
    (folder / "policies" / "all.cedar").write_text(POLICIES)
    settings = {
        "notary": {
            **NO_KEY_RECORDS,
            "AFDP_AUTH": "required",
            "AFDP_IDENTITY": str(identity),
            "AFDP_POLICIES": str(folder / "policies"),
            "AFDP_TENANT_QUOTAS": json.dumps({"gamma": {"records_per_day": 2, "batch_packages": 3}}),
        },
        "signer": {
            "AFDP_TENANT_KEYS": json.dumps([{"name": OWN_KEY, "tenants": ["alpha"]}]),
            "AFDP_LOG_ORIGINS": f"{COMMON_LOG},{OWN_LOG}",
        },
        "transparency": {"AFDP_LOGS": json.dumps([{"origin": OWN_LOG, "tenants": ["alpha"]}])},
    }

    def token(tenant: str, subject: str = "7b0c") -> str:
        claims = issuer.claims(
            sub=subject, tenant=tenant, realm_access={"roles": ["admin"]}, exp=issuer.claims()["exp"] + 3000
        )
        return issuer.token(claims)

    with open_folder() as data:
        async with (
            running_stack(StackOptions(data / "data", free_offset(), settings=settings)) as stack,
            open_channel(f"127.0.0.1:{stack.port('notary')}") as channel,
        ):
            alpha, beta = (Tenant(stack, channel, name, token(name)) for name in ("alpha", "beta"))
            colleague = Tenant(stack, channel, "beta", token("beta", "another"))
            gamma = Tenant(stack, channel, "gamma", token("gamma"))
            async with alpha.rest, beta.rest, colleague.rest, gamma.rest:
                yield World(alpha, beta, colleague, gamma, await _settled(alpha))


async def _settled(alpha: Tenant) -> Belongings:
    """Evidence in its own log, a batch, lists with more than a page."""
    async with asyncio.timeout(30):  # until the notary has heard of it
        while True:
            if (await _log_of(alpha)).startswith(f"{OWN_LOG}\n"):
                break
            await asyncio.sleep(0.1)
    body = package(event_type="alpha.only", actor={"actor_type": "human", "id": "of-alpha", "auth_provider": ""})
    status, signed = await alpha.post("/api/v1/evidence/sign", {"evidence_package": body}, **{"idempotency-key": "k"})
    assert status == 200, signed
    packages = [package(event_type="alpha.only") for _ in range(2)]
    status, batch = await alpha.post(
        "/api/v1/evidence/sign/batch", {"evidence_packages": packages}, **{"idempotency-key": "b"}
    )
    assert status == 200
    assert all(each["receipt"] for each in batch["results"])
    await alpha.post("/api/v1/evidence/sign", {"evidence_package": package()})
    _, page = await alpha.get("/api/v1/evidence", page_size=2)
    _, workflows = await alpha.get("/api/v1/workflows", page_size=1)
    assert page["next_page_token"]
    assert workflows["next_page_token"]
    receipt = signed["receipt"]
    assert receipt["key_id"].startswith(OWN_KEY)
    return Belongings(
        body,
        receipt,
        signed["workflow_id"],
        batch["batch_workflow_id"],
        page["next_page_token"],
        workflows["next_page_token"],
    )


async def _log_of(tenant: Tenant) -> str:
    _, signed = await tenant.post("/api/v1/evidence/sign", {"evidence_package": package()})
    [entry] = signed["receipt"]["bundle"]["verificationMaterial"]["tlogEntries"]
    return str(entry["inclusionProof"]["checkpoint"]["envelope"])
