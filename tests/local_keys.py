"""A signer's keys in real files, as every test needs them that signs without a server of keys."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from afdp.signer.config import SignerSettings
from afdp.signer.datakeys import DataKeys
from afdp.signer.files import FileKeyring
from afdp.signer.keys import ED25519, P256, KeyCatalogue, Keyring, KeySpec, Purpose
from afdp.signer.opening import open_data_keys
from afdp.signer.revocations import Revocations
from afdp.signer.version_memory import VersionMemory

EVIDENCE = KeySpec("afdp-file-key", Purpose.EVIDENCE, P256)
LOG = KeySpec("afdp-file-log-key", Purpose.LOG, ED25519)
STAMPS = KeySpec("afdp-file-timestamp-key", Purpose.TIMESTAMP, P256)
TRUST = KeySpec("afdp-file-trust-key", Purpose.TRUST, ED25519)
SPECS = (EVIDENCE, LOG, STAMPS, TRUST)


def file_catalogue(
    folder: Path, *more: KeySpec, keyring: type[FileKeyring] = FileKeyring, specs: tuple[KeySpec, ...] = SPECS
) -> KeyCatalogue:
    """A catalogue of file keys: the usual ones, or others, and `more`."""
    specs = (*specs, *more)
    opened: Keyring = keyring.open(folder / "keys", folder / "passphrase", specs)
    return catalogue(folder, dict.fromkeys(specs, opened))


def catalogue(folder: Path, held: Mapping[KeySpec, Keyring]) -> KeyCatalogue:
    """A catalogue with its list of revocations."""
    return KeyCatalogue(held, Revocations(folder / "revocations.json"), VersionMemory(folder / "key-versions.json"))


@asynccontextmanager
async def file_data_keys(folder: Path) -> AsyncIterator[DataKeys]:
    """Data keys under subjects' keys in files."""
    async with open_data_keys(SignerSettings(data_dir=folder)) as data_keys:
        yield data_keys
