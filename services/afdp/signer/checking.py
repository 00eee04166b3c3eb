"""What the signer finds before it serves: its folder, what holds its keys, its clock and its certificates.

Nothing is made and nothing is changed: keys that the first start would make are said to be missing, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from afdp.errors import NotaryError
from afdp.formats.certificates import from_pem, read_certificate
from afdp.formats.timestamps import format_timestamp
from afdp.selfcheck import Finding, disk_finding, folder_finding
from afdp.signer.clock import Clock
from afdp.signer.config import KeyHolder, SignerSettings
from afdp.signer.files import FileKeyring
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import KeySpec
from afdp.signer.opening import key_specs, open_keyring, open_token_if_used, open_vault_if_used, passphrase_file
from afdp.signer.part import Part
from afdp.signer.revocations import Revocations
from afdp.signer.status import StatusReport
from afdp.signer.version_memory import VersionMemory

_NEARLY = timedelta(days=90)


async def folder(settings: SignerSettings) -> Sequence[Finding]:
    """The data folder, the room in it, and what must not be lost of it."""
    return [folder_finding(settings.data_dir), disk_finding(settings.data_dir), _memory(settings)]


async def keys(settings: SignerSettings) -> Sequence[Finding]:
    """What holds the keys, each holder by itself: one that is away hides no other."""
    held: dict[KeyHolder, list[KeySpec]] = {}
    for holder, spec in key_specs(settings):
        held.setdefault(holder, []).append(spec)
    return [finding for holder, specs in held.items() for finding in await _holder(settings, holder, specs)]


async def time(settings: SignerSettings) -> Sequence[Finding]:
    """The clock, and the certificates that the settings name."""
    clock = Clock(strict=settings.clock == "refuse", max_offset=settings.clock_max_offset_seconds)
    findings = _findings(await clock.status())
    if settings.tsa_chain_file is not None:
        findings.append(_certificates(settings.tsa_chain_file))
    return findings


async def _holder(settings: SignerSettings, holder: KeyHolder, specs: Sequence[KeySpec]) -> list[Finding]:
    try:
        if holder == "files" and (new := FileKeyring.missing(settings.data_dir / "keys", specs)):
            return [_new_files(settings, new)]
        async with AsyncExitStack() as stack:
            vault = await stack.enter_async_context(open_vault_if_used(settings)) if holder == "vault" else None
            token = await stack.enter_async_context(open_token_if_used(settings)) if holder == "pkcs11" else None
            keyring = await stack.enter_async_context(open_keyring(settings, vault, token, holder, specs))
            return _findings(await StatusReport({holder: keyring}, patience=10.0).parts())
    except NotaryError as error:
        return [Finding(holder, False, str(error), "see docs/deployment.md for what the signer needs of it")]


def _new_files(settings: SignerSettings, names: Sequence[str]) -> Finding:
    passphrase = passphrase_file(settings)
    if settings.passphrase_file is not None and not passphrase.exists():
        remedy = "write it, mode 600, or leave AFDP_PASSPHRASE_FILE out: then the first start makes one"
        return Finding("files", False, f"the passphrase {passphrase} is not there", remedy)
    return Finding("files", True, f"{', '.join(names)}: not there yet; made at the first start")


def _memory(settings: SignerSettings) -> Finding:
    """The lists of which a lost or spoilt one would make the signer sign what it must not."""
    checkpoints = settings.data_dir / "checkpoints"
    try:
        Revocations(settings.data_dir / "revocations.json")
        VersionMemory(settings.data_dir / "key-versions.json")
        if not checkpoints.exists():
            return Finding("memory", True, "no checkpoint was signed here yet")
        guard = CheckpointGuard(checkpoints, settings.log_origins)
    except (NotaryError, OSError) as error:
        return Finding("memory", False, str(error), "restore it from a backup; never remove it")
    last = [f"{known.origin} at {known.size}" for known in guard.kept]
    return Finding("memory", True, f"last checkpoints: {', '.join(last) or 'none'}")


def _certificates(path: Path) -> Finding:
    remedy = "have the authority issue new ones, and put them into the file"
    try:
        ends = min(read_certificate(each).not_after for each in from_pem(path.read_text()))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Finding("certificates", False, f"{path}: {why}", "set AFDP_TSA_CHAIN_FILE to a PEM file with the chain")
    left = ends - datetime.now(UTC)
    detail = f"{path}: the first of them ends {format_timestamp(ends)}"
    return Finding("certificates", left > timedelta(0), detail, remedy if left < _NEARLY else "")


def _findings(parts: Sequence[Part]) -> list[Finding]:
    return [Finding(part.name, part.good, part.detail, part.remedy) for part in parts]
