"""What the signer signs of the trust root, refuses to, and remembers; the metadata is python-tuf's own."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.metadata import Delegations, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import CanonicalJSONSerializer

from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, NotaryError, PermissionDenied
from afdp.signer.trust import TrustSigner
from afdp.signer.trust_memory import TrustMemory
from tests.local_keys import file_catalogue


def text(signed: Signed) -> bytes:
    return CanonicalJSONSerializer().serialize(signed)


def soon(days: float = 1) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def timestamp(version: int, snapshot: int = 1, *, days: float = 1) -> bytes:
    return text(Timestamp(version, expires=soon(days), snapshot_meta=MetaFile(snapshot)))


def snapshot(version: int, **refers: int) -> bytes:
    meta = {f"{name.replace('_', '-')}.json": MetaFile(number) for name, number in refers.items()}
    return text(Snapshot(version, expires=soon(), meta=meta))


def online_keys(version: int, *paths: str) -> bytes:
    return text(Targets(version, expires=soon(), targets={path: TargetFile.from_data(path, b"{}") for path in paths}))


def open_signer(folder: Path) -> TrustSigner:
    return TrustSigner(file_catalogue(folder), TrustMemory(folder / "trust"))


@pytest.fixture
def signer(tmp_path: Path) -> TrustSigner:
    return open_signer(tmp_path)


@pytest.mark.parametrize(
    "signed",
    [
        timestamp(1),
        snapshot(1, targets=1, online_keys=1),
        online_keys(1, "keys.json", "keys/afdp-file-key:1.pem", "trusted_root.json", "tsa.pem"),
    ],
)
async def test_metadata_of_an_online_role_is_signed_by_the_trust_key(signer: TrustSigner, signed: bytes) -> None:
    answer = await signer.sign(signed)

    Ed25519PublicKey.from_public_bytes(answer.public_key).verify(answer.signature.value, signed)
    assert answer.signature.key.key_id == "afdp-file-trust-key:1"


@pytest.mark.parametrize(
    "signed",
    [
        pytest.param(text(Root(1, expires=soon())), id="root"),
        pytest.param(text(Targets(1, expires=soon(), delegations=Delegations({}, {}))), id="delegations"),
        pytest.param(online_keys(1, "keys.json", "revocations.json"), id="revocations"),
        pytest.param(online_keys(1, "log.vkey"), id="the logs"),
        pytest.param(online_keys(1, "independent.pem"), id="the independent authorities"),
        pytest.param(online_keys(1, "keys/deeper/key.pem"), id="a path that is not delegated"),
    ],
)
async def test_what_is_signed_offline_is_never_signed_here(signer: TrustSigner, signed: bytes) -> None:
    with pytest.raises(PermissionDenied, match="offline"):
        await signer.sign(signed)


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        b"\x00" * 32,
        b"[]",
        b'{"_type":"link"}',
        timestamp(1).replace(b"1.0", b"2.0"),
        timestamp(1).replace(b'"version":1', b'"version":0'),
        timestamp(1).replace(b'"version":1', b'"version":1.5'),
        timestamp(1).replace(b'"_type"', b'"more":1,"_type"'),
        timestamp(1).replace(b'"_type"', b'"_type":"timestamp","_type"'),
        pytest.param(text(Snapshot(1, expires=soon(), meta={})), id="a snapshot that lists nothing"),
        timestamp(1).replace(b"snapshot.json", b"root.json"),
    ],
)
async def test_what_is_not_metadata_is_refused_by_its_field(signer: TrustSigner, signed: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await signer.sign(signed)

    assert refused.value.fields


@pytest.mark.parametrize(("days", "why"), [(-0.001, "must not have passed"), (7.1, "within 7 days")])
async def test_metadata_is_signed_neither_late_nor_for_ever(signer: TrustSigner, days: float, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        await signer.sign(timestamp(1, days=days))


async def test_a_version_is_signed_once_and_no_older_one_after_it(signer: TrustSigner, tmp_path: Path) -> None:
    await signer.sign(timestamp(5))

    for process in (signer, open_signer(tmp_path)):
        for version in (4, 5):
            with pytest.raises(FailedPrecondition, match="up to version 5") as refused:
                await process.sign(timestamp(version))
            assert refused.value.metadata == {"last_version": "5"}
    assert await signer.sign(timestamp(6))


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        (snapshot(3, targets=3, online_keys=9), "targets.json goes back to version 3"),
        (snapshot(3, targets=4), "online-keys.json is missing"),
    ],
)
async def test_no_newer_snapshot_takes_revocations_back(
    signer: TrustSigner, tmp_path: Path, signed: bytes, why: str
) -> None:
    await signer.sign(snapshot(2, targets=4, online_keys=8))

    for process in (signer, open_signer(tmp_path)):
        with pytest.raises(FailedPrecondition, match=why):
            await process.sign(signed)


async def test_a_refusal_leaves_the_memory_as_it_was(signer: TrustSigner) -> None:
    await signer.sign(timestamp(2, snapshot=7))
    with pytest.raises(NotaryError):
        await signer.sign(timestamp(9, snapshot=6))

    assert await signer.sign(timestamp(3, snapshot=7))


@pytest.mark.parametrize("content", [b"", b"{}", timestamp(3), b"\xff"])
async def test_a_memory_that_cannot_be_read_stops_the_signer(tmp_path: Path, content: bytes) -> None:
    await open_signer(tmp_path).sign(snapshot(1, targets=1))
    (tmp_path / "trust" / "snapshot.json").write_bytes(content)

    with pytest.raises(DataLoss, match="restore it, do not remove it"):
        open_signer(tmp_path)


async def test_the_memory_is_the_metadata_that_was_signed(signer: TrustSigner, tmp_path: Path) -> None:
    signed = snapshot(1, targets=1)
    await signer.sign(signed)

    assert (tmp_path / "trust" / "snapshot.json").read_bytes() == signed
    assert orjson.loads(signed)["version"] == 1
