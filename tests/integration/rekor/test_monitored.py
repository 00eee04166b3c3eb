"""A real Rekor 2, audited, followed and asked for proofs: its key in PEM, its tiles under /api/v2."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from afdp.cli.__main__ import cli
from afdp.formats.encoding import b64
from tests.rekor_servers import Rekor2, running_rekor2

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def afdp(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["log", *arguments, "--json"], prog_name="afdp")
    if not result.stdout:
        return result.exit_code, {"said": result.stderr}
    if arguments[0] != "follow":
        return result.exit_code, json.loads(result.stdout)
    *found, said = map(json.loads, result.stdout.splitlines())
    return result.exit_code, {**said, "matches": [match for each in found for match in each["matches"]]}


async def log_entry(rekor: Rekor2, text: bytes, verifier: dict[str, object]) -> None:
    digest = sha256(text).digest()
    signature = {
        "content": b64(KEY.sign(digest, ec.ECDSA(Prehashed(SHA256())))),
        "verifier": {**verifier, "keyDetails": "PKIX_ECDSA_P256_SHA_256"},
    }
    body = {"hashedRekordRequestV002": {"digest": b64(digest), "signature": signature}}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(f"{rekor.url}/api/v2/log/entries", json=body)
    assert answer.status_code == 201, answer.text


def certificate(email: str, issuer: str) -> bytes:
    name = x509.Name([])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=1))
        .not_valid_after(datetime.now(UTC) + timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), issuer.encode()), critical=False
        )
    )
    return built.sign(KEY, SHA256()).public_bytes(Encoding.DER)


async def test_a_rekor_2_is_audited_followed_and_asked_for_proofs(rekor2: Rekor2, tmp_path: Path) -> None:
    url, key = f"{rekor2.url}/api/v2", ("--vkey", str(rekor2.public_key_file), "--origin", rekor2.origin)
    looking = ("--state", str(tmp_path / "state"), "--once", "--identity", "mia@", "--issuer", "login")
    await log_entry(rekor2, b"before", {"publicKey": {"rawBytes": b64(SPKI)}})
    first = await afdp("follow", url, *key, *looking)
    await log_entry(rekor2, b"by a key", {"publicKey": {"rawBytes": b64(SPKI)}})
    shown = certificate("mia@example.org", "https://login.example")
    await log_entry(rekor2, b"by somebody", {"x509Certificate": {"rawBytes": b64(shown)}})
    second = await afdp("follow", url, *key, *looking, "--key", sha256(SPKI).hexdigest())
    whole = await afdp("fsck", url, *key)
    proof = str(tmp_path / "proof")
    index = second[1]["matches"][-1]["index"]
    made = await afdp("prove", "inclusion", url, *key, "--index", str(index), "-o", proof)
    held = await afdp("verify-proof", proof, *key)

    assert (first[0], first[1]["good"]) == (0, True)
    assert (second[0], second[1]["entries_read"], second[1]["entries_unreadable"]) == (0, 2, 0)
    found = [(each["watched"].split()[0], each["subjects"]) for each in second[1]["matches"]]
    assert found == [("key", []), ("key", ["mia@example.org"]), ("identity", ["mia@example.org"])]
    assert (whole[0], whole[1]["size"]) == (0, second[1]["size"])
    assert (made[0], held[0], held[1]["holds"]) == (0, 0, True)


async def test_a_checkpoint_that_came_back_changed_is_refused_with_evidence(rekor2: Rekor2, tmp_path: Path) -> None:
    url, key = f"{rekor2.url}/api/v2", ("--vkey", str(rekor2.public_key_file), "--origin", rekor2.origin)
    looking = ("--state", str(tmp_path / "state"), "--once")
    await log_entry(rekor2, b"entry", {"publicKey": {"rawBytes": b64(SPKI)}})
    assert (await afdp("follow", url, *key, *looking))[0] == 0

    def other_root(path: str, data: bytes) -> bytes:
        lines = data.split(b"\n")
        return b"\n".join([*lines[:2], b64(bytes(32)).encode(), *lines[3:]]) if path == "checkpoint" else data

    rekor2.front.rewrite_reads = other_root
    try:
        code, said = await afdp("follow", url, *key, *looking)
    finally:
        rekor2.front.rewrite_reads = None

    assert (code, said["good"]) == (1, False)
    assert (Path(said["evidence"]) / "seen.checkpoint").read_text().startswith("rekor.example\n")
    assert b64(bytes(32)) in (Path(said["evidence"]) / "served.checkpoint").read_text()


async def test_a_rekor_2_that_signs_with_ecdsa_is_audited_too(tool: Callable[[str], Path], tmp_path: Path) -> None:
    async with running_rekor2(tool, tmp_path, key=ec.generate_private_key(ec.SECP256R1())) as rekor:
        await log_entry(rekor, b"entry", {"publicKey": {"rawBytes": b64(SPKI)}})
        url = f"{rekor.url}/api/v2"

        right = await afdp("fsck", url, "--vkey", str(rekor.public_key_file), "--origin", rekor.origin)
        nameless = await afdp("fsck", url, "--vkey", str(rekor.public_key_file))

    assert (right[0], right[1]["size"]) == (0, 1)
    assert nameless[0] == 1  # of 127.0.0.1: the host is the name of a Rekor where nothing else is said
    assert "not signed by a known key" in nameless[1]["fault"]["reason"]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
