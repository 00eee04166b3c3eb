"""Lines of an export, verified offline one after the other, however many there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import orjson

from afdp.cli.files import progress
from afdp.cli.options import NOT_GOOD, UNREADABLE, Unreadable
from afdp.cli.output import check_lines, reasons, say
from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.evidence import canonical_evidence, evidence_from_json
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.policy import Policy
from afdp.verify.receipts import ArtifactDigest, verify_receipt
from afdp.verify.result import Result


class WasErased(InvalidArgument):
    """A line of an export that stands in the place of a record whose subject was erased."""


LINES = ".ndjson"
_LONGEST_LINE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Given:
    """What receipts are held against."""

    trust: TrustRoot
    policy: Policy
    evidence: bytes | None
    artifacts: Sequence[ArtifactDigest]
    tenant: str | None

    def verify(self, receipt: Receipt, evidence: bytes | None) -> Result:
        """A receipt, and the evidence that it came with, canonical: what was given by itself goes before that."""
        held = evidence if self.evidence is None else self.evidence
        return verify_receipt(
            receipt, self.trust, self.policy, evidence=held, artifacts=self.artifacts, tenant=self.tenant
        )


def read_line(data: bytes) -> tuple[Receipt, bytes | None]:
    """A receipt as JSON, or one with its evidence: a line of an export; the evidence in its canonical form.

    Raises:
        InvalidArgument: names what is missing or of another form.
        WasErased: it says that the record was erased.
    """
    value = strict_json(data, integers_as_doubles=True)
    if not (isinstance(value, dict) and "evidence_package" in value and "receipt" in value):
        return Receipt.from_json(data), None
    if value["receipt"] is None and value.get("erased"):
        raise WasErased.field("receipt", "is not there: the record was erased")
    if value["receipt"] is None:
        raise InvalidArgument.field("receipt", f"is not there: {_why(value)}")
    package = value["evidence_package"]
    evidence = None
    if package is not None:
        evidence = canonical_evidence(evidence_from_json(package, prefix="evidence_package."))
    return Receipt.from_object(value["receipt"], path="receipt"), evidence


def verify_exports(files: Sequence[str], given: Given, *, as_json: bool) -> None:
    """Verifies every line of the files and ends the process where one does not hold.

    What does not verify is shown; with `as_json` each line gives a line.
    """
    good = bad = unread = erased = 0
    for file in files:
        with progress("records", in_bytes=False) as report:
            for number, line in enumerate(_lines(file), 1):
                place = f"{file}:{number}"
                try:
                    receipt, evidence = read_line(line)
                except WasErased as error:
                    erased += 1
                    _tell_erased(place, reasons(error), as_json=as_json)
                    continue
                except InvalidArgument as error:
                    unread += 1
                    _tell_unread(place, reasons(error), as_json=as_json)
                    continue
                result = given.verify(receipt, evidence)
                good, bad = good + result.verified, bad + (not result.verified)
                _tell(place, receipt, result, as_json=as_json)
                report(number, None)
    if not as_json:
        said = f"{good:,} verified" + (f", {bad:,} NOT verified" if bad else "")
        said += f", {erased:,} erased" if erased else ""
        said += f", {unread:,} not readable" if unread else ""
        say(said, fg="red" if bad or unread else "green", bold=True)
    if unread or bad:
        raise click.exceptions.Exit(UNREADABLE if unread else NOT_GOOD)


def _lines(file: str) -> Iterator[bytes]:
    try:
        with Path(file).open("rb") as lines:
            while line := lines.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:
                    raise Unreadable(f"{file}: has a line that is longer than {_LONGEST_LINE} bytes")
                yield line
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror}") from error


def _tell(place: str, receipt: Receipt, result: Result, *, as_json: bool) -> None:
    if as_json:
        _print({"line": place, "receipt_id": receipt.receipt_id, **result.to_object()})
    elif not result.verified:
        say(f"{place} receipt {receipt.receipt_id}", bold=True)
        for line, colour in check_lines(result):
            say(line, fg=colour)


def _tell_unread(place: str, error: str, *, as_json: bool) -> None:
    if as_json:
        _print({"line": place, "verified": False, "error": error})
    else:
        click.echo(f"Error: {place} cannot be read: {error}", err=True)


def _tell_erased(place: str, reason: str, *, as_json: bool) -> None:
    if as_json:
        _print({"line": place, "verified": False, "erased": True, "error": reason})
    else:
        say(f"{place}: {reason}")


def _print(value: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _why(line: dict[str, object]) -> str:
    error = line.get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else "no reason is given"
