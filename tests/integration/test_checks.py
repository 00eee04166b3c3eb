"""What services find of a real PostgreSQL and of their peers, by the command `check`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider

from afdp.config import ServiceSettings
from afdp.messages.metadata import MetadataServiceBase
from afdp.messages.signer import SignerServiceBase
from afdp.metadata.config import MetadataSettings
from afdp.postgres.check import postgres_of
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry

LOOK = postgres_of("afdp_metadata")


async def postgres_finding(url: str) -> Any:
    [found] = await LOOK(MetadataSettings.model_validate({"database_url": url}))
    return found


async def test_a_database_that_is_there_is_good_before_and_after_the_schema(database: str) -> None:
    before = await postgres_finding(database)
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE SCHEMA afdp_metadata")
    await connection.close()
    after = await postgres_finding(database)

    assert before.good
    assert before.detail.endswith("schema afdp_metadata is made at the first start")
    assert after.good
    assert after.detail.endswith("schema afdp_metadata is there")
    password = urlsplit(database).password
    assert password
    assert password not in before.detail


async def test_what_is_wrong_with_a_database_is_told_apart(database: str, unused_tcp_port: int) -> None:
    parts = urlsplit(database)
    nobody = parts._replace(netloc=f"{parts.username}:x@127.0.0.1:{unused_tcp_port}").geturl()
    wrong = {
        parts._replace(path="/nothing").geturl(): "there is no such database",
        parts._replace(netloc=f"{parts.username}:wrong@{parts.hostname}:{parts.port}").geturl(): "password",
        nobody: "nobody answers there",
    }
    for url, words in wrong.items():
        found = await postgres_finding(url)
        assert not found.good
        assert words in found.detail
        assert "AFDP_DATABASE_URL" in found.remedy


async def test_a_role_that_may_not_work_there_is_said(database: str) -> None:
    parts, name = urlsplit(database), urlsplit(database).path.removeprefix("/")
    role = f"weak_{name}"
    connection = await asyncpg.connect(database)
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'weak'")
    weak = parts._replace(netloc=f"{role}:weak@{parts.hostname}:{parts.port}").geturl()
    before = await postgres_finding(weak)
    await connection.execute("CREATE SCHEMA afdp_metadata")
    after = await postgres_finding(weak)
    await connection.close()

    assert not before.good
    assert "may not make the schema" in before.detail
    assert not after.good
    assert "may not use the schema" in after.detail


class Signer(SignerServiceBase):
    """A peer that is there."""


class Metadata(MetadataServiceBase):
    """Another, in the wrong place."""


async def check(service: str, folder: Path, **environment: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"afdp.{service}", "check"),
        cwd=folder,
        env={**os.environ, "AFDP_TLS": "off", **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    findings = {each["name"]: each for each in json.loads(out)["findings"]}
    assert process.returncode == (0 if all(each["good"] for each in findings.values()) else 1)
    return findings


async def test_the_notary_tells_a_peer_that_is_there_from_another_and_from_none(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    settings, telemetry = ServiceSettings(port=0, metrics_port=0, drain_seconds=0.1), Telemetry("x", TracerProvider())
    async with (
        running_server(Signer(), settings, telemetry) as signer,
        running_server(Metadata(), settings, telemetry) as metadata,
    ):
        found = await check(
            "notary",
            tmp_path,
            AFDP_SIGNER_ADDRESS=f"127.0.0.1:{signer}",
            AFDP_TRANSPARENCY_ADDRESS=f"127.0.0.1:{metadata}",
            AFDP_METADATA_ADDRESS=f"127.0.0.1:{unused_tcp_port}",
            AFDP_PORT=str(signer),
            AFDP_AUTH="off",
        )

    assert found["signer"]["good"]
    assert not found["transparency"]["good"]
    assert "is no transparency" in found["transparency"]["detail"]
    assert not found["metadata"]["good"]
    assert "AFDP_METADATA_ADDRESS" in found["metadata"]["remedy"]
    assert "taken by something else" in found["port"]["detail"]


@pytest.mark.parametrize("service", ["gateway", "transparency", "metadata", "signer"])
async def test_every_service_can_be_checked_and_writes_nothing(
    service: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    own = {"AFDP_ENCRYPTION": "on"} if service == "metadata" else {}
    found = await check(service, tmp_path, AFDP_PORT=str(unused_tcp_port), **own)

    assert found["settings"]["good"]
    assert found["port"]["good"]
    assert ("AFDP_SIGNER_ADDRESS" in found.get("signer", {}).get("remedy", "")) == (
        service in ("metadata", "transparency")
    )
    assert not os.listdir(tmp_path)
