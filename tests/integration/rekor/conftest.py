"""Our client of other people's logs, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from afdp.formats.hashedrekord import SignatureAlgorithm, entry_body
from afdp.postgres import open_database, packaged
from afdp.transparency.config import TransparencySettings
from afdp.transparency.external.config import ExternalLogSettings
from afdp.transparency.external.opening import open_external_logs
from afdp.transparency.external.service import ExternalLogs
from afdp.transparency.external.values import Submission
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION
from tests.local_notary import LocalNotary
from tests.rekor_servers import Rekor1, Rekor2

Open = Callable[..., AbstractAsyncContextManager["Client"]]


@dataclass(frozen=True, slots=True)
class Client:
    """The client, and where it keeps what it knows."""

    logs: ExternalLogs
    settings: TransparencySettings


def of_rekor2(rekor: Rekor2, **more: object) -> ExternalLogSettings:
    """What the settings say of a Rekor 2."""
    known = {"name": "rekor", "url": rekor.url, "public_key": rekor.public_key_file, "origin": rekor.origin}
    return ExternalLogSettings.model_validate({**known, **more})


def of_rekor1(rekor: Rekor1, **more: object) -> ExternalLogSettings:
    """What the settings say of a Rekor 1."""
    known = {"name": "old", "api_version": 1, "url": rekor.url, "public_key": rekor.public_key_file}
    return ExternalLogSettings.model_validate({**known, "origin": rekor.name, "whole_envelopes": True, **more})


@pytest.fixture
def open_client(module_database: str) -> Open:
    """`open_client(settings…)`: a replica's client; those of one module share a database, and keep apart by log."""

    @asynccontextmanager
    async def opened(*known: ExternalLogSettings) -> AsyncIterator[Client]:
        settings = TransparencySettings.model_validate({"database_url": SecretStr(module_database), "metrics_port": 0})
        async with (
            open_database(settings, SCHEMA, SERVICE, packaged("afdp.transparency"), SESSION) as pool,
            open_external_logs(known, pool, 64) as logs,
        ):
            yield Client(logs, settings)

    return opened


def submission(*, algorithm: SignatureAlgorithm = SignatureAlgorithm.ECDSA_P256_SHA256) -> Submission:
    """An entry that no log has, with its statement."""
    receipt = LocalNotary().notarise(logged=False)
    envelope = receipt.bundle.envelope
    body = entry_body(algorithm.digest(envelope.pae), receipt.signature, receipt.public_key, algorithm)
    return Submission(body, envelope.payload)


def submissions(count: int) -> Sequence[Submission]:
    """Several of them, signed by one notary."""
    return [submission() for _ in range(count)]
