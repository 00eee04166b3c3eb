"""Offline keys from the command line: passphrases, and which key files are at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from afdp.ceremony.folder import CeremonyFolder
from afdp.ceremony.keys import OfflineKey, is_named_after, make_key, open_key
from afdp.cli.options import Unreadable
from afdp.errors import FailedPrecondition


class Passphrases:
    """Passphrases of key files: from a file, or asked for; one that opened a key is tried on the next."""

    def __init__(self, file: Path | None) -> None:
        self._known: list[bytes] = [_from_file(file)] if file is not None else []
        self._asks = file is None

    def fresh(self) -> bytes:
        """The passphrase of new keys."""
        if not self._asks:
            return self._known[0]
        _require_terminal()
        text: str = click.prompt("Passphrase of the new keys", hide_input=True, confirmation_prompt=True, err=True)
        self._known.append(text.encode())
        return self._known[-1]

    def open(self, path: Path) -> OfflineKey:
        """A key from its file."""
        for passphrase in self._known:
            try:
                return open_key(path, passphrase)
            except FailedPrecondition:
                if not self._asks:
                    raise
        _require_terminal()
        text: str = click.prompt(f"Passphrase of {path}", hide_input=True, err=True)
        key = open_key(path, text.encode())
        self._known.append(text.encode())
        return key


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise Unreadable("nobody can be asked for a passphrase here: name a file with --passphrase-file")


def _from_file(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise Unreadable(f"{path} may be read or changed by others: chmod 600 it")
        passphrase = path.read_bytes().strip()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    if not passphrase:
        raise Unreadable(f"{path} is empty: it must hold the passphrase of the offline keys")
    return passphrase


def maker(ceremony: CeremonyFolder, passphrase: bytes, made: list[OfflineKey]) -> Callable[[str], OfflineKey]:
    """Makes keys in the ceremony's folder, and remembers them."""

    def make(role: str) -> OfflineKey:
        made.append(make_key(ceremony.keys, role, passphrase))
        return made[-1]

    return make


def keys_at_hand(
    ceremony: CeremonyFolder, named: Sequence[Path], wanted: set[str], passphrases: Passphrases
) -> Iterator[OfflineKey]:
    """Of the keys that are wanted those whose files are in the folder, and those that were named."""
    for path in sorted(ceremony.keys.glob("*.pem")):
        if any(is_named_after(path, key_id) for key_id in wanted):
            yield passphrases.open(path)
    for path in named:
        key = passphrases.open(path)
        if key.key_id not in wanted:
            raise FailedPrecondition(f"{path} is not one of the keys whose signature is missing")
        yield key
