"""`afdp sign`: files or an evidence package in, a receipt out."""

from __future__ import annotations

import getpass
import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from afdp.cli.connection import open_notary
from afdp.cli.files import hash_files, read_document, write_whole
from afdp.cli.options import Unreadable, json_option, url_option
from afdp.cli.output import reasons, say, say_json
from afdp.client import Actor, Artifact, EvidencePackage, Receipt, Signed
from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.evidence import SPEC_VERSION, evidence_from_json
from afdp.formats.receipt import STATES

DEFAULT_EVENT_TYPE = "ai.artifact.notarized"


@click.command(short_help="Notarise files or an evidence package.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE…]")
@click.option("--evidence", metavar="EV.json", help="The evidence package; FILEs are added to its artifacts.")
@click.option("--event-type", metavar="T", help=f"What happened.  [default: {DEFAULT_EVENT_TYPE}]")
@click.option("--actor", metavar="TYPE:ID", help="Who did it.  [default: human:LOGIN]")
@click.option("--metadata", "pairs", multiple=True, metavar="K=V", help="More about it; may be repeated.")
@click.option("--wait-for", type=click.Choice(STATES), help="The state to wait for.  [default: the notary's]")
@click.option("--idempotency-key", metavar="KEY", help="Makes it safe to run the command again.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="RECEIPT.json", help="Where to keep the receipt."
)
@url_option
@json_option
def sign(
    files: Sequence[Path],
    evidence: str | None,
    event_type: str | None,
    actor: str | None,
    pairs: Sequence[str],
    wait_for: str | None,
    idempotency_key: str | None,
    output: Path | None,
    url: str,
    as_json: bool,
) -> None:
    """Notarise files or an evidence package, and get the receipt.

    Files are hashed here; only their names and hashes are sent. Exit: 0 notarised, 1 refused, 2 the input is not right,
    3 the notary cannot be reached.
    """
    if evidence and (event_type or actor or pairs):
        raise click.UsageError(
            "--event-type, --actor and --metadata stand in the evidence package that --evidence names"
        )
    if not files and not evidence:
        raise click.UsageError("name at least one FILE, or an evidence package with --evidence")
    package = (
        _read_evidence(evidence)
        if evidence
        else EvidencePackage(
            SPEC_VERSION,
            datetime.now(UTC),
            event_type or DEFAULT_EVENT_TYPE,
            _actor(actor),
            metadata=_metadata(pairs),
        )
    )
    package = replace(package, artifacts=_with_files(package.artifacts, files))
    key = idempotency_key or uuid.uuid4().hex
    # Without --evidence the same command makes other evidence, of another time, which the key would rightly refuse.
    hint = f"Run it again with --idempotency-key {key} to be sure that it is notarised once"
    with open_notary(url, hint=hint if evidence else "") as notary:
        signed = notary.sign(package, wait_for=wait_for, idempotency_key=key)  # type: ignore[arg-type]  # a Choice
    receipt = signed.receipt
    if receipt is None:
        raise click.ClickException(f"the notary gave no receipt for {signed.workflow_id}")
    if output:
        write_whole(output, receipt.to_json())
    _show(signed, receipt, package, output, as_json=as_json)


def _read_evidence(path: str) -> EvidencePackage:
    try:
        return evidence_from_json(strict_json(read_document(path)))
    except InvalidArgument as error:
        raise Unreadable(f"{path} is not an evidence package: {reasons(error)}") from error


def _actor(given: str | None) -> Actor:
    if given is None:
        try:
            return Actor("human", getpass.getuser())
        except (KeyError, OSError):  # a container's user often has no name
            return Actor("human", str(os.getuid()))
    kind, colon, name = given.partition(":")
    if not (kind and colon and name):
        raise click.BadParameter("must be TYPE:ID, such as human:alice", param_hint="--actor")
    return Actor(kind, name)


def _metadata(pairs: Sequence[str]) -> Mapping[str, object]:
    metadata: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{pair!r} must be K=V", param_hint="--metadata")
        if key in metadata:
            raise click.BadParameter(f"{key!r} stands twice", param_hint="--metadata")
        metadata[key] = value
    return metadata


def _with_files(artifacts: tuple[Artifact, ...], files: Sequence[Path]) -> tuple[Artifact, ...]:
    """The artifacts and the files; one that is named already must be the same."""
    hashes = hash_files(list(dict.fromkeys(files)))
    names = Counter(path.name for path in hashes)
    known = {each.name: each for each in artifacts}
    added: list[Artifact] = []
    for path, digest in hashes.items():
        name = path.name if names[path.name] == 1 else path.as_posix()
        if name not in known:
            added.append(Artifact(name, digest))
        elif known[name].hash_sha256.lower() != digest:
            raise Unreadable(f"{path} has SHA-256 {digest}; the evidence says {known[name].hash_sha256}")
    return (*artifacts, *added)


def _show(signed: Signed, receipt: Receipt, package: EvidencePackage, output: Path | None, *, as_json: bool) -> None:
    if as_json:
        say_json({"workflow_id": signed.workflow_id, "status": signed.status, "receipt": receipt.to_object()})
        return
    say(f"  evidence     {package.event_type}  sha256 {receipt.evidence_package_hash}")
    for each in package.artifacts:
        say(f"  artifact     {each.name}  sha256 {each.hash_sha256}")
    say(f"  signature    key {receipt.key_id}")
    if receipt.bundle.entry:
        say(f"  log          entry {receipt.log_index} of {receipt.bundle.entry.tree_size}, {receipt.rekor_server_url}")
    say(f"  receipt      {receipt.receipt_id}{f', kept in {output}' if output else ''}")
    say(receipt.state.upper(), fg="green", bold=True)
    if output is None:
        click.echo("The receipt is what proves it: keep it with -o RECEIPT.json.", err=True)
