"""`afdp trust export`: the keys that a verifier believes, from the notary into a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from afdp.cli.connection import Refused, open_notary
from afdp.cli.files import write_whole
from afdp.cli.options import Unreadable, json_option, url_option
from afdp.cli.output import reasons, say, say_json
from afdp.errors import InvalidArgument
from afdp.formats.trust import KEYS, LOG_VKEY, TRUSTED_ROOT, TrustRoot, read_trust_files
from afdp.verify.folder import default_trust_folder, load_trust

# A name of a file that stays in the folder whoever sends it.
_FILE_NAME = re.compile(r"(keys/)?[A-Za-z0-9][A-Za-z0-9._:-]{0,200}")
_LAST = (LOG_VKEY, KEYS, TRUSTED_ROOT)  # after the keys that they speak of


@click.command(short_help="Write the notary's trust root into a folder.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="[default: where `verify` looks]")
@click.option("--replace", "replacing", is_flag=True, help="Take it even if it takes back what the old one said.")
@url_option
@json_option
def export(output: Path | None, replacing: bool, url: str, as_json: bool) -> None:
    """Write the notary's trust root into a folder.

    Whoever writes it decides what you will believe: get it over a connection that you trust, and compare what is
    printed with what the notary's operator says. A trust root that is there already is replaced only by one that has
    all of its keys and revocations.
    """
    folder = output or default_trust_folder()
    with open_notary(url) as notary:
        files = {name: text.encode() for name, text in notary.trust_root().items()}
    try:
        root = read_trust_files(files)
    except InvalidArgument as error:
        raise Unreadable(f"the notary's trust root cannot be used: {reasons(error)}") from error
    if not replacing and (taken_back := list(_taken_back(_read_old(folder), root))):
        raise Refused(f"{folder} is kept: the notary's trust root takes back {'; '.join(taken_back)} (see --replace)")
    _write(folder, files)
    _show(folder, root, as_json=as_json)


def _read_old(folder: Path) -> TrustRoot | None:
    if not (folder / TRUSTED_ROOT).exists():
        return None
    try:
        return load_trust(folder)
    except (InvalidArgument, OSError) as error:
        why = reasons(error) if isinstance(error, InvalidArgument) else error.strerror
        raise Unreadable(f"{folder} has a trust root that cannot be read: {why} (see --replace)") from error


def _taken_back(old: TrustRoot | None, new: TrustRoot) -> Iterator[str]:
    """What the old trust root says and the new one does not say any more."""
    if old is None:
        return
    for log in old.logs:
        if log.log_id not in new.log_of_id:
            yield f"the log {log.vkey}"
    for key in old.keys:
        now = new.key_of_hint.get(key.hint)
        if now is None or now[0].key_id != key.key_id:
            yield f"the key {key.key_id}"
        elif key.revoked and not now[0].revoked:
            yield f"the revocation of {key.key_id}"


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise Unreadable(f"the notary's trust root has a file of the name {name!r}, which is not taken")
    for name in sorted(files, key=lambda name: (name in _LAST, name)):
        write_whole(folder / name, files[name])


def _show(folder: Path, root: TrustRoot, *, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "folder": str(folder),
                "keys": [{"key_id": key.key_id, "hint": key.hint} for key in root.keys],
                "logs": [{"origin": log.origin, "vkey": str(log.vkey)} for log in root.logs],
            }
        )
        return
    for key in root.keys:
        say(f"  key          {key.key_id}  {key.hint}{'  revoked' if key.revoked else ''}")
    for log in root.logs:
        say(f"  log          {log.vkey}")
    say(f"  written to   {folder}")
