"""The document of the API, believed by tools that others wrote."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.rpc.descriptors import service_methods
from tests.conftest import open_folder
from tests.e2e import schemathesis_hooks
from tests.e2e.answers import SIGN, get
from tests.e2e.conftest import fetch_trust, free_offset
from tests.e2e.evidence import package

SECONDS = 20
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack() -> AsyncIterator[Stack]:
    """A stack of its own: what is made up here rotates its keys."""
    with open_folder() as folder:
        async with running_stack(StackOptions(folder / "data", free_offset())) as running:
            yield running


async def test_the_document_is_valid_openapi_3_1(rest: httpx.AsyncClient) -> None:
    document = await get(rest, "/openapi.json")

    assert document["openapi"].startswith("3.1")
    validate(document, cls=OpenAPIV31SpecValidator)


async def test_what_is_not_built_is_named_nowhere_in_it(rest: httpx.AsyncClient) -> None:
    text = (await rest.get("/openapi.json")).text

    planned = [method for method in service_methods("afdp.notary.v1.NotaryService") if method.planned]
    assert planned
    for method in planned:
        assert f'"{method.name}"' not in text
        assert f"{method.name}Request" not in text


async def test_schemathesis_finds_no_fault_in_what_is_answered(own_stack: Stack, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("st")), "run", f"{own_stack.url}/openapi.json", "--no-color"),
        *("--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--max-examples", "20", "--seed", "1"),
        *("--request-timeout", "10", "--generation-database", "none", "--report-json-path", str(report)),
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": schemathesis_hooks.__name__, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS + 30):
        out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()[-8000:]
    found = json.loads(report.read_text())
    operations, cases = found["operations"], found["test_cases"]
    assert operations["tested"] == operations["total"] >= 16
    assert (operations["errored"], cases["errored"], cases["with_failures"]) == (0, 0, 0)
    assert cases["generated"] > 60
    # After all that, it works as before.
    async with httpx.AsyncClient(base_url=own_stack.url, trust_env=False) as rest:
        for purpose in ("evidence", "timestamp"):
            await rest.post("/api/v1/keys:rotate", json={"purpose": purpose})
        assert (await rest.post(SIGN, json={"evidence_package": package()})).status_code == 200
        await fetch_trust(rest)
    logs = {path.name: path.read_text() for path in (own_stack.data_dir / "logs").glob("*.log")}
    assert not [line for text in logs.values() for line in text.splitlines() if "Traceback" in line]


async def test_the_page_needs_nothing_from_elsewhere(rest: httpx.AsyncClient) -> None:
    page = await rest.get("/docs")

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    links = re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)""", page.text)
    assert links
    assert [link for link in links if not link.startswith(("#", "/openapi.json"))] == []
    assert not re.search(r"<script|<iframe|<object|<embed|<link|@import|url\(", page.text)
    for name in ("SignEvidence", "RotateKey", "HealthCheck"):
        assert f'id="{name}"' in page.text
