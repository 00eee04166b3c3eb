"""`afdp trust update`: follows the trust root's TUF repository, and believes nothing that is older or says less."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Root, Targets
from tuf.ngclient import Updater, UpdaterConfig

from afdp.cli.connection import Refused
from afdp.cli.options import Unreachable, Unreadable, json_option, url_option
from afdp.cli.output import reasons, say, say_json
from afdp.cli.trust_folder import STATE, locked, read_folder, write_folder
from afdp.errors import InvalidArgument
from afdp.formats.repository import (
    INDEPENDENT,
    ONLINE_KEYS,
    REVOCATIONS,
    ROOT_FILE,
    KeyRevocation,
    is_online_path,
    read_repository,
    read_revocations,
)
from afdp.formats.trust import KEYS, LOG_VKEY, TrustRoot, trust_files
from afdp.formats.trust_changes import is_as_strict, taken_back, with_revocations
from afdp.trust.metadata import parsed
from afdp.verify.folder import default_trust_folder

_METADATA = ("timestamp", "snapshot", "targets", ONLINE_KEYS)
_SEEN = (
    *(f"{role}.json" for role in _METADATA),
    REVOCATIONS,
)  # in the folder's state, so that nothing older is believed
_MAX_FILES = 20_000


@click.command(short_help="Follow the trust root's repository: verify what is newer, and take it.")
@click.option(
    "--trust",
    "trust",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="AFDP_TRUST",
    metavar="DIR",
    help="The folder to update.  [env: AFDP_TRUST; default: where `verify` looks]",
)
@click.option(
    "--root",
    "root_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Begin with this root.json, which you got over a way that you trust.",
)
@url_option
@json_option
def update(trust: Path | None, root_file: Path | None, url: str, as_json: bool) -> None:
    """Follow the trust root's repository.

    What the notary serves is believed only as far as the root in DIR/root.json leads to it: signed as it must be, not
    expired, nothing older than what was seen here before, and nothing of it taken back. Otherwise the folder stays as
    it is. `afdp trust export` writes the first root.json; so does --root, without believing the connection.
    """
    folder = trust or default_trust_folder()
    with locked(folder), TemporaryDirectory(prefix="afdp-trust-") as name:
        root, state = _pinned(folder, root_file), Path(name)
        _copy_seen(folder / STATE, state)
        with _refusals(folder, url):
            fetched = _fetch(url, root, state, folder)
        found = _accepted(folder, fetched)
        write_folder(folder, found.files)
    _show(folder, found, as_json=as_json)


# --- what is there ----------------------------------------------------------------------------------------------------


def _pinned(folder: Path, root_file: Path | None) -> bytes:
    """The root that is believed."""
    path = folder / ROOT_FILE
    try:
        kept = path.read_bytes() if path.exists() else None
        given = root_file.read_bytes() if root_file is not None else None
    except OSError as error:
        raise Unreadable(f"{error.filename}: {error.strerror}") from error
    if kept is not None and given is not None and kept != given:
        raise Refused(f"{folder} follows another root: begin in an empty folder to follow {root_file}")
    if (root := kept or given) is None:
        raise Unreadable(f"{path} is missing: `afdp trust export -o {folder}` writes it, or name one with --root")
    return root


def _copy_seen(seen: Path, state: Path) -> None:
    for name in _SEEN:
        if (seen / name).is_file():
            shutil.copyfile(seen / name, state / name)


# --- what is published ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What the repository says, verified with the root that was believed.

    Attributes:
        contents: every file of the trust root by its path.
        state: the metadata, to be compared with next time.
    """

    root: bytes
    contents: Mapping[str, bytes]
    state: Mapping[str, bytes]


def _fetch(url: str, root: bytes, state: Path, folder: Path) -> _Fetched:
    updater = Updater(
        str(state),
        f"{url}/trust/",
        target_base_url=f"{url}/trust/targets/",
        config=UpdaterConfig(app_user_agent="afdp"),
        bootstrap=root,
    )
    updater.refresh()
    contents = {path: _target(updater, path, state, folder) for path in (REVOCATIONS, LOG_VKEY, KEYS)}
    if updater.get_targetinfo(INDEPENDENT) is not None:
        contents[INDEPENDENT] = _target(updater, INDEPENDENT, state, folder)
    online = parsed(Targets, ONLINE_KEYS, (state / f"{ONLINE_KEYS}.json").read_bytes()).signed.targets
    if len(online) > _MAX_FILES:
        raise RepositoryError(f"{ONLINE_KEYS} speaks of more than {_MAX_FILES} files")
    for path in filter(is_online_path, online):
        contents[path] = _target(updater, path, state, folder)
    seen = {f"{role}.json": (state / f"{role}.json").read_bytes() for role in _METADATA}
    return _Fetched((state / ROOT_FILE).read_bytes(), contents, seen)


def _target(updater: Updater, path: str, state: Path, folder: Path) -> bytes:
    """One file, from the folder where it is there already."""
    found = updater.get_targetinfo(path)
    if found is None:
        raise RepositoryError(f"{path} is missing")
    known = updater.find_cached_target(found, str(folder / path))
    return Path(known or updater.download_target(found, str(state / "files" / path))).read_bytes()


@contextmanager
def _refusals(folder: Path, url: str) -> Iterator[None]:
    """What python-tuf refuses, in a sentence."""
    kept = f"{folder} is kept: what {url}/trust serves"
    try:
        yield
    except DownloadHTTPError as error:
        if error.status_code == 404:
            raise Refused(f"{url} has no repository of a trust root, or not all of it: {error}") from error
        raise Unreachable(f"{url} cannot serve the trust root: {error}") from error
    except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise Refused(f"{kept} does not belong together: {error}") from error
    except DownloadError as error:
        raise Unreachable(f"{url} cannot be reached: {error}") from error
    except ExpiredMetadataError as error:
        why = "somebody holds newer files back, or nobody has signed them"
        raise Refused(f"{kept} has expired ({error}): {why}") from error
    except BadVersionNumberError as error:
        raise Refused(f"{kept} is older than what was seen here before: {error}") from error
    except UnsignedMetadataError as error:
        raise Refused(f"{kept} is not signed as it must be: {error}") from error
    except (RepositoryError, InvalidArgument) as error:
        raise Refused(f"{kept} cannot be believed: {error}") from error


# --- what is believed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What is written, and what is new of it.

    Attributes:
        files: of the folder, by their path.
        kept: revocations that the notary told once and nobody has signed offline yet.
    """

    files: Mapping[str, bytes]
    root: TrustRoot
    old: TrustRoot | None
    kept: tuple[KeyRevocation, ...]
    root_version: int
    targets_version: int


def _accepted(folder: Path, fetched: _Fetched) -> _Found:
    """What the folder has from now on. Nothing that it says is taken back, whoever signed that."""
    old = read_folder(folder)
    try:
        published = read_repository(fetched.contents)
        signed = read_revocations(fetched.contents[REVOCATIONS])
    except InvalidArgument as error:
        raise Refused(f"{folder} is kept: the notary's trust root cannot be believed: {reasons(error)}") from error
    kept = tuple(_unsigned(folder, old)) if old is not None else ()
    root = with_revocations(published, kept)
    if old is not None and (lost := list(taken_back(old, root, signed))):
        raise Refused(f"{folder} is kept: the notary's trust root takes back {'; '.join(lost)}")
    said = {each.hint: each.revocation for each in signed}
    state = {f"{STATE}/{name}": data for name, data in fetched.state.items()}
    return _Found(
        files={
            **{name: text.encode() for name, text in trust_files(root).items()},
            **state,
            f"{STATE}/{REVOCATIONS}": fetched.contents[REVOCATIONS],
            ROOT_FILE: fetched.root,
        },
        root=root,
        old=old,
        kept=tuple(each for each in kept if not is_as_strict(said.get(each.hint), each.revocation)),
        root_version=parsed(Root, ROOT_FILE, fetched.root).signed.version,
        targets_version=parsed(Targets, "targets", fetched.state["targets.json"]).signed.version,
    )


def _unsigned(folder: Path, old: TrustRoot) -> Iterator[KeyRevocation]:
    """Revocations that the folder has from an export: they stand, although nobody has signed them offline."""
    path = folder / STATE / REVOCATIONS
    try:
        signed = {each.hint: each.revocation for each in read_revocations(path.read_bytes())} if path.exists() else {}
    except (OSError, InvalidArgument) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error
    for key in old.keys:
        if key.revoked is not None and not is_as_strict(signed.get(key.hint), key.revoked):
            yield KeyRevocation(key.key_id, key.hint, key.revoked)


def _show(folder: Path, found: _Found, *, as_json: bool) -> None:
    old = found.old.key_of_hint if found.old is not None else {}
    fresh = [key for key in found.root.keys if key.hint not in old]
    revoked = [
        key
        for key in found.root.keys
        if key.revoked and not (key.hint in old and old[key.hint][0].revoked == key.revoked)
    ]
    if as_json:
        say_json(
            {
                "folder": str(folder),
                "root_version": found.root_version,
                "targets_version": found.targets_version,
                "keys": [{"key_id": key.key_id, "hint": key.hint} for key in found.root.keys],
                "logs": [{"origin": log.origin, "vkey": str(log.vkey)} for log in found.root.logs],
                "new_keys": [key.key_id for key in fresh],
                "new_revocations": [key.key_id for key in revoked],
                "unsigned_revocations": [each.key_id for each in found.kept],
            }
        )
        return
    for key in fresh:
        say(f"  new key      {key.key_id}  {key.hint}")
    for key in revoked:
        say(f"  revoked      {key.key_id}: {key.revoked.reason if key.revoked else ''}", fg="yellow")
    for each in found.kept:
        say(f"  kept         the revocation of {each.key_id}, which was not signed offline yet", fg="yellow")
    say(f"  root         {found.root_version}, targets {found.targets_version}, {len(found.root.keys)} key versions")
    say(f"  written to   {folder}")
