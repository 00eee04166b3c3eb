"""Entries that callers sign themselves, in a stack of their own: its log is killed, and takes what it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, CertificateBuilder, Name, RFC822Name, SubjectAlternativeName
from sigstore import dsse
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore.dsse import StatementBuilder, Subject
from sigstore.hashes import Hashed
from sigstore_models.common.v1 import HashAlgorithm

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.note import Checkpoint, Note
from afdp.formats.tiles import decode_bundle, tiles_at
from tests.conftest import open_folder
from tests.e2e.answers import sign
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.proxy import Proxy, running_proxy
from tests.e2e.test_logs import FIRST, FREEZE, OPEN, operate
from tests.local_entries import ENTRIES, fresh_request

STRANGERS, NEXT = f"strangers.{FIRST}", f"strangers-2027.{FIRST}"
CLIENTS = 8
EACH = 3


@dataclass
class Writing:
    """A stack, the ways to and from its log, and each entry that was acknowledged, by its index."""

    stack: Stack
    proxies: dict[str, Proxy]
    acknowledged: dict[int, bytes] = field(default_factory=dict)

    async def write(self, rest: httpx.AsyncClient) -> None:
        """A fresh entry, sent until the log has it."""
        request = fresh_request()
        while True:
            try:
                answer = await rest.post(ENTRIES, json=request)
            except httpx.TransportError:
                continue
            if answer.status_code == 201:
                self.acknowledged[int(answer.json()["logIndex"])] = b64decode(answer.json()["canonicalizedBody"])
                return
            if answer.status_code == 409:  # by an attempt whose answer was lost
                self.acknowledged[int(answer.headers["x-log-index"])] = b""
                return
            assert answer.status_code in (503, 504), answer.text
            await asyncio.sleep(0.1)

    async def entries(self, rest: httpx.AsyncClient) -> list[bytes]:
        """All of the log, as a reader of Rekor v2 gets it."""
        checkpoint = (await rest.get("/api/v2/checkpoint")).raise_for_status().text
        size = Checkpoint.parse(Note.parse(checkpoint).text).size
        found: list[bytes] = []
        for ref in tiles_at(size, None):
            bundle = (await rest.get(f"/api/v2/{ref.path()}")).raise_for_status().content
            found += decode_bundle(bundle, ref.width)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def writing() -> AsyncIterator[Writing]:
    offset = free_offset()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        ports = {name: Stack(StackOptions(Path(), offset)).port(name) for name in ("transparency", "signer")}
        proxies = {
            name: await stack.enter_async_context(running_proxy(f"{LOOPBACK}:{port}")) for name, port in ports.items()
        }
        settings: dict[str, Any] = {
            "notary": {
                "AFDP_TRANSPARENCY_ADDRESS": f"{LOOPBACK}:{proxies['transparency'].port}",
                "AFDP_STAGE_TIMEOUT_SECONDS": "3",
                "AFDP_ENTRY_LOG": STRANGERS,
                "AFDP_ENTRY_CERTIFICATES": "true",
                "AFDP_ENTRY_ALGORITHMS": "PKIX_ECDSA_P256_SHA_256, PKIX_RSA_PKCS1V15_2048_SHA256",
                **NO_KEY_RECORDS,
            },
            "transparency": {"AFDP_SIGNER_ADDRESS": f"{LOOPBACK}:{proxies['signer'].port}"},
            "signer": {"AFDP_LOG_ORIGINS": f"{FIRST},{STRANGERS},{NEXT}"},
            "gateway": {"AFDP_ENTRY_LOG": STRANGERS},
        }
        running = await stack.enter_async_context(
            running_stack(StackOptions(folder / "data", offset, settings=settings))
        )
        await operate(running, *OPEN, STRANGERS, "--tenant", "strangers")
        yield Writing(running, proxies)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("call", "proxy"), [("Append", "transparency"), ("SignCheckpoint", "signer")])
async def test_what_was_acknowledged_is_in_the_log_once(writing: Writing, call: str, proxy: str, moment: str) -> None:
    log = writing.stack.server("transparency")
    writing.proxies[proxy].arm(call, moment, lambda: os.kill(log.pid, signal.SIGKILL))

    async with asyncio.timeout(60), httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:

        async def write_some() -> None:
            for _ in range(EACH):
                await writing.write(rest)

        before = len(writing.acknowledged)
        await asyncio.gather(*(write_some() for _ in range(CLIENTS)))
        entries = await writing.entries(rest)

    assert writing.proxies[proxy].fired.is_set()
    assert len(writing.acknowledged) == before + CLIENTS * EACH
    assert len(set(entries)) == len(entries)
    for index, entry in writing.acknowledged.items():
        assert entries[index] == (entry or entries[index])


async def test_entries_of_strangers_go_to_the_log_that_is_told_to_take_them_and_no_others_do(writing: Writing) -> None:
    async with httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:
        before = len(await writing.entries(rest))
        await writing.write(rest)
        receipt = (await sign(rest))["receipt"]
        read = (await rest.get("/api/v2/checkpoint")).text

        assert read == (await rest.get(f"/log/logs/{STRANGERS}/checkpoint")).text
        assert read.startswith(f"{STRANGERS}\n{before + 1}\n")
        [entry] = receipt["bundle"]["verificationMaterial"]["tlogEntries"]
        assert entry["inclusionProof"]["checkpoint"]["envelope"].startswith(f"{FIRST}\n")


async def test_a_log_that_hangs_is_answered_for_in_time_and_what_became_of_the_entry_is_found_out(
    writing: Writing,
) -> None:
    log, request = writing.stack.server("transparency").pid, fresh_request()
    async with httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:
        await writing.write(rest)
        os.kill(log, signal.SIGSTOP)
        try:
            hung = await rest.post(ENTRIES, json=request)
        finally:
            os.kill(log, signal.SIGCONT)
        found = await rest.post(ENTRIES, json=request)
        index = found.json()["logIndex"] if found.status_code == 201 else found.headers["x-log-index"]
        entries = await writing.entries(rest)

    assert (hung.status_code, hung.json()["code"]) == (504, 4)
    assert found.status_code in (201, 409)
    digest = request["hashedRekordRequestV002"]["digest"]
    assert [at for at, entry in enumerate(entries) if digest.encode() in entry] == [int(index)]


async def test_where_certificates_are_taken_sigstores_python_client_logs_blobs_and_attestations(
    writing: Writing,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, digest = certificate_of(key), os.urandom(32)
    signature = key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    subject = Subject(name="model.bin", digest={"sha256": digest.hex()})
    statement = StatementBuilder([subject], "https://example.com/evaluation", {"accuracy": 0.93}).build()
    client = RekorV2Client(writing.stack.url)
    hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest)
    for request in (
        client._build_hashed_rekord_request(hashed, signature, certificate),
        client._build_dsse_request(dsse._sign(key, statement), certificate),
    ):
        entry = await asyncio.to_thread(client.create_entry, request)

        record = json.loads(entry._inner.canonicalized_body)["spec"]["hashedRekordV002"]
        [held] = record["signature"]["verifier"]["x509Certificate"].values()
        assert b64decode(held) == certificate.public_bytes(Encoding.DER)


async def test_an_algorithm_that_is_not_told_to_be_taken_is_refused(writing: Writing) -> None:
    async with httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:
        taken = await rest.post(ENTRIES, json=fresh_request("PKIX_RSA_PKCS1V15_2048_SHA256"))
        refused = await rest.post(ENTRIES, json=fresh_request("PKIX_ECDSA_P384_SHA_384"))

    assert (taken.status_code, refused.status_code) == (201, 400)
    known = "must be one of PKIX_ECDSA_P256_SHA_256, PKIX_RSA_PKCS1V15_2048_SHA256"
    assert refused.json()["message"].endswith(f"verifier.keyDetails: {known}")


async def test_readers_follow_the_writers_to_the_log_that_goes_on_and_the_frozen_one_is_read_where_it_was(
    writing: Writing,
) -> None:
    async with httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:
        await writing.write(rest)
        before = await writing.entries(rest)
        await operate(writing.stack, *OPEN, NEXT, "--successor-of", STRANGERS)
        await operate(writing.stack, *FREEZE, STRANGERS)
        request = fresh_request()
        written = (await rest.post(ENTRIES, json=request)).raise_for_status().json()
        async with asyncio.timeout(30):
            while not (await rest.get("/api/v2/checkpoint")).text.startswith(f"{NEXT}\n"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        entries = await writing.entries(rest)
        old = (await rest.get(f"/log/logs/{STRANGERS}/checkpoint")).text
        listed = {each["origin"]: each["state"] for each in (await rest.get("/log/logs")).json()["logs"]}

    assert written["inclusionProof"]["checkpoint"]["envelope"].startswith(f"{NEXT}\n")
    assert entries == [b64decode(written["canonicalizedBody"])]
    assert old.startswith(f"{STRANGERS}\n{len(before)}\n")
    assert listed == {FIRST: "open", STRANGERS: "frozen", NEXT: "open"}


def certificate_of(key: ec.EllipticCurvePrivateKey) -> Certificate:
    """One as Fulcio's: short, and with an e-mail address."""
    name, now = Name([]), datetime.now(UTC)
    certified = CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(minutes=10))
    return certified.add_extension(SubjectAlternativeName([RFC822Name("ci@acme.example")]), critical=True).sign(
        key, hashes.SHA256()
    )
