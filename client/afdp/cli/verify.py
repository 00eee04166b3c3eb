"""`afdp verify`: whether a receipt holds, offline, against the trust root and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from afdp.cli.files import hash_files, read_document
from afdp.cli.options import NOT_GOOD, UNREADABLE, Unreadable, json_option
from afdp.cli.output import check_lines, reasons, say, say_json
from afdp.cli.verify_lines import LINES, Given, read_line, verify_exports
from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.evidence import canonical_evidence, evidence_from_json
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.folder import default_trust_folder, load_trust
from afdp.verify.policy import DEFAULT_POLICY, Policy, read_policy
from afdp.verify.receipts import ArtifactDigest
from afdp.verify.result import Result


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one file: a result, or why it could not be read."""

    file: str
    receipt: Receipt | None
    result: Result | None
    error: str = ""

    def to_object(self) -> dict[str, object]:
        """As `--json` prints it."""
        members: dict[str, object] = {"file": self.file, "verified": False}
        if self.receipt and self.result:
            members["receipt_id"] = self.receipt.receipt_id
            members["evidence_package_hash"] = self.receipt.evidence_package_hash
            members |= self.result.to_object()
        else:
            members["error"] = self.error
        return members


@click.command(short_help="Verify receipts, offline.")
@click.argument("receipts", nargs=-1, required=True, metavar="RECEIPT.json…")
@click.option("--artifact", "artifacts", multiple=True, type=click.Path(path_type=Path), help="A file it speaks of.")
@click.option("--evidence", metavar="EV.json", help="The evidence package that it must be of.")
@click.option("--trust", metavar="DIR", envvar="AFDP_TRUST", help="The trust root.  [env: AFDP_TRUST]")
@click.option("--policy", metavar="FILE", help="What to ask for beyond that it holds (YAML or JSON).")
@click.option("--tenant", metavar="TENANT", help="The tenant that the evidence must belong to.")
@json_option
def verify(
    receipts: Sequence[str],
    artifacts: Sequence[Path],
    evidence: str | None,
    trust: str | None,
    policy: str | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """Verify receipts, offline: each check with pass, fail or absent.

    A check that is absent had nothing to check; the policy decides what a receipt must have. A line of `afdp export`
    is read as well, and its evidence counts as given; of a FILE.ndjson every line is verified, and those that do not
    hold are shown. Exit: 0 every receipt verifies, 1 one does not, 2 one cannot be read.
    """
    root = read_trust(trust)
    rules = _read_policy(policy)
    canonical = _read_evidence(evidence)
    hashes = hash_files(list(dict.fromkeys(artifacts)))
    digests = [ArtifactDigest(path.name, digest) for path, digest in hashes.items()]
    given = Given(root, rules, canonical, digests, tenant)
    exports = [file for file in receipts if file.endswith(LINES)]
    if exports:
        if len(exports) < len(receipts):
            raise click.UsageError(f"give files of receipts or exports ({LINES}), not both")
        verify_exports(exports, given, as_json=as_json)
        return
    verdicts = [_verdict(file, given) for file in receipts]
    if as_json:
        say_json(
            {"verified": all(_good(each) for each in verdicts), "results": [each.to_object() for each in verdicts]}
        )
    else:
        for each in verdicts:
            _show(each, headed=len(verdicts) > 1)
    if any(each.result is None for each in verdicts):
        raise click.exceptions.Exit(UNREADABLE)
    if not all(map(_good, verdicts)):
        raise click.exceptions.Exit(NOT_GOOD)


def read_trust(given: str | None) -> TrustRoot:
    """The trust root, from where the verifier says or keeps it; never from a receipt."""
    folder = Path(given) if given else default_trust_folder()
    if not folder.is_dir():
        raise Unreadable(
            f"no trust root: {folder} is not a folder. `afdp trust export -o DIR` writes the notary's; get it once, "
            "over a connection that you trust, and name it with --trust or AFDP_TRUST"
        )
    try:
        return load_trust(folder)
    except InvalidArgument as error:
        raise Unreadable(f"the trust root {folder} cannot be used: {reasons(error)}") from error
    except OSError as error:
        raise Unreadable(f"{error.filename}: {error.strerror}") from error


def _read_policy(path: str | None) -> Policy:
    if path is None:
        return DEFAULT_POLICY
    try:
        return read_policy(read_document(path))
    except InvalidArgument as error:
        raise Unreadable(f"the policy {path} cannot be used: {reasons(error)}") from error


def _read_evidence(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return canonical_evidence(evidence_from_json(strict_json(read_document(path))))
    except InvalidArgument as error:
        raise Unreadable(f"{path} is not an evidence package: {reasons(error)}") from error


def _verdict(file: str, given: Given) -> Verdict:
    try:
        receipt, evidence = read_line(read_document(file))
    except InvalidArgument as error:
        return Verdict(file, None, None, reasons(error))
    except Unreadable as error:
        return Verdict(file, None, None, error.message.removeprefix(f"{file}: "))
    return Verdict(file, receipt, given.verify(receipt, evidence))


def _good(verdict: Verdict) -> bool:
    return verdict.result is not None and verdict.result.verified


def _show(verdict: Verdict, *, headed: bool) -> None:
    if verdict.result is None:
        click.echo(f"Error: {verdict.file} cannot be read: {verdict.error}", err=True)
        return
    if headed:
        say(verdict.file, bold=True)
    for line, colour in check_lines(verdict.result):
        say(line, fg=colour)
    if verdict.result.verified:
        say("VERIFIED", fg="green", bold=True)
    else:
        say("NOT VERIFIED", fg="red", bold=True)
