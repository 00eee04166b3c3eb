"""`afdp search` and `afdp history`: what a notary has on record."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import click

from afdp.cli.connection import open_notary
from afdp.cli.options import json_option, url_option
from afdp.cli.output import say, say_json
from afdp.cli.search_options import artifact_hash, filter_options
from afdp.client import NotaryClient
from afdp.client.calls import Filters
from afdp.client.values import EvidenceSummary
from afdp.formats.timestamps import format_timestamp

_PAGE = 1000


@click.command(short_help="Find evidence.")
@filter_options
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@url_option
@json_option
def search(filters: Filters, limit: int, url: str, as_json: bool) -> None:
    """Find evidence by what is known of it, newest first; all that is given must match.

    Exit: 0 also where nothing is found, 2 the notary cannot be asked so, 3 it cannot be reached.
    """
    with open_notary(url) as notary:
        found = list(islice(_all(notary, filters, min(limit + 1, _PAGE)), limit + 1))
    _show(found[:limit], as_json=as_json, more=len(found) > limit)


@click.command(short_help="Tell all that happened to an artifact.")
@click.argument("artifact", metavar="FILE|SHA256")
@url_option
@json_option
def history(artifact: str, url: str, as_json: bool) -> None:
    """Tell all that happened to an artifact, in order: a file, or the SHA-256 of one.

    Exit: 0 also where nothing is known of it, 3 the notary cannot be reached.
    """
    digest = artifact_hash(artifact)
    with open_notary(url) as notary:
        found = list(_all(notary, Filters(artifact_hash=digest, oldest_first=True), _PAGE))
    if not as_json:
        say(f"sha256 {digest}", bold=True)
    _show(found, as_json=as_json, more=False, artifact=digest)


def _all(notary: NotaryClient, filters: Filters, page_size: int) -> Iterator[EvidenceSummary]:
    token = ""
    while True:
        page = notary.search_evidence(page_size=page_size, page_token=token, **filters)
        yield from page.items
        if not (token := page.next_page_token):
            return


def _show(found: list[EvidenceSummary], *, as_json: bool, more: bool, artifact: str = "") -> None:
    if as_json:
        about = {"artifact_hash": artifact} if artifact else {}
        say_json({**about, "evidence": [_object(each) for each in found], "more": more})
        return
    for each in found:
        place = f"entry {each.log_index}" if each.state != "signed" else "not logged yet"
        time = format_timestamp(each.notarized_at) if each.notarized_at else ""
        if each.erased is None:
            say(f"  {time:<27}  {each.event_type}  by {each.actor_type}:{each.actor_id}  {each.state}, {place}")
            say(f"  {'':<27}  receipt {each.receipt_id}  evidence {each.evidence_package_hash}")
        else:
            say(f"  {time:<27}  {each.event_type}  by a subject that was erased  {each.state}, {place}")
            say(f"  {'':<27}  receipt {each.receipt_id}  certificate {each.erased.certificate or 'not made yet'}")
    count = f"{len(found)} event{'' if len(found) == 1 else 's'}" if artifact else f"{len(found)} found"
    say(f"{count}{', and there are more: --limit' if more else ''}", bold=True)


def _object(found: EvidenceSummary) -> dict[str, object]:
    return {
        "notarized_at": format_timestamp(found.notarized_at) if found.notarized_at else None,
        "event_type": found.event_type,
        "timestamp_utc": format_timestamp(found.timestamp_utc) if found.timestamp_utc else None,
        "actor_type": found.actor_type,
        "actor_id": found.actor_id,
        "receipt_id": found.receipt_id,
        "workflow_id": found.workflow_id,
        "evidence_package_hash": found.evidence_package_hash,
        "state": found.state,
        "key_id": found.key_id,
        "log_origin": found.log_origin,
        "log_index": found.log_index if found.state != "signed" else None,
        "erased": {
            "erased_at": format_timestamp(found.erased.erased_at) if found.erased.erased_at else None,
            "certificate": found.erased.certificate,
        }
        if found.erased is not None
        else None,
    }
