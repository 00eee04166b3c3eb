"""From settings to the catalogue: which keys there are, what holds each, and each holder opened once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from afdp.errors import FailedPrecondition
from afdp.signer.config import KeyHolder, SignerSettings
from afdp.signer.datakeys import DataKeys
from afdp.signer.files import FileKeyring
from afdp.signer.kek import FileKek
from afdp.signer.keys import ED25519, P256, P384, KeyCatalogue, Keyring, KeySpec, Purpose, RevocationList
from afdp.signer.subjectfiles import open_subject_files
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import Vault, open_vault

_ALGORITHMS = {"P-256": P256, "P-384": P384}
_FILE_NAMES = {
    Purpose.EVIDENCE: "afdp-file-key",
    Purpose.LOG: "afdp-file-log-key",
    Purpose.TIMESTAMP: "afdp-file-timestamp-key",
    Purpose.TRUST: "afdp-file-trust-key",
}


@asynccontextmanager
async def open_vault_if_used(settings: SignerSettings) -> AsyncIterator[Vault | None]:
    """The Vault that holds one key or more; None where none is there.

    Raises:
        FailedPrecondition: a setting or a file is missing; it is named.
    """
    if all(holder != "vault" for holder, _ in key_specs(settings)):
        yield None
        return
    async with open_vault(settings) as vault:
        yield vault


@asynccontextmanager
async def open_catalogue(
    settings: SignerSettings, revocations: RevocationList, vault: Vault | None = None
) -> AsyncIterator[KeyCatalogue]:
    """Every key that the settings name, ready to sign; `vault` is what `open_vault_if_used` gives.

    Raises:
        FailedPrecondition: a key cannot be opened; the message says which and why.
    """
    wanted: dict[KeyHolder, list[KeySpec]] = {}
    for holder, spec in key_specs(settings):
        wanted.setdefault(holder, []).append(spec)
    async with AsyncExitStack() as stack:
        held: dict[KeySpec, Keyring] = {}
        for holder, specs in wanted.items():
            keyring = await stack.enter_async_context(_open_keyring(settings, vault, holder, specs))
            held.update(dict.fromkeys(specs, keyring))
        yield KeyCatalogue(held, revocations)


@asynccontextmanager
async def open_data_keys(settings: SignerSettings) -> AsyncIterator[DataKeys]:
    """What makes and opens data keys.

    Raises:
        FailedPrecondition: the subjects' keys cannot be opened; the message says why.
    """
    folder = settings.data_dir / "data-keys"
    with open_subject_files(folder, await asyncio.to_thread(_file_kek, settings, folder)) as holder:
        yield DataKeys(holder)


def key_specs(settings: SignerSettings) -> list[tuple[KeyHolder, KeySpec]]:
    """What keys there are, and what holds each."""
    evidence = _ALGORITHMS[settings.evidence_algorithm]
    own = [
        (settings.keys, KeySpec(each.name, Purpose.EVIDENCE, _ALGORITHMS[each.algorithm], each.tenants))
        for each in settings.tenant_keys
    ]
    log, stamps, trust = settings.log_keys or settings.keys, settings.timestamp_keys, settings.trust_keys
    return [
        (settings.keys, KeySpec(_name(settings, settings.keys, Purpose.EVIDENCE), Purpose.EVIDENCE, evidence)),
        *own,
        (log, KeySpec(_name(settings, log, Purpose.LOG), Purpose.LOG, ED25519)),
        (stamps, KeySpec(_name(settings, stamps, Purpose.TIMESTAMP), Purpose.TIMESTAMP, P256)),
        (trust, KeySpec(_name(settings, trust, Purpose.TRUST), Purpose.TRUST, ED25519)),
    ]


def _name(settings: SignerSettings, holder: KeyHolder, purpose: Purpose) -> str:
    return {
        "files": _FILE_NAMES,
        "vault": {
            Purpose.EVIDENCE: settings.vault_evidence_key,
            Purpose.LOG: settings.vault_log_key,
            Purpose.TIMESTAMP: settings.vault_timestamp_key,
            Purpose.TRUST: settings.vault_trust_key,
        },
    }[holder][purpose]


def _file_kek(settings: SignerSettings, folder: Path) -> FileKek:
    new = not (folder / "names").exists()  # what was sealed before needs the KEK of then
    return FileKek.open_file(folder / "kek.json", _passphrase_file(settings), make=new)


def _passphrase_file(settings: SignerSettings) -> Path:
    return settings.passphrase_file or settings.data_dir / "passphrase"


@asynccontextmanager
async def _open_keyring(
    settings: SignerSettings, vault: Vault | None, holder: KeyHolder, specs: Sequence[KeySpec]
) -> AsyncIterator[Keyring]:
    if holder == "files":
        yield FileKeyring.open(settings.data_dir / "keys", _passphrase_file(settings), specs)
        return
    if vault is None:
        raise FailedPrecondition("keys are in Vault, and no Vault was opened")
    yield VaultKeyring(vault, KeyMemory(settings.data_dir / "vault-keys.json"), specs)
