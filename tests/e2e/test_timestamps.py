"""RFC 3161 over HTTP, by clients and verifiers that others wrote."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha512
from pathlib import Path

import grpc.aio
import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, VerifierBuilder, decode_timestamp_response

from afdp.client import NotaryClient
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import InvalidArgument
from afdp.formats.receipt import Receipt
from afdp.messages.notary import CreateTimestampRequest, NotaryServiceClient
from afdp.messages.signer import GetTimestampAuthoritiesRequest, SignerServiceClient
from afdp.rpc import GrpcCaller, open_channel
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import SIGN, get, problem, sign
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package

PATH = "/api/v1/timestamp"
QUERY = {"content-type": "application/timestamp-query"}
DATA = b"the weights of a model"


@pytest.fixture
async def chain(stack: Stack) -> list[bytes]:
    """The authority's certificates as the signer has them, its own first."""
    async with open_channel(f"127.0.0.1:{stack.port('signer')}") as channel:
        signer = SignerServiceClient(GrpcCaller(channel))
        found = await signer.get_timestamp_authorities(GetTimestampAuthoritiesRequest(), timeout=10)
    return [bytes(each) for each in found.authorities[-1].certificates]


@pytest.fixture
def folder(tmp_path: Path, chain: list[bytes]) -> Path:
    """The file, and the authority's root as a verifier has it."""
    root = load_der_x509_certificate(chain[-1])
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "model.bin").write_bytes(DATA)
    return tmp_path


def run(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("options", ["-sha256 -cert", "-sha512 -cert", "-sha384 -cert -no_nonce"])
async def test_openssl_asks_through_curl_and_verifies_the_answer(stack: Stack, folder: Path, options: str) -> None:
    done = await asyncio.to_thread(
        run,
        folder,
        f"""
        openssl ts -query -data model.bin {options} -out query.tsq
        curl --fail --silent --header 'Content-Type: application/timestamp-query' --data-binary @query.tsq \\
          --output reply.tsr $URL{PATH}
        openssl ts -verify -queryfile query.tsq -in reply.tsr -CAfile root.pem
        openssl ts -verify -data model.bin -in reply.tsr -CAfile root.pem
        """,
        URL=stack.url,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Verification: OK") == 2
    (folder / "model.bin").write_bytes(b"other weights")
    assert (await asyncio.to_thread(run, folder, "openssl ts -verify -data model.bin -in reply.tsr -CAfile root.pem")
            ).returncode != 0  # fmt: skip


async def test_rfc3161_client_asks_and_verifies(rest: httpx.AsyncClient, chain: list[bytes]) -> None:
    query = TimestampRequestBuilder().data(DATA).hash_algorithm(HashAlgorithm.SHA512).nonce(nonce=True).build()

    answer = await rest.post(PATH, content=query.as_bytes(), headers=QUERY)

    assert answer.status_code == 200
    response = decode_timestamp_response(answer.content)
    certificates = [load_der_x509_certificate(each) for each in chain]
    verifier = (
        VerifierBuilder.from_request(query).tsa_certificate(certificates[0]).add_root_certificate(certificates[-1])
    )
    assert verifier.build().verify(response, sha512(DATA).digest())
    assert response.tst_info.nonce == query.nonce
    assert abs(response.tst_info.gen_time - datetime.now(UTC)) < timedelta(seconds=30)


async def test_no_two_stamps_have_the_same_serial_number(rest: httpx.AsyncClient) -> None:
    query = TimestampRequestBuilder().data(DATA).nonce(nonce=False).build().as_bytes()
    answers = await asyncio.gather(*(rest.post(PATH, content=query, headers=QUERY) for _ in range(50)))

    serials = [decode_timestamp_response(answer.content).tst_info.serial_number for answer in answers]
    assert len(set(serials)) == 50


@pytest.mark.parametrize("query", [b"\0", b"no query at all", b"\x30\x80", b"\x30" * 8192])
async def test_what_is_no_query_is_answered_with_a_rejection(
    rest: httpx.AsyncClient, notary: NotaryServiceClient, query: bytes
) -> None:
    answer = await rest.post(PATH, content=query, headers=QUERY)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/timestamp-reply"
    assert decode_timestamp_response(answer.content).status == 2
    again = await notary.create_timestamp(CreateTimestampRequest(query), timeout=10)
    assert decode_timestamp_response(again.timestamp_response).status == 2


async def test_json_is_not_spoken_there(rest: httpx.AsyncClient) -> None:
    answer = await rest.post(PATH, json={"timestamp_request": "MAA="})

    assert problem(answer, 415, "INVALID_ARGUMENT") == {}
    assert "application/timestamp-query" in answer.json()["detail"]


@pytest.mark.parametrize("size", [0, 8193, 1_000_000])
async def test_over_grpc_a_query_of_no_size_or_too_large_is_named(
    channel: grpc.aio.Channel, notary: NotaryServiceClient, size: int
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await notary.create_timestamp(CreateTimestampRequest(b"x" * size), timeout=10)

    assert [fault.field for fault in refused.value.fields] == ["timestamp_request"]


@pytest.mark.parametrize("kind", ["rest", "grpc"])
async def test_the_sdk_has_it_over_both(stack: Stack, chain: list[bytes], kind: str) -> None:
    query = TimestampRequestBuilder().data(DATA).build()

    def ask() -> bytes:
        grpc_address = f"127.0.0.1:{stack.port('notary')}"
        with NotaryClient(stack.url) if kind == "rest" else NotaryClient.over_grpc(grpc_address) as client:
            return client.timestamp(query.as_bytes())

    response = decode_timestamp_response(await asyncio.to_thread(ask))

    root = load_der_x509_certificate(chain[-1])
    verifier = VerifierBuilder.from_request(query).add_root_certificate(root)
    assert verifier.build().verify_message(response, DATA)


async def test_receipts_are_given_out_also_when_the_authority_that_stamped_them_is_revoked() -> None:
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), settings={"notary": NO_KEY_RECORDS})
        async with running_stack(options) as running, httpx.AsyncClient(base_url=running.url, trust_env=False) as own:
            before = (await sign(own))["receipt"]
            for since in (datetime.now(UTC), datetime(2026, 1, 1, tzinfo=UTC)):
                body = {"reason": "stolen", "compromised_since": since.isoformat()}
                (await own.post("/api/v1/keys/afdp-file-timestamp-key:1:revoke", json=body)).raise_for_status()

                assert (await get(own, f"/api/v1/receipts/{before['receipt_id']}"))["receipt"] == before
            refused = await own.post(SIGN, json={"evidence_package": package()})
            assert problem(refused, 400, "FAILED_PRECONDITION") == {}

            (await own.post("/api/v1/keys:rotate", json={"purpose": "timestamp"})).raise_for_status()
            after, trust = (await sign(own))["receipt"], await fetch_trust(own)

    assert verify_receipt(Receipt.from_object(after), trust).verified
    failed = verify_receipt(Receipt.from_object(before), trust).failures()
    assert [check.name for check in failed] == ["time"]


async def test_a_file_is_stamped_from_the_command_line(stack: Stack, folder: Path) -> None:
    afdp = f"{sys.executable} -m afdp.cli"
    done = await asyncio.to_thread(
        run,
        folder,
        f"""
        {afdp} timestamp model.bin --json
        openssl ts -verify -data model.bin -in model.bin.tsr -CAfile root.pem >&2
        {afdp} timestamp model.bin -o other.tsr >&2
        """,
        AFDP_URL=stack.url,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sha256"] == sha256(DATA).hexdigest()
    assert said["response"] == "model.bin.tsr"
    assert "STAMPED" in done.stderr
    assert (folder / "other.tsr").stat().st_size > 200
