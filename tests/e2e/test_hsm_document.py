"""The commands of docs/hsm.md, executed as they stand: from nothing to a running signer, and its keys compared."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import grpc.aio

from afdp.embedded.process import free_port
from afdp.formats.spki import to_pem
from afdp.messages.signer import GetPublicKeysRequest, GetPublicKeysResponse, SignerServiceClient
from afdp.rpc import GrpcCaller, open_channel
from tests.local_token import LocalToken

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "hsm.md").read_text()
BLOCKS = [
    "".join(line.removeprefix("   ") for line in block.splitlines(keepends=True))
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
]
MAKE_TOKEN, MAKE_KEYS, RUN, COMPARE = BLOCKS


async def test_from_nothing_to_a_running_signer(tool: Callable[[str], Path], tmp_path: Path) -> None:
    module = LocalToken(tmp_path, tool("softhsm2-util")).module
    script = "".join((MAKE_TOKEN, MAKE_KEYS, "echo; exec ", RUN)).replace(
        "/usr/lib/softhsm/libsofthsm2.so", str(module)
    )
    port = free_port()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AFDP_PORT": str(port),
        "AFDP_METRICS_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            printed = (await process.stdout.readuntil(b"\n\n")).decode().splitlines()
        made = {line.split()[0]: line.split()[-1] for line in printed if " PKIX_" in line}
        assert sorted(made) == ["afdp-hsm-key:1", "afdp-hsm-log-key:1"]

        async with asyncio.timeout(30), open_channel(f"127.0.0.1:{port}") as channel:
            keys = (await served(channel)).keys
        assert {key.key_id: sha256(key.spki).hexdigest() for key in keys if "hsm" in key.key_id} == made

        (tmp_path / "trust" / "keys").mkdir(parents=True)
        for key in keys:
            (tmp_path / "trust" / "keys" / f"{key.key_id}.pem").write_text(to_pem(key.spki))
        compare = COMPARE.partition("\n")[2]  # the export itself needs the whole stack
        assert (await shell(compare, tmp_path)).split()[0] == made["afdp-hsm-key:1"]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()


async def served(channel: grpc.aio.Channel) -> GetPublicKeysResponse:
    """The keys, as soon as the signer answers."""
    signer = SignerServiceClient(GrpcCaller(channel))
    await channel.channel_ready()
    return await signer.get_public_keys(GetPublicKeysRequest(), timeout=10)


async def shell(script: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script, cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()
