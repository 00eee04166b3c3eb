"""What evidence a command is to find: options that `search` and `export` have in common, as filters of the client."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from afdp.cli.files import hash_files
from afdp.cli.options import moment
from afdp.client.calls import Filters

F = TypeVar("F", bound=Callable[..., Any])

_HASH = re.compile(r"[0-9a-fA-F]{64}")

_OPTIONS = (
    click.option("--artifact", metavar="FILE|SHA256", help="That speaks of this file, or of one with this hash."),
    click.option("--evidence", "evidence", metavar="SHA256", help="The evidence package's own hash."),
    click.option("--event-type", metavar="TYPE", help="What happened, whole."),
    click.option("--actor", metavar="[TYPE:]ID", help="Who did it, whole, such as human:alice."),
    click.option("--submitter", metavar="SUBJECT", help="Who submitted it, as the token or certificate said."),
    click.option("--key", "key_id", metavar="VERSION", help="NAME:VERSION of the key that signed it."),
    click.option("--log-index", type=click.IntRange(min=0), metavar="N", help="Its place in a log."),
    click.option("--log", "log_origin", metavar="ORIGIN", help="Which log."),
    click.option(
        "--metadata", multiple=True, metavar="PATH=VALUE", help="What its metadata says, in a searchable place."
    ),
    click.option("--since", type=moment, metavar="T", help="Notarised at or after this."),
    click.option("--until", type=moment, metavar="T", help="Notarised before this."),
    click.option("--oldest-first", is_flag=True, help="The other way round."),
)


def filter_options(command: F) -> F:
    """All of them; the command gets them as `filters`."""

    @click.pass_context
    def found(ctx: click.Context, /, **values: Any) -> Any:
        named = {name: values.pop(name) for name in _NAMES}
        return ctx.invoke(command, filters=_filters(**named), **values)

    found.__name__, found.__doc__ = command.__name__, command.__doc__
    found.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]  # click's own list
    for option in reversed(_OPTIONS):
        found = option(found)
    return found  # type: ignore[return-value]  # a function of the same options


_NAMES = (
    "artifact",
    "evidence",
    "event_type",
    "actor",
    "submitter",
    "key_id",
    "log_index",
    "log_origin",
    "metadata",
    "since",
    "until",
    "oldest_first",
)


def artifact_hash(given: str) -> str:
    """The SHA-256 of an artifact that is given as a hash or as a file, in hex."""
    if _HASH.fullmatch(given) and not Path(given).exists():
        return given.lower()
    return hash_files([Path(given)])[Path(given)]


def _filters(
    artifact: str | None,
    evidence: str | None,
    event_type: str | None,
    actor: str | None,
    submitter: str | None,
    key_id: str | None,
    log_index: int | None,
    log_origin: str | None,
    metadata: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    oldest_first: bool,
) -> Filters:
    kind, colon, name = (actor or "").partition(":")
    return Filters(
        artifact_hash=artifact_hash(artifact) if artifact else "",
        evidence_package_hash=evidence or "",
        event_type=event_type or "",
        actor_type=kind if colon else "",
        actor_id=name if colon else kind,
        submitter=submitter or "",
        key_id=key_id or "",
        log_index=log_index,
        log_origin=log_origin or "",
        metadata=dict(_place(each) for each in metadata),
        start_time=since,
        end_time=until,
        oldest_first=oldest_first,
    )


def _place(given: str) -> tuple[str, str]:
    path, equals, value = given.partition("=")
    if not (path and equals):
        raise click.BadParameter("must be PATH=VALUE, such as model.name=credit-risk", param_hint="--metadata")
    return path, value
