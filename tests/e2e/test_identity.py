"""Callers by their tokens, through the whole stack: REST and gRPC, with a provider that issues them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from afdp.client import AsyncNotaryClient, Retry
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import PermissionDenied, ResourceExhausted, Unauthenticated
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.local_issuer import LocalIssuer, write_identity


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> LocalIssuer:
    return LocalIssuer(tmp_path_factory.mktemp("issuer"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(issuer: LocalIssuer) -> AsyncIterator[Stack]:
    """A stack that lets nobody in but the bearers of tokens."""
    file = write_identity(issuer.folder / "identity.yaml", {"issuers": [issuer.settings()]})
    settings = {"notary": {**NO_KEY_RECORDS, "AFDP_AUTH": "required", "AFDP_IDENTITY": str(file)}}
    with open_folder() as folder:
        async with running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack:
            yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def rest(guarded: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=30) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def over_grpc(stack: Stack, token: str) -> AsyncNotaryClient:
    return AsyncNotaryClient.over_grpc(f"127.0.0.1:{stack.port('notary')}", token=token, retry=Retry(attempts=1))


async def sign(rest: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()}, headers=headers)


async def test_a_receipt_says_who_submitted_its_evidence(rest: httpx.AsyncClient, issuer: LocalIssuer) -> None:
    answer = await sign(rest, bearer(issuer.token()))

    assert answer.status_code == 200
    envelope = answer.json()["receipt"]["bundle"]["dsseEnvelope"]
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    assert predicate["notary"]["submitter"] == {"issuer": issuer.issuer, "method": "oidc", "subject": "7b0c"}
    assert predicate["notary"]["tenant"] == "acme"


async def test_nobody_is_let_in_without_a_token_that_is_believed(rest: httpx.AsyncClient, issuer: LocalIssuer) -> None:
    spoilt = issuer.token()[:-8] + "AAAAAAAA"
    for headers in ({}, bearer(spoilt), bearer("a" * 8000), {"authorization": "Basic YTpi"}):
        answer = await sign(rest, headers)

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["detail"] == "the credentials are missing or not valid"


async def test_a_token_that_is_too_large_is_refused_before_it_is_looked_at(
    rest: httpx.AsyncClient, guarded: Stack
) -> None:
    assert (await sign(rest, bearer("a" * 10_000))).status_code == 431
    assert (await sign(rest, bearer("a" * 65_536))).status_code == 431
    async with over_grpc(guarded, "a" * 14_000) as notary:
        with pytest.raises(Unauthenticated):
            await notary.search_evidence()
    async with over_grpc(guarded, "a" * 65_536) as notary:
        with pytest.raises(ResourceExhausted):  # by gRPC's own bound on metadata
            await notary.search_evidence()


async def test_tokens_are_for_grpc_too(guarded: Stack, issuer: LocalIssuer) -> None:
    async with over_grpc(guarded, issuer.token()) as notary:
        assert isinstance((await notary.search_evidence()).items, tuple)
    async with over_grpc(guarded, issuer.token(issuer.claims(scope="afdp.notary.write"))) as notary:
        with pytest.raises(PermissionDenied):
            await notary.search_evidence()
