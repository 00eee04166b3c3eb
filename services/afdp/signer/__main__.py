"""The signer process: reads its settings, builds its parts, serves until it is told to stop."""

from __future__ import annotations

from contextlib import AsyncExitStack
from hashlib import sha256

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
from afdp.process import run, running
from afdp.rpc import serve
from afdp.selfcheck import grpc_port_of, self_check
from afdp.signer import checking
from afdp.signer.certificate_request import timestamp_certificate_request
from afdp.signer.config import SignerSettings
from afdp.signer.disk import private_folder
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import Purpose
from afdp.signer.opening import (
    create_token_keys,
    open_catalogue,
    open_data_keys,
    open_token_if_used,
    open_vault_if_used,
)
from afdp.signer.revocations import Revocations
from afdp.signer.rotation import KeyRotation
from afdp.signer.service import Signer
from afdp.signer.servicer import SignerServicer
from afdp.signer.status import FipsStatus, KeyStatus, Reporting, StatusReport
from afdp.signer.timekeeping import open_timekeeping
from afdp.signer.trust import TrustSigner
from afdp.signer.trust_memory import TrustMemory
from afdp.signer.version_memory import VersionMemory
from afdp.telemetry import start_telemetry
from afdp.tls.files import open_tls


async def main(settings: SignerSettings) -> None:
    """Serves until it is told to stop."""
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(start_telemetry("signer", settings))
        tls = await stack.enter_async_context(open_tls(settings))
        folder = private_folder(settings.data_dir)
        revocations = Revocations(folder / "revocations.json")
        memory = VersionMemory(folder / "key-versions.json")
        vault = await stack.enter_async_context(open_vault_if_used(settings))
        token = await stack.enter_async_context(open_token_if_used(settings))
        keys = await stack.enter_async_context(open_catalogue(settings, revocations, memory, vault, token))
        guard = CheckpointGuard(folder / "checkpoints", settings.log_origins)
        time = await stack.enter_async_context(open_timekeeping(settings, keys))
        signer = Signer(keys, guard, settings.log_origins, time.authority)
        trust = TrustSigner(keys, TrustMemory(folder / "trust"))
        data_keys = await stack.enter_async_context(open_data_keys(settings, vault, token))
        keyrings = {each.kind: each for each in keys.keyrings}
        oldest = {Purpose(name): age for name, age in settings.key_rotation.items()}
        told: dict[str, Reporting] = {"keys": KeyStatus(keys, oldest), **keyrings, **time.reporting}
        status = StatusReport({**told, "data keys": data_keys, "fips": FipsStatus(settings.fips)})
        servicer = SignerServicer(signer, time.timestamps, trust, data_keys, status)
        await stack.enter_async_context(running(KeyRotation(keys, oldest).run()))
        await serve(servicer, settings, telemetry, signer.check, tls=tls)


async def create_keys(settings: SignerSettings) -> None:
    """Makes the keys that are missing in the token, and says what it made: key, algorithm, SHA-256 of the public key.

    Keys in files are made at the first start, keys in Vault by `deploy/vault`; those in a token only by this.
    """
    versions, sealing = await create_token_keys(settings)
    for version in versions:
        print(version.key_id, version.algorithm, sha256(version.spki).hexdigest())
    if sealing:
        print(sealing, "HMAC_SHA_256")


async def request_certificate(settings: SignerSettings) -> None:
    """Prints a certification request for the time-stamping key: what an organisation's own authority takes."""
    async with AsyncExitStack() as stack:
        folder = private_folder(settings.data_dir)
        vault = await stack.enter_async_context(open_vault_if_used(settings))
        token = await stack.enter_async_context(open_token_if_used(settings))
        revocations = Revocations(folder / "revocations.json")
        memory = VersionMemory(folder / "key-versions.json", keeps=False)
        keys = await stack.enter_async_context(open_catalogue(settings, revocations, memory, vault, token))
        print(await timestamp_certificate_request(keys, settings.log_origins[0]), end="")


CHECK = self_check(
    SignerSettings, checking.folder, checking.keys, checking.time, grpc_port_of("afdp.signer.v1.SignerService")
)


if __name__ == "__main__":
    run(
        SignerSettings,
        main,
        {"create-keys": create_keys, "request-certificate": request_certificate, "check": CHECK},
    )
