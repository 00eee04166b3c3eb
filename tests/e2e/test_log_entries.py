"""Rekor v2's API over our log: entries that callers sign themselves, written and read by tools that others wrote."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore_models.rekor.v1 import TransparencyLogEntry

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack
from afdp.formats.bundle import LogEntry
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Checkpoint, Note
from afdp.formats.trust import TrustRoot
from afdp.verify.log import check_checkpoint, check_inclusion
from tests.e2e.answers import get, sign
from tests.local_entries import ENTRIES, fresh_request, request_of, signed_digest
from tests.rekor_servers import Rekor2
from tests.stock_cosign import Cosign

ALGORITHMS = (
    "PKIX_ECDSA_P256_SHA_256",
    "PKIX_ECDSA_P384_SHA_384",
    "PKIX_ECDSA_P521_SHA_512",
    "PKIX_RSA_PKCS1V15_2048_SHA256",
)
RECORD = "hashedRekordRequestV002"
VERIFIER = f"{RECORD}.signature.verifier"


def located(answer: dict[str, Any]) -> LogEntry:
    """The entry of an answer, as a bundle holds it."""
    proof = answer["inclusionProof"]
    return LogEntry(
        log_index=int(answer["logIndex"]),
        log_id=b64decode(answer["logId"]["keyId"]),
        body=b64decode(answer["canonicalizedBody"]),
        tree_size=int(proof["treeSize"]),
        root_hash=b64decode(proof["rootHash"]),
        hashes=[b64decode(each) for each in proof["hashes"]],
        checkpoint=proof["checkpoint"]["envelope"],
        proof_index=int(proof["logIndex"]),
        kind=answer["kindVersion"]["kind"],
        version=answer["kindVersion"]["version"],
        integrated_time=int(answer["integratedTime"]),
    )


def assert_logged(answer: dict[str, Any], trust: TrustRoot) -> None:
    """The entry is in the log that the trust root knows."""
    entry, [log] = located(answer), trust.logs
    check_inclusion(entry)
    check_checkpoint(entry, log.vkey)
    assert entry.log_id == log.log_id


async def size(rest: httpx.AsyncClient) -> int:
    checkpoint = (await rest.get("/api/v2/checkpoint")).raise_for_status().text
    return Checkpoint.parse(Note.parse(checkpoint).text).size


async def refused(rest: httpx.AsyncClient, content: bytes) -> tuple[int, dict[str, str]]:
    """The answer's status, and the members that it names."""
    answer = await rest.post(ENTRIES, content=content, headers={"content-type": "application/json"})
    status = answer.json()
    assert status["code"] == 3, status
    [details] = status["details"]
    named = {each["field"]: each["description"] for each in details["fieldViolations"]}
    assert all(field in status["message"] for field in named)
    return answer.status_code, named


# --- writing and reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_details", ALGORITHMS)
async def test_an_entry_is_logged_and_proven_and_can_be_read_back(
    rest: httpx.AsyncClient, trust: TrustRoot, key_details: str
) -> None:
    request = fresh_request(key_details)

    answer = await rest.post(ENTRIES, json=request)

    assert answer.status_code == 201, answer.text
    entry = answer.json()
    assert_logged(entry, trust)
    assert set(TransparencyLogEntry.from_dict(entry).to_dict()) <= set(entry)
    assert entry["integratedTime"] == "0"
    assert entry["inclusionPromise"] is None
    body = json.loads(b64decode(entry["canonicalizedBody"]))
    assert body["spec"]["hashedRekordV002"]["signature"] == request[RECORD]["signature"]
    index, total = int(entry["logIndex"]), int(entry["inclusionProof"]["treeSize"])
    tile = (await rest.get(f"/api/v2/tile/0/{index // 256:03}.p/{total % 256}")).raise_for_status().content
    assert tile[index % 256 * 32 :][:32] == leaf_hash(b64decode(entry["canonicalizedBody"]))


async def test_the_same_entry_again_is_409_with_its_index_and_the_log_has_it_once(rest: httpx.AsyncClient) -> None:
    request = fresh_request()
    first = (await rest.post(ENTRIES, json=request)).json()
    before = await size(rest)

    again = await rest.post(ENTRIES, json=request)

    assert again.status_code == 409
    assert again.headers["x-log-index"] == first["logIndex"]
    index = first["logIndex"]
    message = f"an equivalent entry already exists in the transparency log with index {index}"
    assert again.json() == {"code": 6, "message": message, "details": []}
    assert await size(rest) == before


async def test_of_many_who_send_one_entry_at_once_one_is_told_where_it_is_and_the_others_that_it_is_there(
    rest: httpx.AsyncClient,
) -> None:
    request = fresh_request()

    answers = await asyncio.gather(*(rest.post(ENTRIES, json=request) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    [index] = {answer.json().get("logIndex") or answer.headers["x-log-index"] for answer in answers}
    assert index


async def test_writers_of_one_entry_each_share_appends(stack: Stack, rest: httpx.AsyncClient, trust: TrustRoot) -> None:
    requests = [fresh_request() for _ in range(48)]

    answers = await asyncio.gather(*(rest.post(ENTRIES, json=request) for request in requests))

    for answer in answers:
        assert_logged(answer.raise_for_status().json(), trust)
    checkpoints = {answer.json()["inclusionProof"]["treeSize"] for answer in answers}
    assert len(checkpoints) < len(requests)


async def test_the_entry_of_a_receipt_is_told_to_exist_where_the_receipt_says(rest: httpx.AsyncClient) -> None:
    receipt = (await sign(rest))["receipt"]
    [entry] = receipt["bundle"]["verificationMaterial"]["tlogEntries"]
    record = json.loads(b64decode(entry["canonicalizedBody"]))["spec"]["hashedRekordV002"]
    request = {RECORD: {"digest": record["data"]["digest"], "signature": record["signature"]}}

    answer = await rest.post(ENTRIES, json=request)

    assert (answer.status_code, answer.headers["x-log-index"]) == (409, str(receipt["log_index"]))
    again = await get(rest, f"/api/v1/receipts/{receipt['receipt_id']}")
    assert again["receipt"]["log_index"] == receipt["log_index"]


async def test_rekor_2_itself_makes_the_same_entries_and_gives_the_same_answers(
    rest: httpx.AsyncClient, rekor2: Rekor2
) -> None:
    requests = [fresh_request(key_details) for key_details in ALGORITHMS]
    wrong = fresh_request()
    wrong[RECORD]["digest"] = fresh_request()[RECORD]["digest"]
    url = f"http://{LOOPBACK}:{rekor2.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as theirs:
        ours = await asyncio.gather(*(rest.post(ENTRIES, json=request) for request in requests))
        its = await asyncio.gather(*(theirs.post(ENTRIES, json=request) for request in requests))
        for made, beside in zip(ours, its, strict=True):
            assert made.status_code == beside.status_code == 201, beside.text
            assert made.headers["content-type"] == beside.headers["content-type"]
            assert made.json()["canonicalizedBody"] == beside.json()["canonicalizedBody"]
            assert shape(made.json()) == shape(beside.json())
        for request in (requests[0], wrong, {}, {"hashedRekordRequestV002": {}}, {"colour": 1}):
            made, beside = await rest.post(ENTRIES, json=request), await theirs.post(ENTRIES, json=request)
            assert made.status_code == beside.status_code, (request, beside.text)
            assert made.json()["code"] == beside.json()["code"]
            assert set(made.json()) == set(beside.json())
            assert ("x-log-index" in made.headers) == ("x-log-index" in beside.headers)


def shape(value: Any) -> Any:
    """What members there are, and of which kinds."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    return type(value)


# --- what is refused --------------------------------------------------------------------------------------------------


def spoilt() -> dict[str, tuple[bytes, int, str]]:
    """Requests that are wrong in one way each: the body, the status, and what the answer names."""
    digest, signature, spki = signed_digest()

    def sent(**changes: Any) -> bytes:
        parts = {"digest": digest, "signature": signature, "spki": spki, "key_details": ALGORITHMS[0], **changes}
        return json.dumps(request_of(**parts)).encode()

    good = json.loads(sent())
    certified = {"x509Certificate": {"rawBytes": "MIIB"}, "keyDetails": ALGORITHMS[0]}
    with_certificate = json.loads(sent())
    with_certificate[RECORD]["signature"]["verifier"] = certified
    wrong_kind = {"kind": "hashedrekord", "apiVersion": "0.0.1", "spec": {}}
    return {
        "another digest": (sent(digest=bytes(32)), 400, f"{RECORD}.signature.content"),
        "a short digest": (sent(digest=digest[:31]), 400, f"{RECORD}.digest"),
        "a long digest": (sent(digest=digest + b"x"), 400, f"{RECORD}.digest"),
        "a flipped signature": (sent(signature=signature[:-1] + bytes([signature[-1] ^ 1])), 400, "signature.content"),
        "a truncated signature": (sent(signature=signature[:-4]), 400, f"{RECORD}.signature.content"),
        "a huge signature": (sent(signature=bytes(40_000)), 400, f"{RECORD}.signature.content"),
        "no signature": (sent(signature=b""), 400, f"{RECORD}.signature.content"),
        "a truncated key": (sent(spki=spki[:-7]), 400, f"{VERIFIER}.publicKey.rawBytes"),
        "a key that is none": (sent(spki=b"key"), 400, f"{VERIFIER}.publicKey.rawBytes"),
        "somebody else's key": (sent(spki=signed_digest()[2]), 400, f"{RECORD}.signature.content"),
        "a key of another kind": (sent(key_details=ALGORITHMS[3]), 400, f"{VERIFIER}.publicKey.rawBytes"),
        "another algorithm": (sent(key_details="PKIX_ED25519_PH"), 400, f"{VERIFIER}.keyDetails"),
        "no algorithm": (sent(key_details=""), 400, f"{VERIFIER}.keyDetails"),
        "a certificate": (json.dumps(with_certificate).encode(), 400, f"{VERIFIER}.x509Certificate"),
        "two members of one": (json.dumps({**good, "dsseRequestV002": {}}).encode(), 400, "dsseRequestV002"),
        "another kind": (json.dumps(wrong_kind).encode(), 400, RECORD),
        "an unknown member": (json.dumps({**good, "colour": 1}).encode(), 400, "colour"),
        "no object": (b"[]", 400, "body"),
        "no JSON": (sent()[:-1], 400, "body"),
        "nothing": (b"", 400, "body"),
        "more than an entry may have": (sent(signature=bytes(66_000)), 400, "body"),
        "a megabyte": (sent(signature=bytes(750_000)), 413, "body"),
    }


async def test_what_is_wrong_is_named_and_nothing_of_it_is_logged(rest: httpx.AsyncClient) -> None:
    before = await size(rest)

    for name, (content, status, member) in spoilt().items():
        answered, named = await refused(rest, content)
        assert answered == status, name
        assert [field for field in named if field.endswith(member)], (name, named)

    assert await size(rest) == before


# --- other people's clients -------------------------------------------------------------------------------------------


@asynccontextmanager
async def prefixed(target: str, prefix: str) -> AsyncIterator[str]:
    """A front that serves `target` under a path prefix; gives its URL."""
    host, port = target.removeprefix("http://").split(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        verb, path, rest = head.split(b" ", 2)
        assert path.startswith(prefix.encode() + b"/api/v2/"), path
        upstream_reader, upstream = await asyncio.open_connection(host, int(port))
        upstream.write(b" ".join([verb, path.removeprefix(prefix.encode()), rest]))
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        upstream.write(await reader.readexactly(length))
        answer = await upstream_reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        writer.write(answer + await upstream_reader.readexactly(length))
        await writer.drain()
        upstream.close()
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    async with server:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}{prefix}"


async def test_stock_cosign_writes_and_verifies_against_our_trust_root(
    stack: Stack, trust: TrustRoot, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    cosign = Cosign((tool("cosign"), tool("afdp")), tmp_path, stack.url, stack.url)

    await asyncio.to_thread(cosign.sign_and_verify)

    for entry in cosign.entries():
        assert_logged({"integratedTime": "0", **entry}, trust)


async def test_cosign_keeps_a_path_prefix_and_carries_credentials_that_nothing_here_logs(
    stack: Stack, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    async with prefixed(stack.url, "/logs/default") as front:
        url = front.replace("http://", "http://ci:s3cr3t-of-cosign@")
        cosign = Cosign((tool("cosign"), tool("afdp")), tmp_path, stack.url, url)

        await asyncio.to_thread(cosign.sign_and_verify)

    logs = "".join(path.read_text() for path in (stack.data_dir / "logs").glob("*.log"))
    assert "s3cr3t-of-cosign" not in logs
    assert "Y2k6czNjcjN0LW9mLWNvc2lnbg" not in logs


async def test_sigstores_python_client_writes_and_reads_the_answer(
    stack: Stack, rest: httpx.AsyncClient, trust: TrustRoot
) -> None:
    entry = await asyncio.to_thread(RekorV2Client(stack.url).create_entry, fresh_request())

    assert_logged(json.loads(entry._inner.to_json()) | {"integratedTime": "0"}, trust)


async def test_a_log_with_entries_of_strangers_is_whole_to_readers_that_are_not_ours_and_to_ours(
    stack: Stack, rest: httpx.AsyncClient, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    await rest.post(ENTRIES, json=fresh_request())
    await sign(rest)
    (tmp_path / "vkey").write_text((await rest.get("/log/vkey")).raise_for_status().text.strip())

    url = f"{stack.url}/api/v2/"
    theirs = (tool("fsck"), f"--storage_url={url}", f"--public_key={tmp_path / 'vkey'}", "--ui=false", "--N=2")
    ours = (tool("afdp"), "log", "fsck", url, "--vkey", tmp_path / "vkey")
    stored = (tool("afdp"), "log", "fsck", "database")
    environment = {**os.environ, "AFDP_DATABASE_URL": stack.database_url}
    for command in (theirs, ours, stored):
        done = await asyncio.to_thread(
            subprocess.run,
            list(map(os.fspath, command)),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if command is theirs:  # which exits with 0 whatever it finds
            assert "Successfully fsck'd" in done.stdout + done.stderr, done.stdout + done.stderr
