"""Data keys of the signer as a process, over gRPC."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from afdp.errors import InvalidArgument
from afdp.messages.signer import (
    DataKeyScope,
    DestroySubjectKeyRequest,
    GenerateDataKeysRequest,
    RewrapDataKeysRequest,
    RotateSubjectKeyRequest,
    SignerServiceClient,
    UnwrapDataKeysRequest,
    WrappedDataKey,
)
from afdp.rpc import GrpcCaller, open_channel

ALICE = DataKeyScope("bank", "alice@example.org")
BANK = DataKeyScope("bank", "*")


@asynccontextmanager
async def signer(folder: Path) -> AsyncIterator[tuple[SignerServiceClient, ServerProcess]]:
    """A signer on the folder, killed at the end of the block."""
    port = free_port()
    settings = {
        "AFDP_PORT": str(port),
        "AFDP_METRICS_PORT": "0",
        "AFDP_DATA_DIR": str(folder),
        "AFDP_TSA": "off",
        "AFDP_TLS": "off",
    }
    process = await ServerProcess.spawn(
        "signer",
        [sys.executable, "-m", "afdp.signer"],
        log=folder.with_name("signer.log"),
        environment={"PATH": "/usr/bin:/bin", "AFDP_LOG_LEVEL": "DEBUG", **settings},
    )
    try:
        async with open_channel(f"{LOOPBACK}:{port}") as channel:
            await channel.channel_ready()
            yield SignerServiceClient(GrpcCaller(channel)), process
    finally:
        process.kill()
        await process.wait()


async def test_data_keys_go_over_the_wire_outlive_a_kill_and_end_with_their_subject(tmp_path: Path) -> None:
    folder = tmp_path / "signer"
    async with signer(folder) as (client, _):
        made = (await client.generate_data_keys(GenerateDataKeysRequest([ALICE, BANK, DataKeyScope("", "x")]))).results
        first, second, refused = made
        assert first.key
        assert second.key
        assert refused.error
        assert (refused.error.code, refused.error.errors[0].field) == ("INVALID_ARGUMENT", "scopes[2].tenant")

    async with signer(folder) as (client, _):
        kept = [WrappedDataKey(ALICE, first.key.wrapped), WrappedDataKey(BANK, second.key.wrapped)]
        swapped = WrappedDataKey(BANK, first.key.wrapped)
        *plain, wrong = (await client.unwrap_data_keys(UnwrapDataKeysRequest([*kept, swapped]))).results
        assert plain == [first, second]
        assert wrong.error
        assert wrong.error.errors[0].field == "keys[2].wrapped"
        assert (await client.rotate_subject_key(RotateSubjectKeyRequest(ALICE))).version == 2
        (anew,) = (await client.rewrap_data_keys(RewrapDataKeysRequest(kept[:1]))).results
        assert anew.key
        assert anew.key.plain == b""
        kept[0] = WrappedDataKey(ALICE, anew.key.wrapped)
        destroyed = (await client.destroy_subject_key(DestroySubjectKeyRequest(ALICE))).destroyed_at
        assert destroyed
        assert abs(destroyed - datetime.now(UTC)) < timedelta(minutes=1)

    async with signer(folder) as (client, _):
        erased, other = (await client.unwrap_data_keys(UnwrapDataKeysRequest(kept))).results
        assert erased.error
        assert erased.error.code == "NOT_FOUND"
        assert other == second
        again = await client.destroy_subject_key(DestroySubjectKeyRequest(ALICE))
        assert again.destroyed_at == destroyed
        with pytest.raises(InvalidArgument, match="1 to 256"):
            await client.generate_data_keys(GenerateDataKeysRequest([]))
        with pytest.raises(InvalidArgument, match=r"scope\.tenant"):
            await client.destroy_subject_key(DestroySubjectKeyRequest())

    log = folder.with_name("signer.log").read_text()
    assert "a subject's key is destroyed" in log
    for secret in (first.key.plain.hex(), repr(first.key.plain)[2:-1], "alice@example.org"):
        assert secret not in log
