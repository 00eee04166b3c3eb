"""The signer process: reads its settings, builds its parts, serves until it is told to stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from afdp.errors import FailedPrecondition
from afdp.process import run
from afdp.rpc import serve
from afdp.signer.config import SignerSettings
from afdp.signer.disk import private_folder
from afdp.signer.files import FileKeyring
from afdp.signer.guard import CheckpointGuard
from afdp.signer.revocations import Revocations
from afdp.signer.service import Keyring, Signer
from afdp.signer.servicer import SignerServicer
from afdp.signer.vault import VaultAccess, VaultKeyring
from afdp.telemetry import start_telemetry


async def main(settings: SignerSettings) -> None:
    """Serves until it is told to stop."""
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(start_telemetry("signer", settings))
        folder = private_folder(settings.data_dir)
        keyring = await stack.enter_async_context(_open_keyring(settings))
        guard = CheckpointGuard(folder / "checkpoints", settings.log_origins)
        revocations = Revocations(folder / "revocations.json")
        signer = Signer(keyring, guard, revocations, settings.log_origins)
        await serve(SignerServicer(signer), settings, telemetry, signer.check)


@asynccontextmanager
async def _open_keyring(settings: SignerSettings) -> AsyncIterator[Keyring]:
    if settings.keys == "files":
        passphrase_file = settings.passphrase_file or settings.data_dir / "passphrase"
        yield FileKeyring.open(settings.data_dir / "keys", passphrase_file)
        return
    vault = VaultKeyring(
        VaultAccess(
            addr=settings.vault_addr,
            token=_token(settings),
            admin_token=_from_file(settings.vault_admin_token_file) if settings.vault_admin_token_file else None,
            namespace=settings.vault_namespace,
            ca_file=settings.vault_ca_file,
            mount=settings.vault_mount,
            evidence_key=settings.vault_evidence_key,
            log_key=settings.vault_log_key,
            timeout=settings.vault_timeout_seconds,
        )
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


if __name__ == "__main__":
    run(SignerSettings, main)
