"""A witness's folder: made, and told of a log. Knows no server, so that whoever starts one need not have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afdp.embedded.process import write_private
from afdp.errors import FailedPrecondition
from afdp.formats.note import VerifierKey
from afdp.witness.config import CONFIG, KEY, STATE, WitnessConfig, read_config, write_config
from afdp.witness.key import Ed25519Cosigner, make_key, read_key, read_passphrase
from afdp.witness.state import create_state


def make_folder(
    folder: Path, name: str, listen: str, logs: Sequence[VerifierKey], passphrase_file: Path | None
) -> VerifierKey:
    """A new witness; gives its key.

    Raises:
        InvalidArgument: a value cannot be used.
        FailedPrecondition: there is one already, or the passphrase cannot be read.
    """
    text = write_config(name, listen, passphrase_file, logs)
    read_config(text.encode())
    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_key(folder / KEY, passphrase)
    create_state(folder / STATE)
    write_private(folder / CONFIG, text)
    return open_vkey(folder)


def write_logs(folder: Path, name: str, listen: str, vkey: str) -> None:
    """Writes `witness.yaml` anew, for one log; its memory stays."""
    write_private(folder / CONFIG, write_config(name, listen, None, [VerifierKey.parse(vkey)]))


def open_config(folder: Path) -> WitnessConfig:
    """The folder's `witness.yaml`.

    Raises:
        InvalidArgument: names the member that is wrong.
        FailedPrecondition: it cannot be read.
    """
    path = folder / CONFIG
    try:
        return read_config(path.read_bytes())
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from None


def open_cosigner(folder: Path, config: WitnessConfig) -> Ed25519Cosigner:
    """The folder's key, ready to sign.

    Raises:
        FailedPrecondition: it or its passphrase cannot be used.
    """
    passphrase = read_passphrase(config.passphrase_file) if config.passphrase_file else None
    return Ed25519Cosigner(config.name, read_key(folder / KEY, passphrase))


def open_vkey(folder: Path) -> VerifierKey:
    """The folder's public key.

    Raises:
        FailedPrecondition: it or its passphrase cannot be used.
    """
    return open_cosigner(folder, open_config(folder)).vkey
