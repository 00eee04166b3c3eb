"""`afdp trust init`, `sign` and `publish`: the trust root's offline signatures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import httpx

from afdp.ceremony.folder import CeremonyFolder
from afdp.ceremony.keys import OfflineKey
from afdp.ceremony.notary import Notary, what_it_says
from afdp.ceremony.plan import (
    OFFLINE_ROLES,
    ROOT_DAYS,
    TARGETS_DAYS,
    Plan,
    WishedRevocation,
    Wishes,
    first_plan,
    next_plan,
)
from afdp.ceremony.published import caught_up
from afdp.ceremony.signing import Unsigned, first_metadata, next_metadata, signatures_of
from afdp.cli.connection import Refused, open_notary
from afdp.cli.offline_keys import Passphrases, keys_at_hand, maker
from afdp.cli.options import Unreachable, Unreadable, json_option, moment, url_option
from afdp.cli.output import reasons, say, say_json
from afdp.client import NotaryClient
from afdp.client.tls import http_options
from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError
from afdp.formats.repository import ROOT, ROOT_FILE, TARGETS
from afdp.trust.metadata import sha256_hex
from afdp.trust.offline import Offline

_TIMEOUT = 20.0
_LIFETIME_DAYS = click.IntRange(1, 3650)
_KEYS = click.IntRange(1, 32)

F = Callable[..., Any]


def _passphrase_option(command: F) -> F:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="Passphrase of the offline keys; asked for where not given.",
    )(command)


def _publish_option(command: F) -> F:
    return click.option("--no-publish", is_flag=True, help="Sign only; `afdp trust publish` hands it to the notary.")(
        command
    )


# --- init -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Begin a repository: offline keys, and the first metadata that they sign.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--root-keys", type=_KEYS, default=1, show_default=True, help="How many keys root has.")
@click.option("--root-threshold", type=_KEYS, default=1, show_default=True, help="How many of them have to sign.")
@click.option("--targets-keys", type=_KEYS, default=1, show_default=True, help="How many keys targets has.")
@click.option("--targets-threshold", type=_KEYS, default=1, show_default=True, help="How many of them have to sign.")
@click.option("--root-days", type=_LIFETIME_DAYS, default=ROOT_DAYS, show_default=True, help="How long root is valid.")
@click.option(
    "--targets-days", type=_LIFETIME_DAYS, default=TARGETS_DAYS, show_default=True, help="How long targets is valid."
)
@_passphrase_option
@_publish_option
@url_option
@json_option
def init(
    folder: Path,
    root_keys: int,
    root_threshold: int,
    targets_keys: int,
    targets_threshold: int,
    root_days: int,
    targets_days: int,
    passphrase_file: Path | None,
    no_publish: bool,
    url: str,
    as_json: bool,
) -> None:
    """Begin the trust root's repository: make the offline keys, and sign what the notary says now.

    From then on only these keys revoke, and verifiers follow with `afdp trust update`. The keys stand in DIR/keys,
    encrypted: take them to where no network reaches. The rest of DIR is no secret.
    """
    counts = {ROOT: root_keys, TARGETS: targets_keys}
    thresholds = {ROOT: root_threshold, TARGETS: targets_threshold}
    for role in OFFLINE_ROLES:
        if thresholds[role] > counts[role]:
            raise click.UsageError(f"--{role}-threshold is more than --{role}-keys")
    ceremony = CeremonyFolder(folder)
    with _ended():
        ceremony.require_new()
        with open_notary(url) as notary:
            said = _ask(notary)
            if ROOT_FILE in notary.trust_root():
                raise Refused("this notary has a repository already: sign with the folder that began it")
        plan = first_plan(said, root_days, targets_days)
        passphrase = Passphrases(passphrase_file).fresh()
        made: list[OfflineKey] = []
        unsigned = first_metadata(plan, maker(ceremony, passphrase, made), counts, thresholds)
        unsigned.sign(made)
        offline = unsigned.complete()
        ceremony.keep(offline)
        ceremony.keep_notary(said)
    _report(
        _Outcome(folder, offline, plan.changes, made, published=_published(ceremony, offline, url, no_publish)), as_json
    )


# --- sign -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Sign what waits: revocations, logs, keys, a later expiry.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR")
@click.option("--revoke", metavar="KEY_ID", help="Revoke a key version, such as afdp-notary-key:1, or by its hint.")
@click.option("--reason", default="", help="Why it is revoked.")
@click.option("--compromised-since", type=moment, metavar="TIME", help="Since when somebody else may have used it.")
@click.option("--rotate", multiple=True, type=click.Choice(OFFLINE_ROLES), help="Replace the keys of an offline role.")
@click.option("--online-key", is_flag=True, help="Let the signer's trust key, as it is now, sign online.")
@click.option("--root-days", type=_LIFETIME_DAYS, help="Sign root too, valid for so long.")
@click.option(
    "--targets-days", type=_LIFETIME_DAYS, default=TARGETS_DAYS, show_default=True, help="How long targets is valid."
)
@click.option(
    "--key",
    "key_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="A key that is not in DIR/keys; may be given more than once.",
)
@click.option("--offline", is_flag=True, help="Ask no notary: go by what it said last.")
@click.option("--discard", is_flag=True, help="Forget what waits for signatures, and begin anew.")
@click.option("-y", "--yes", is_flag=True, help="Sign without asking.")
@_passphrase_option
@_publish_option
@url_option
@json_option
def sign(
    folder: Path,
    revoke: str | None,
    reason: str,
    compromised_since: datetime | None,
    rotate: tuple[str, ...],
    online_key: bool,
    root_days: int | None,
    targets_days: int,
    key_files: tuple[Path, ...],
    offline: bool,
    discard: bool,
    yes: bool,
    passphrase_file: Path | None,
    no_publish: bool,
    url: str,
    as_json: bool,
) -> None:
    """Sign what the offline roles have to say next: what is asked for here, and what waits at the notary.

    A revocation that the notary has recorded, a new log and a new independent authority wait until they are signed.
    What is signed is shown first. Where it takes more signatures than the keys at hand give, a draft is kept in DIR:
    the next holder of a key runs the same command on it.
    """
    if (reason or compromised_since) and not revoke:
        raise click.UsageError("--reason and --compromised-since belong to --revoke")
    wishes = Wishes(
        (WishedRevocation(revoke, reason, compromised_since),) if revoke else (),
        online_key,
        tuple(dict.fromkeys(rotate)),
        root_days,
        targets_days,
    )
    ceremony = CeremonyFolder(folder)
    with _ended():
        if discard:
            ceremony.discard()
        known = ceremony.offline() if offline else _caught_up(ceremony, url)
        passphrases = Passphrases(passphrase_file)
        made: list[OfflineKey] = []
        unsigned, changes = _draft(ceremony, known, wishes, passphrases, made, yes=yes)
        keys = [*made, *keys_at_hand(ceremony, key_files, unsigned.wanted(), passphrases)]
        unsigned.sign(keys)
        outcome = _finish(ceremony, unsigned, changes, made)
    if outcome.offline is not None:
        outcome.published = _published(ceremony, outcome.offline, url, no_publish or offline)
    _report(outcome, as_json)


def _draft(
    ceremony: CeremonyFolder,
    known: Offline,
    wishes: Wishes,
    passphrases: Passphrases,
    made: list[OfflineKey],
    *,
    yes: bool,
) -> tuple[Unsigned, Sequence[str]]:
    """The draft that waits, or a new one once somebody has agreed to it."""
    if draft := ceremony.draft():
        if wishes != Wishes(targets_days=wishes.targets_days):
            raise FailedPrecondition("a draft waits for signatures: sign it as it is, or forget it with --discard")
        return Unsigned.of_files(known, draft), ["adds signatures to the draft that waits"]
    plan = next_plan(known, ceremony.notary(), wishes)
    _agree(plan, yes=yes)
    make = maker(ceremony, passphrases.fresh() if plan.rotate else b"", made)
    return next_metadata(known, plan, make), plan.changes


def _agree(plan: Plan, *, yes: bool) -> None:
    for change in plan.changes:
        click.echo(f"  · {change}", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise Unreadable("nobody can be asked here: look at what is signed, then say --yes")
    if not click.confirm("Sign this?", err=True):
        raise Refused("nothing was signed")


def _finish(
    ceremony: CeremonyFolder, unsigned: Unsigned, changes: Sequence[str], made: Sequence[OfflineKey]
) -> _Outcome:
    """Keeps what was signed, or the draft that still waits."""
    try:
        signed = unsigned.complete()
    except InvalidArgument as error:
        ceremony.keep_draft(unsigned.files)
        return _Outcome(ceremony.path, None, changes, made, waits=reasons(error), signatures=signatures_of(unsigned))
    ceremony.keep(signed)
    return _Outcome(ceremony.path, signed, changes, made)


# --- publish ----------------------------------------------------------------------------------------------------------


@click.command(short_help="Hand the notary what was signed, and fetch what was signed elsewhere.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR")
@url_option
@json_option
def publish(folder: Path, url: str, as_json: bool) -> None:
    """Hand the notary what was signed without it, and fetch what was signed elsewhere and what the notary says now."""
    ceremony = CeremonyFolder(folder)
    with _ended():
        offline = _caught_up(ceremony, url)
    outcome = _Outcome(folder, offline, (), ())
    outcome.published = _published(ceremony, offline, url, skip=False)
    _report(outcome, as_json)


# --- the notary -------------------------------------------------------------------------------------------------------


def _ask(notary: NotaryClient) -> Notary:
    return what_it_says(notary.list_keys(), notary.pending_trust_root())


def _caught_up(ceremony: CeremonyFolder, url: str) -> Offline:
    """What was signed here and elsewhere; what the notary says is kept beside it."""
    known = ceremony.offline()
    with httpx.Client(base_url=f"{url}/trust/", timeout=_TIMEOUT, **http_options(url)) as client:
        offline = caught_up(known, lambda name: _fetched(client, name))
    ceremony.keep_signed(offline)
    with open_notary(url) as notary:
        ceremony.keep_notary(_ask(notary))
    return offline


def _fetched(client: httpx.Client, name: str) -> bytes | None:
    try:
        answer = client.get(name)
    except httpx.HTTPError as error:
        raise Unreachable(f"the notary at {client.base_url} cannot be reached: {error}") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.status_code != httpx.codes.OK:
        raise Unreachable(f"{answer.url} answered {answer.status_code}")
    return answer.content


def _published(ceremony: CeremonyFolder, offline: Offline, url: str, skip: bool) -> bool:
    if skip:
        return False
    with open_notary(
        url, hint=f"What was signed is in {ceremony.path}: hand it over with `afdp trust publish`"
    ) as notary:
        notary.publish_trust({name: data.decode() for name, data in offline.files.items()})
        _stop_signing(notary, offline)
    return True


def _stop_signing(notary: NotaryClient, offline: Offline) -> None:
    """Has the signer stop where it does not know of a revocation: nobody would believe what it signs."""
    keys = {key.hint: key for key in notary.list_keys()}
    for each in offline.revocations:
        key, said = keys.get(each.hint), each.revocation
        if key is None:
            continue
        known = key.revoked
        if known is None or (said.compromised_since and known.compromised_since != said.compromised_since):
            notary.revoke_key(key.key_id, said.reason, compromised_since=said.compromised_since)
            click.echo(f"  · the signer signs nothing more with {key.key_id}", err=True)


# --- reporting --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Outcome:
    """What came of it; `offline` is None while signatures are missing."""

    folder: Path
    offline: Offline | None
    changes: Sequence[str]
    made: Sequence[OfflineKey]
    waits: str = ""
    signatures: Sequence[str] = ()
    published: bool = False


def _report(outcome: _Outcome, as_json: bool) -> None:
    offline = outcome.offline
    if as_json:
        said: dict[str, object] = {
            "folder": str(outcome.folder),
            "changes": list(outcome.changes),
            "keys": [str(key.path) for key in outcome.made],
            "complete": offline is not None,
            "published": outcome.published,
        }
        if offline is not None:
            versions = {"root_version": offline.root.version, "targets_version": offline.targets.version}
            said |= {**versions, "root_sha256": sha256_hex(offline.root_bytes)}
        say_json(said)
        return
    for key in outcome.made:
        say(f"  key          {key.path}")
    if offline is None:
        say(f"  signed by    {', '.join(outcome.signatures) or 'nobody yet'}")
        say(f"  waits        {outcome.waits}")
        say("DRAFT", fg="yellow", bold=True)
        return
    root, targets = offline.root, offline.targets
    say(f"  root         {root.version}, until {root.expires:%Y-%m-%d}, SHA-256 {sha256_hex(offline.root_bytes)}")
    say(f"  targets      {targets.version}, until {targets.expires:%Y-%m-%d}")
    say(f"  revoked      {len(offline.revocations)}")
    say("PUBLISHED" if outcome.published else "SIGNED", fg="green", bold=True)
    if outcome.made:
        click.echo(f"Take {outcome.folder / 'keys'} to where no network reaches, and keep a copy.", err=True)


@contextmanager
def _ended() -> Iterator[None]:
    """What the library raises, as the end of the command that it deserves."""
    try:
        yield
    except InvalidArgument as error:
        raise Unreadable(reasons(error)) from error
    except FailedPrecondition as error:
        raise Refused(reasons(error)) from error
    except NotaryError as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Unreadable(f"{error.filename or ''}: {error.strerror}") from error
