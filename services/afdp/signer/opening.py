"""From settings to the catalogue: which keys there are, what holds each, and each holder opened once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from afdp.errors import FailedPrecondition
from afdp.signer.config import KeyHolder, SignerSettings
from afdp.signer.datakeys import DataKeys
from afdp.signer.files import FileKeyring
from afdp.signer.kek import FileKek
from afdp.signer.keys import (
    ED25519,
    P256,
    P384,
    KeyCatalogue,
    Keyring,
    KeySpec,
    KeyVersion,
    Purpose,
    RevocationList,
    VersionList,
)
from afdp.signer.subjectfiles import open_subject_files
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import Vault, open_vault
from afdp.signer.vault.subjects import VaultSubjects

if TYPE_CHECKING:
    from afdp.signer.pkcs11.kek import TokenKek
    from afdp.signer.pkcs11.keyring import Pkcs11Keyring
    from afdp.signer.pkcs11.sessions import SessionPool

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
    if "vault" not in _holders(settings):
        yield None
        return
    async with open_vault(settings) as vault:
        yield vault


@asynccontextmanager
async def open_token_if_used(settings: SignerSettings) -> AsyncIterator[SessionPool | None]:
    """Sessions on the token that holds one key or more; None where none is there.

    Raises:
        FailedPrecondition: a setting, a file or the package for PKCS #11 is missing; it is named.
    """
    if "pkcs11" not in _holders(settings):
        yield None
        return
    try:
        from afdp.signer.pkcs11.opening import open_token  # the package is there only where tokens are used
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"keys in a token need the package {error.name}: afdp-notary[hsm]") from None
    async with open_token(settings) as token:
        yield token


async def create_token_keys(settings: SignerSettings) -> tuple[list[KeyVersion], str | None]:
    """Makes, in the token, the keys that the settings place there and that it does not have yet.

    Gives the key versions, and the name of the secret that seals subjects' keys where it was made.

    Raises:
        FailedPrecondition: a setting is wrong, or the token cannot make such a key.
        Unavailable: the token is away.
    """
    specs = [spec for holder, spec in key_specs(settings) if holder == "pkcs11"]
    async with open_token_if_used(settings) as token:
        if token is None:
            raise FailedPrecondition("the settings place no key in a token: see AFDP_KEYS")
        keyring = _token_keyring(token, specs)
        made = [await keyring.create(spec.name) for spec in specs]
        sealing = data_key_holder(settings) == "pkcs11" and await _token_kek(settings, token).create()
    versions = [version for version in made if version is not None]
    return versions, settings.pkcs11_data_key if sealing else None


@asynccontextmanager
async def open_catalogue(
    settings: SignerSettings,
    revocations: RevocationList,
    memory: VersionList,
    vault: Vault | None = None,
    token: SessionPool | None = None,
) -> AsyncIterator[KeyCatalogue]:
    """Every key that the settings name, ready to sign, by what `open_vault_if_used` and `open_token_if_used` give.

    Raises:
        FailedPrecondition: a key cannot be opened; the message says which and why.
    """
    wanted: dict[KeyHolder, list[KeySpec]] = {}
    for holder, spec in key_specs(settings):
        wanted.setdefault(holder, []).append(spec)
    async with AsyncExitStack() as stack:
        held: dict[KeySpec, Keyring] = {}
        for holder, specs in wanted.items():
            keyring = await stack.enter_async_context(open_keyring(settings, vault, token, holder, specs))
            held.update(dict.fromkeys(specs, keyring))
        yield KeyCatalogue(held, revocations, memory)


@asynccontextmanager
async def open_data_keys(
    settings: SignerSettings, vault: Vault | None = None, token: SessionPool | None = None
) -> AsyncIterator[DataKeys]:
    """What makes and opens data keys, by what `open_vault_if_used` and `open_token_if_used` give.

    Raises:
        FailedPrecondition: the subjects' keys cannot be opened; the message says why.
    """
    holder = data_key_holder(settings)
    if holder == "vault":
        yield DataKeys(VaultSubjects(_required_vault(vault)))
        return
    folder = settings.data_dir / "data-keys"
    file_kek = FileKek(folder / "kek.json", passphrase_file(settings))
    kek = file_kek if holder == "files" else _token_kek(settings, _required_token(token))
    with open_subject_files(folder, kek) as files:
        if holder == "files":  # a token may be away until it is needed
            await asyncio.to_thread(files.unlock)
        yield DataKeys(files)


def data_key_holder(settings: SignerSettings) -> KeyHolder:
    """What holds subjects' keys."""
    return settings.data_keys or settings.keys


def key_specs(settings: SignerSettings) -> list[tuple[KeyHolder, KeySpec]]:
    """What keys there are, and what holds each."""
    evidence = _ALGORITHMS[settings.evidence_algorithm]
    own = [
        (settings.keys, KeySpec(each.name, Purpose.EVIDENCE, _ALGORITHMS[each.algorithm], each.tenants))
        for each in settings.tenant_keys
    ]
    own_logs = [
        (settings.log_keys or settings.keys, KeySpec(each.name, Purpose.LOG, ED25519, origins=each.origins))
        for each in settings.own_log_keys
    ]
    log, stamps, trust = settings.log_keys or settings.keys, settings.timestamp_keys, settings.trust_keys
    return [
        (settings.keys, KeySpec(_name(settings, settings.keys, Purpose.EVIDENCE), Purpose.EVIDENCE, evidence)),
        *own,
        (log, KeySpec(_name(settings, log, Purpose.LOG), Purpose.LOG, ED25519)),
        *own_logs,
        (stamps, KeySpec(_name(settings, stamps, Purpose.TIMESTAMP), Purpose.TIMESTAMP, P256)),
        (trust, KeySpec(_name(settings, trust, Purpose.TRUST), Purpose.TRUST, ED25519)),
    ]


def _holders(settings: SignerSettings) -> set[KeyHolder]:
    return {data_key_holder(settings), *(holder for holder, _ in key_specs(settings))}


def _name(settings: SignerSettings, holder: KeyHolder, purpose: Purpose) -> str:
    return {
        "files": _FILE_NAMES,
        "vault": {
            Purpose.EVIDENCE: settings.vault_evidence_key,
            Purpose.LOG: settings.vault_log_key,
            Purpose.TIMESTAMP: settings.vault_timestamp_key,
            Purpose.TRUST: settings.vault_trust_key,
        },
        "pkcs11": {
            Purpose.EVIDENCE: settings.pkcs11_evidence_key,
            Purpose.LOG: settings.pkcs11_log_key,
            Purpose.TIMESTAMP: settings.pkcs11_timestamp_key,
            Purpose.TRUST: settings.pkcs11_trust_key,
        },
    }[holder][purpose]


@asynccontextmanager
async def open_keyring(
    settings: SignerSettings,
    vault: Vault | None,
    token: SessionPool | None,
    holder: KeyHolder,
    specs: Sequence[KeySpec],
) -> AsyncIterator[Keyring]:
    """What holds some of the keys.

    Raises:
        FailedPrecondition: it cannot be opened; the message says why.
    """
    if holder == "files":
        yield FileKeyring.open(settings.data_dir / "keys", passphrase_file(settings), specs)
    elif holder == "vault":
        yield VaultKeyring(_required_vault(vault), KeyMemory(settings.data_dir / "vault-keys.json"), specs)
    else:
        keyring = _token_keyring(_required_token(token), specs)
        await keyring.require()
        yield keyring


def _token_keyring(token: SessionPool, specs: Sequence[KeySpec]) -> Pkcs11Keyring:
    from afdp.signer.pkcs11.keyring import Pkcs11Keyring  # see `open_token_if_used`

    return Pkcs11Keyring(token, specs)


def _token_kek(settings: SignerSettings, token: SessionPool) -> TokenKek:
    from afdp.signer.pkcs11.kek import TokenKek  # see `open_token_if_used`

    return TokenKek(token, settings.pkcs11_data_key)


def _required_vault(vault: Vault | None) -> Vault:
    if vault is None:
        raise FailedPrecondition("keys are in Vault, and no Vault was opened")
    return vault


def _required_token(token: SessionPool | None) -> SessionPool:
    if token is None:
        raise FailedPrecondition("keys are in a token, and no token was opened")
    return token


def passphrase_file(settings: SignerSettings) -> Path:
    """What the key files are encrypted with."""
    return settings.passphrase_file or settings.data_dir / "passphrase"
