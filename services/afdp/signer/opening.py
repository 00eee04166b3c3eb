"""From settings to the catalogue: which keys there are, what holds each, and each holder opened once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from afdp.errors import FailedPrecondition
from afdp.signer.config import KeyHolder, SignerSettings
from afdp.signer.files import FileKeyring
from afdp.signer.keys import ED25519, P256, P384, KeyCatalogue, Keyring, KeySpec, Purpose, RevocationList
from afdp.signer.vault import VaultAccess, VaultKeyring

_ALGORITHMS = {"P-256": P256, "P-384": P384}
_FILE_NAMES = {
    Purpose.EVIDENCE: "afdp-file-key",
    Purpose.LOG: "afdp-file-log-key",
    Purpose.TIMESTAMP: "afdp-file-timestamp-key",
    Purpose.TRUST: "afdp-file-trust-key",
}


@asynccontextmanager
async def open_catalogue(settings: SignerSettings, revocations: RevocationList) -> AsyncIterator[KeyCatalogue]:
    """Every key that the settings name, ready to sign.

    Raises:
        FailedPrecondition: a key cannot be opened; the message says which and why.
    """
    wanted: dict[KeyHolder, list[KeySpec]] = {}
    for holder, spec in key_specs(settings):
        wanted.setdefault(holder, []).append(spec)
    async with AsyncExitStack() as stack:
        held: dict[KeySpec, Keyring] = {}
        for holder, specs in wanted.items():
            keyring = await stack.enter_async_context(_open_keyring(settings, holder, specs))
            held.update(dict.fromkeys(specs, keyring))
        yield KeyCatalogue(held, revocations)


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


@asynccontextmanager
async def _open_keyring(
    settings: SignerSettings, holder: KeyHolder, specs: Sequence[KeySpec]
) -> AsyncIterator[Keyring]:
    if holder == "files":
        passphrase_file = settings.passphrase_file or settings.data_dir / "passphrase"
        yield FileKeyring.open(settings.data_dir / "keys", passphrase_file, specs)
        return
    vault = VaultKeyring(
        VaultAccess(
            addr=settings.vault_addr,
            token=_token(settings),
            admin_token=_from_file(settings.vault_admin_token_file) if settings.vault_admin_token_file else None,
            namespace=settings.vault_namespace,
            ca_file=settings.vault_ca_file,
            mount=settings.vault_mount,
            timeout=settings.vault_timeout_seconds,
        ),
        specs,
    )
    try:
        yield vault
    finally:
        await vault.close()


def _token(settings: SignerSettings) -> Callable[[], str]:
    if settings.vault_token_file:
        return _from_file(settings.vault_token_file)
    if settings.vault_token is None:
        raise FailedPrecondition("keys=vault needs AFDP_VAULT_TOKEN_FILE or VAULT_TOKEN")
    return settings.vault_token.get_secret_value


def _from_file(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return path.read_text().strip()
        except OSError as error:
            raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from None

    return read
