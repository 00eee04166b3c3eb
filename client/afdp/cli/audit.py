"""`afdp audit`: what is on record of calls, and whether it is as it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import click
import orjson

from afdp.audit.remembered import Remembered, load_remembered, save_remembered
from afdp.audit.seals import TENANT, Seal, seal_evidence, seal_hash
from afdp.audit.verify import Acts, Chain, Fault, Finding, SealedRow, check_proof
from afdp.cli.config import run_service
from afdp.cli.connection import open_notary
from afdp.cli.files import Report, progress, whole_file
from afdp.cli.log_options import ending
from afdp.cli.options import NOT_GOOD, Unreadable, json_option, moment, url_option
from afdp.cli.output import printable, reasons, say, say_json
from afdp.cli.verify import read_trust
from afdp.client import NotaryClient
from afdp.errors import DataLoss, InvalidArgument
from afdp.formats.evidence import canonical_evidence
from afdp.formats.members import Members
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.monitor.state import locked
from afdp.verify.receipts import verify_receipt

_SEALS, _ROWS, _HEAD = "seals.ndjson", "rows.ndjson", "export.json"
_VERSION = 1
_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 20

_T = TypeVar("_T")


@click.command("list", short_help="List what is on record of your tenant's calls.")
@click.option("--since", type=moment, metavar="T", help="Recorded at or after this.")
@click.option("--until", type=moment, metavar="T", help="Recorded before this.")
@click.option("--actor", default="", metavar="SUBJECT", help="Who acted, by the subject of the credential.")
@click.option("--about", "resource", default="", metavar="KIND:NAME", help="Such as receipt:ID or key:NAME:VERSION.")
@click.option("--result", type=click.Choice(["allow", "deny", "error"]), default=None)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@url_option
@json_option
def list_events(
    since: datetime | None,
    until: datetime | None,
    actor: str,
    resource: str,
    result: str | None,
    limit: int,
    url: str,
    as_json: bool,
) -> None:
    """List what is on record of your tenant's calls, newest first.

    With --json each event is a line of OCSF JSON. An act that was begun and has no outcome on record says so.
    """
    token, left = "", limit
    with open_notary(url) as notary:
        while left:
            page = notary.audit_events(
                start=since,
                end=until,
                actor=actor,
                resource=resource,
                result=result or "",
                page_size=min(left, _PAGE),
                page_token=token,
            )
            for event in page.items:
                click.echo(event if as_json else _line(orjson.loads(event)))
            left, token = left - len(page.items), page.next_page_token
            if not token:
                break


def _line(event: dict[str, object]) -> str:
    told = Members(event)
    time = _EPOCH + timedelta(milliseconds=told.integer("time"))
    user = event.get("actor", event)
    who = user.get("user", {}).get("uid", "-") if isinstance(user, dict) else "-"
    more = event.get("unmapped")
    open_end = " (no outcome is on record)" if isinstance(more, dict) and more.get("unfinished") else ""
    return printable(f"  {time:%Y-%m-%dT%H:%M:%S.%f}Z  {who:<24}  {told.string('message')}{open_end}")


# --- export -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Write rows and seals into a folder, to be verified offline.")
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--all-tenants", is_flag=True, help="The rows of all tenants; for operators of the deployment.")
@url_option
@json_option
def export(output: Path, all_tenants: bool, url: str, as_json: bool) -> None:
    """Write your tenant's rows of the audit trail, and the seals over all of it, into a folder.

    Each row has the proof that its seal covers it, each seal the receipt by which the log knows it. `afdp audit verify
    DIR` needs nothing else but the trust root. Exit: 0 written, 1 refused, 3 the notary cannot be reached.
    """
    with open_notary(url) as notary, progress("rows", in_bytes=False) as report:
        seals, rows = _fetch(notary, output, all_tenants, report)
    if as_json:
        say_json({"folder": str(output), "seals": seals, "rows": rows})
        return
    say(f"  {rows:,} rows under {seals:,} seals, written to {output}")
    say("EXPORTED", fg="green", bold=True)


def _fetch(
    notary: NotaryClient, folder: Path, all_tenants: bool, report: Report, since: Remembered | None = None
) -> tuple[int, int]:
    """Writes an export; gives its last seal and how many rows it has. Rows first: what they need is sealed by then.

    `since` leaves out what was verified before, but for its last seal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = newest = 0  # seals after the newest that has rows show that the log knows it
    with whole_file(folder / _ROWS) as out:
        after = since.row if since else 0
        while page := notary.audit_rows(after=after, page_size=_PAGE, all_tenants=all_tenants):
            for each in page:
                line = {
                    "sequence": each.sequence,
                    "recorded_at": each.recorded_at,
                    "row": each.row,
                    "seal": each.seal,
                    "leaf_index": each.leaf_index,
                    "proof": each.proof.hex(),
                }
                out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            after, rows = page[-1].sequence, rows + len(page)
            newest = page[-1].seal
            report(rows, None)
    seals = max(0, since.number - 1) if since else 0
    with whole_file(folder / _SEALS) as out:
        while found := notary.audit_seals(after=seals, page_size=100):
            for seal in found:
                anchor = orjson.loads(seal.anchor.to_json()) if seal.anchor is not None else None
                line = {"number": seal.number, "body": seal.body, "anchor": anchor}
                out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            seals = found[-1].number
            if seals >= newest and found[-1].anchor is not None:
                break
    through = newest or (since.number if since else 0)
    head = {"version": _VERSION, "all_tenants": all_tenants, "rows": rows, "through": through, "seals": seals}
    with whole_file(folder / _HEAD) as out:
        out.write(orjson.dumps(head, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return seals, rows


# --- verify -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Show that nothing of the audit trail was changed, or name what was.")
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False))
@click.option("--trust", metavar="DIR", envvar="AFDP_TRUST", help="The trust root.  [env: AFDP_TRUST]")
@click.option("--all-tenants", is_flag=True, help="Without DIR: the rows of all tenants; for operators.")
@click.option("--records", is_flag=True, help="By the notary's settings on this machine: every row, seal and anchor.")
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keeps how far it has come, and goes on from there: what was verified before must still be what it was.",
)
@url_option
@json_option
def verify(
    folder: Path | None,
    trust: str | None,
    all_tenants: bool,
    records: bool,
    state: Path | None,
    url: str,
    as_json: bool,
) -> None:
    """Show that nothing of the audit trail was changed, or name the first link that is broken, and all others.

    DIR is what `afdp audit export` wrote: it is verified offline, against the trust root and nothing else. Without it
    the trail is fetched from the notary first, and verified in the same way. That proves that each row is what was
    written; that none is missing is proven where all rows are: with --records, which asks the services themselves, and
    with an export of all tenants.

    With --state only what is new is fetched; a DIR is verified whole. A state moves on only where all holds, and a
    trail that was rewritten before it is refused. Old rows that were changed under their seals are found by a run
    without it.

    Exit: 0 all of it holds, 1 something is broken, 2 it cannot be read, 3 a service is not reachable.
    """
    with ending(), ExitStack() as stack:
        if state:
            stack.enter_context(locked(state))
        if records:
            arguments = ["--json"] if as_json else []
            arguments += ["--state", str(state)] if state else []
            raise click.exceptions.Exit(run_service("notary", "audit-verify", *arguments))
        root = read_trust(trust)
        whole = folder is not None
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="afdp-audit-")))
            scope = f"{'the rows of all tenants' if all_tenants else 'the rows of one tenant'} of {url}"
            since = load_remembered(state, scope) if state else None
            with open_notary(url) as notary, progress("rows", in_bytes=False) as report:
                _fetch(notary, folder, all_tenants, report, since)
        else:
            scope = "an export"
            since = load_remembered(state, scope) if state else None
        verdict = _verified(folder, root, since, whole=whole)
        if state and verdict.reached is not None and not verdict.findings:
            save_remembered(state, verdict.remembered(scope, *verdict.reached))
    if as_json:
        say_json(verdict.to_object())
    else:
        _show(verdict)
    if verdict.findings:
        raise click.exceptions.Exit(NOT_GOOD)


@dataclass
class _Verdict:
    """What came of an export.

    Attributes:
        row: its last one.
        reached: the seal up to which it has rows, and its hash.
    """

    chain: Chain = field(default_factory=Chain)
    acts: Acts = field(default_factory=Acts)
    rows: int = 0
    row: int = 0
    reached: tuple[int, bytes] | None = None
    findings: list[Finding] = field(default_factory=list)

    def remembered(self, scope: str, number: int, seal: bytes) -> Remembered:
        """What the next run goes on from."""
        return Remembered(scope, number, seal, self.row, min(number, self.chain.anchored), self.acts.unfinished)

    def to_object(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "verified": not self.findings,
            "rows": self.rows,
            "seals": self.chain.seals,
            "anchored": self.chain.anchored,
            "findings": [
                {"fault": each.fault.value, "subject": each.subject, "why": each.why} for each in self.findings
            ],
            "unfinished": list(self.acts.unfinished),
        }


def _verified(folder: Path, root: TrustRoot, since: Remembered | None, *, whole: bool) -> _Verdict:
    """An export that is `whole`, or what came since."""
    try:
        head = orjson.loads((folder / _HEAD).read_bytes())
        if head["version"] != _VERSION:
            raise Unreadable(f"{folder}: an export of version {head['version']}, which this release does not read")
        verdict = _Verdict()
        rows = _lines(folder / _ROWS, _read_row)
        waiting = next(rows, None)
        complete = bool(head["all_tenants"])
        known = since is None or not since.number
        for number, body, anchor in _lines(folder / _SEALS, _read_seal):
            if since is not None and not known and (number == since.number or not whole):
                known = True
                if finding := since.check(number, body):
                    verdict.findings.append(finding)
                    if not whole:
                        return verdict
                elif not whole:
                    verdict.chain, verdict.acts = since.resume(body)
                    verdict.row = since.row
                    verdict.reached = number, seal_hash(body)
                    if anchor is not None:
                        _check_anchor(verdict, number, body, anchor, root)
                    continue
            seal, findings = verdict.chain.follow(number, body)
            verdict.findings += findings
            if anchor is not None:
                _check_anchor(verdict, number, body, anchor, root)
            covered = 0
            while waiting is not None and waiting[0] <= number:
                _check_row(verdict, seal if waiting[0] == number else None, *waiting[1:])
                covered += 1
                waiting = next(rows, None)
            if number == head["through"]:
                verdict.reached = number, seal_hash(body)
            if complete and seal is not None and number <= head["through"] and covered != seal.rows:
                why = f"it covers {seal.rows} rows, and {covered} are there"
                verdict.findings.append(Finding(Fault.ROW_MISSING, f"seal {number}", why))
        if since is not None and not known:
            verdict.findings.append(Finding(Fault.REWRITTEN, f"seal {since.number}", "it is not there"))
        if waiting is not None:
            verdict.findings.append(Finding(Fault.SEAL_MISSING, f"seal {waiting[0]}", "rows name it"))
        _check_end(verdict, head["rows"] + (1 if waiting is not None else 0), head["seals"], waiting is not None)
        return verdict
    except OSError as error:
        raise Unreadable(f"{error.filename}: {error.strerror}") from error
    except (InvalidArgument, ValueError, KeyError, TypeError) as error:
        why = reasons(error) if isinstance(error, InvalidArgument) else "it is not as exports are"
        raise Unreadable(f"{folder} cannot be read: {why}") from error


def _check_end(verdict: _Verdict, rows: int, seals: int, cut: bool) -> None:
    if not cut and (verdict.rows, verdict.chain.seals) != (rows, seals):
        why = f"the export says {rows} rows and {seals} seals, and has {verdict.rows} and {verdict.chain.seals}"
        verdict.findings.append(Finding(Fault.ROW_MISSING, "the export", why))
    if verdict.chain.seals and not verdict.chain.anchored:
        verdict.findings.append(Finding(Fault.ANCHOR_MISSING, "seal 1", "the log knows none of the seals"))


def _check_row(verdict: _Verdict, seal: Seal | None, row: SealedRow, leaf_index: int, proof: bytes) -> None:
    verdict.rows += 1
    verdict.row = max(verdict.row, row.sequence)
    verdict.acts.hear(row)
    if seal is None:
        verdict.findings.append(
            Finding(Fault.ROW_ALTERED, f"row {row.sequence}", "the seal that it names is not there")
        )
    elif finding := check_proof(seal, row, leaf_index, proof):
        verdict.findings.append(finding)


def _check_anchor(verdict: _Verdict, number: int, body: bytes, anchor: Receipt, root: TrustRoot) -> None:
    try:
        evidence = canonical_evidence(seal_evidence(body))
    except DataLoss:
        return  # the chain has named this seal already
    result = verify_receipt(anchor, root, evidence=evidence, tenant=TENANT)
    logged = anchor.bundle.entry is not None
    # One that is signed and not in the log yet is no fault: a later one stands for it.
    failures = [check for check in result.failures() if logged or check.name != "log"]
    if result.verified and logged:
        verdict.chain.anchor(number)
    elif failures or logged:
        said = "; ".join(f"{check.name}: {check.detail}" for check in failures) or "it proves nothing"
        altered = any(check.name == "evidence" for check in failures)
        fault = Fault.SEAL_ALTERED if altered else Fault.ANCHOR_WRONG
        verdict.findings.append(Finding(fault, f"seal {number}", f"its receipt does not hold for it: {said}"))


def _show(verdict: _Verdict) -> None:
    chain = verdict.chain
    for at, finding in enumerate(verdict.findings[:_SHOWN]):
        mark = "first broken link" if at == 0 else "broken too"
        say(f"  {mark}: {finding.subject}: {finding.fault.value}: {printable(finding.why)}", fg="red")
    if len(verdict.findings) > _SHOWN:
        say(f"  and {len(verdict.findings) - _SHOWN} more")
    say(f"  rows         {verdict.rows:,}, each against its seal")
    say(f"  seals        {chain.seals:,}, each against the one before")
    say(f"  anchors      the log knows seal {chain.anchored:,} and, by it, all before")
    if chain.anchored < chain.seals:
        say(f"               {chain.seals - chain.anchored:,} newer ones are not in the log yet")
    if unfinished := verdict.acts.unfinished:
        say(f"  unfinished   {len(unfinished):,} acts were begun, and no outcome is on record")
        for act, sequence in list(unfinished.items())[:_SHOWN]:
            say(f"               {printable(act)}, row {sequence}")
    verified = not verdict.findings
    say("VERIFIED" if verified else "NOT VERIFIED", fg="green" if verified else "red", bold=True)


# --- files ------------------------------------------------------------------------------------------------------------


def _lines(path: Path, read: Callable[[Members], _T]) -> Iterator[_T]:
    with path.open("rb") as file:
        for line in file:
            yield read(Members(orjson.loads(line)))


def _read_row(line: Members) -> tuple[int, SealedRow, int, bytes]:
    time = _EPOCH + timedelta(microseconds=line.integer("recorded_at"))
    row = SealedRow(line.integer("sequence"), time, line.string("row").encode())
    return line.integer("seal"), row, line.integer("leaf_index"), bytes.fromhex(line.string("proof", empty=True))


def _read_seal(line: Members) -> tuple[int, bytes, Receipt | None]:
    anchor = Receipt.from_object(line.take("anchor")) if line.has("anchor") else None
    return line.integer("number"), line.string("body").encode(), anchor
