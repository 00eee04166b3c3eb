"""Signatures a second of the signer's batch call, by what holds the key, beside the engine itself in the same run.

One call at a time, as a notary sends its batches: of 1, 32 and 256 statements, stamped and not. The engine is asked for
as many signatures in the same way by the barest client: `cryptography` in process, OpenBao over HTTP on one connection,
the token by python-pkcs11 on one session. Every signature is verified afterwards, and one stamp of each answer.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from afdp.embedded.openbao import running_openbao
from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from afdp.rpc import open_channel
from bench.child import result_of
from bench.figures import Figure, Run, median_figure, run_of
from tests.local_token import LocalToken

BATCHES = (1, 32, 256)
_STARTS_WITHIN = 30.0  # seconds


@dataclass(frozen=True)
class Adapter:
    """What holds the key: the signer's settings, and how the engine is reached without it."""

    name: str
    settings: Mapping[str, str]
    engine: Mapping[str, str]


async def measure_signer(folder: Path, seconds: float, rounds: int) -> list[Figure]:
    """The figures of each adapter that is here."""
    figures = await _of_adapter(Adapter("files", {}, {}), folder, seconds, rounds)
    async with running_openbao(folder / "openbao") as bao:
        engine = {"addr": bao.addr, "credentials": str(bao.data_dir / "signer")}
        figures += await _of_adapter(Adapter("openbao", bao.signer_settings, engine), folder, seconds, rounds)
    if token := _local_token(folder):
        figures += await _of_adapter(await _token_adapter(token, folder), folder, seconds, rounds)
    else:
        print("softhsm2-util is not here: no figures of a token")
    return figures


async def _of_adapter(adapter: Adapter, folder: Path, seconds: float, rounds: int) -> list[Figure]:
    figures = []
    async with (
        _signer(folder / f"{adapter.name}-stamped", adapter.settings) as stamped,
        _signer(folder / f"{adapter.name}-plain", {**adapter.settings, "AFDP_TSA": "off"}) as plain,
    ):
        for batch in BATCHES:
            raw: list[Run] = []
            signed: dict[str, list[Run]] = {stamped: [], plain: []}
            for address in signed:
                await _signing(address, batch, seconds / 4)
            for _ in range(rounds):
                raw.append(await _engine(adapter, batch, seconds))
                for address, runs in signed.items():
                    runs.append(await _signing(address, batch, seconds))
            name, beside = f"signer_{adapter.name}_{batch}", f"engine_{adapter.name}_{batch}"
            unit = "signatures/s"
            figures += [
                median_figure(name, signed[stamped], (beside, raw), unit),
                median_figure(f"{name}_unstamped", signed[plain], (beside, raw), unit),
                median_figure(beside, raw, None, unit),
            ]
    return figures


async def _signing(address: str, batch: int, seconds: float) -> Run:
    result = await result_of("bench.signer_load", address, str(batch), str(seconds))
    return run_of(result["latencies"], result["seconds"], batch)


async def _engine(adapter: Adapter, batch: int, seconds: float) -> Run:
    result = await result_of("bench.engine_load", adapter.name, json.dumps(adapter.engine), str(batch), str(seconds))
    return run_of(result["latencies"], result["seconds"], batch)


@asynccontextmanager
async def _signer(folder: Path, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """A signer's address."""
    port = free_port()
    own = {"AFDP_PORT": str(port), "AFDP_TLS": "off", "AFDP_METRICS_PORT": "0", "AFDP_DATA_DIR": str(folder)}
    process = await ServerProcess.spawn(
        folder.name,
        [sys.executable, "-m", "afdp.signer"],
        log=folder.with_suffix(".log"),
        environment={"PATH": "/usr/bin:/bin", **own, **settings},
    )
    try:
        async with open_channel(f"{LOOPBACK}:{port}") as channel:
            await process.until(lambda: _is_ready(channel), deadline=_STARTS_WITHIN)
        yield f"{LOOPBACK}:{port}"
    finally:
        await process.stop()


async def _is_ready(channel: object) -> bool:
    return str(channel.get_state(try_to_connect=True)).endswith("READY")  # type: ignore[attr-defined]


def _local_token(folder: Path) -> LocalToken | None:
    util = shutil.which("softhsm2-util")
    return LocalToken.make(folder / "softhsm", Path(util)) if util else None


async def _token_adapter(token: LocalToken, folder: Path) -> Adapter:
    settings = {
        "AFDP_KEYS": "pkcs11",
        "AFDP_PKCS11_MODULE": str(token.module),
        "AFDP_PKCS11_TOKEN_LABEL": token.label,
        "AFDP_PKCS11_PIN_FILE": str(token.pin_file),
        **token.environment,
    }
    process = await ServerProcess.spawn(
        "create-keys",
        [sys.executable, "-m", "afdp.signer", "create-keys"],
        log=folder / "create-keys.log",
        environment={"PATH": "/usr/bin:/bin", "AFDP_DATA_DIR": str(folder / "create-keys"), **settings},
    )
    if await process.wait():
        raise SystemExit((folder / "create-keys.log").read_text())
    engine = {"module": str(token.module), "label": token.label, "pin": token.pin, **token.environment}
    return Adapter("softhsm2", settings, engine)
