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
from afdp.signer.keys import ED25519, P256, P384, KeyCatalogue, Keyring, KeySpec, KeyVersion, Purpose, RevocationList
from afdp.signer.subjectfiles import open_subject_files
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import Vault, open_vault

if TYPE_CHECKING:
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
    if all(holder != "vault" for holder, _ in key_specs(settings)):
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
    if all(holder != "pkcs11" for holder, _ in key_specs(settings)):
        yield None
        return
    try:
        from afdp.signer.pkcs11.opening import open_token  # the package is there only where tokens are used
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"keys in a token need the package {error.name}: afdp-notary[hsm]") from None
    async with open_token(settings) as token:
        yield token


async def create_token_keys(settings: SignerSettings) -> list[KeyVersion]:
    """Makes, in the token, the keys that the settings place there and that it does not have yet.

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
    return [version for version in made if version is not None]


@asynccontextmanager
async def open_catalogue(
    settings: SignerSettings,
    revocations: RevocationList,
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
        "pkcs11": {
            Purpose.EVIDENCE: settings.pkcs11_evidence_key,
            Purpose.LOG: settings.pkcs11_log_key,
            Purpose.TIMESTAMP: settings.pkcs11_timestamp_key,
            Purpose.TRUST: settings.pkcs11_trust_key,
        },
    }[holder][purpose]


def _file_kek(settings: SignerSettings, folder: Path) -> FileKek:
    new = not (folder / "names").exists()  # what was sealed before needs the KEK of then
    return FileKek.open_file(folder / "kek.json", passphrase_file(settings), make=new)


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
        if vault is None:
            raise FailedPrecondition("keys are in Vault, and no Vault was opened")
        yield VaultKeyring(vault, KeyMemory(settings.data_dir / "vault-keys.json"), specs)
    else:
        if token is None:
            raise FailedPrecondition("keys are in a token, and no token was opened")
        keyring = _token_keyring(token, specs)
        await keyring.require()
        yield keyring


def _token_keyring(token: SessionPool, specs: Sequence[KeySpec]) -> Pkcs11Keyring:
    from afdp.signer.pkcs11.keyring import Pkcs11Keyring  # see `open_token_if_used`

    return Pkcs11Keyring(token, specs)


def passphrase_file(settings: SignerSettings) -> Path:
    """What the key files are encrypted with."""
    return settings.passphrase_file or settings.data_dir / "passphrase"
