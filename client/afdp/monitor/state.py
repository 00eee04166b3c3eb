"""What a monitor or an auditor remembers between two runs, in one file that is there whole or as it was before.

It says only what was verified. Whoever can write it can make the monitor believe another history: keep it as safe as
the machine that it runs on.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.encoding import b64, from_b64
from afdp.formats.merkle import Frontier
from afdp.formats.note import NoteError, VerifierKey
from afdp.verify.fsck import Checked
from afdp.verify.tile_files import Head, signed_head
from afdp.whole_file import write_whole

_MAX_EVIDENCE = 1000
_MAX_BYTES = 4 * 1024 * 1024
_FSCK, _FOLLOW = "afdp-log-fsck/1", "afdp-log-follow/1"


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a log was followed.

    Attributes:
        head: the newest checkpoint, which goes on from all that were seen before.
        read: entries that were read; all of them were looked at, and what was found was handed on.
        matches: how many were found up to now, by what they were found for.
    """

    head: Head
    read: int
    matches: dict[str, int] = field(default_factory=dict)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps a second process from the same state for the length of a block.

    Raises:
        FailedPrecondition: another one has it, or it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FailedPrecondition(f"{path}: another process goes on from this state now") from None
            yield
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error


def vkey_in(path: Path) -> VerifierKey | None:
    """The key of the log that a state is of; None where there is no file yet.

    Raises:
        InvalidArgument: it is damaged.
    """
    content = _read(path)
    try:
        return VerifierKey.parse(content["vkey"]) if content else None
    except (NoteError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path} is not a monitor's state") from error


def load_checked(path: Path, vkey: VerifierKey) -> Checked | None:
    """What `afdp log fsck` kept; None where there is no file yet.

    Raises:
        InvalidArgument: it is of another log, or damaged.
    """
    content = _load(path, _FSCK, vkey)
    if content is None:
        return None
    return Checked(_head(path, content, vkey), _edge(path, content["read"]), content["whole"] is True)


def save_checked(path: Path, vkey: VerifierKey, checked: Checked) -> None:
    """Keeps how far a check has come."""
    content = {"checkpoint": checked.head.note, "read": b64(checked.read.to_bytes()), "whole": checked.whole}
    _save(path, _FSCK, vkey, content)


def load_followed(path: Path, vkey: VerifierKey) -> Followed | None:
    """What `afdp log follow` kept; None where there is no file yet.

    Raises:
        InvalidArgument: it is of another log, or damaged.
    """
    content = _load(path, _FOLLOW, vkey)
    if content is None:
        return None
    return Followed(_head(path, content, vkey), int(content["read"]), dict(content["matches"]))


def save_followed(path: Path, vkey: VerifierKey, followed: Followed) -> None:
    """Keeps how far a log was followed."""
    content = {"checkpoint": followed.head.note, "read": followed.read, "matches": followed.matches}
    _save(path, _FOLLOW, vkey, content)


def save_evidence(state: Path, files: dict[str, bytes]) -> Path:
    """Keeps what contradicts each other in a folder beside the state, once; gives the folder."""
    identity = sha256(b"\x00".join(files[name] for name in sorted(files) if name.endswith(".checkpoint")))
    folder = state.with_name(f"{state.name}.evidence") / identity.hexdigest()[:16]
    if not folder.exists() and folder.parent.exists() and sum(1 for _ in folder.parent.iterdir()) >= _MAX_EVIDENCE:
        return folder.parent  # enough is kept to show what this log is
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if not (folder / name).exists():
            write_whole(folder / name, data)
    return folder


def _load(path: Path, form: str, vkey: VerifierKey) -> dict[str, Any] | None:
    content = _read(path)
    if content is None:
        return None
    if content["format"] != form:
        raise InvalidArgument(f"{path} holds the state {content['format']}, not {form}")
    if content["vkey"] != str(vkey):
        raise InvalidArgument(f"{path} is of {content['vkey']}, not of {vkey}: each log needs a state of its own")
    return content


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error
    try:
        content: dict[str, Any] = orjson.loads(data)
        digest, _ = content.pop("sha256"), content["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{path} is not a monitor's state") from error
    if digest != _digest(content):
        raise InvalidArgument(f"{path} is damaged: its digest is not that of its content")
    return content


def _save(path: Path, form: str, vkey: VerifierKey, content: dict[str, Any]) -> None:
    content = {"format": form, "vkey": str(vkey), **content}
    whole = {**content, "sha256": _digest(content)}
    try:
        write_whole(path, orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error


def _digest(content: dict[str, Any]) -> str:
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _head(path: Path, content: dict[str, Any], vkey: VerifierKey) -> Head:
    try:
        return signed_head(content["checkpoint"], vkey)
    except NoteError as error:
        raise InvalidArgument(f"{path}: the checkpoint in it does not hold: {error}") from error


def _edge(path: Path, text: str) -> Frontier:
    try:
        return Frontier.from_bytes(from_b64(text))
    except ValueError as error:
        raise InvalidArgument(f"{path}: {error}") from error
