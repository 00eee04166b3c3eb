"""`python -m afdp.notary audit-verify`: the whole of the audit trail gone through once, as metadata keeps it.

Every row against its seal, every seal against the one before, every seal's own receipt against the keys and the log.
With a state, from where the last run ended that found nothing: the seal there must still be the one that it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from afdp.audit.remembered import Remembered, load_remembered, save_remembered
from afdp.audit.seals import TENANT, seal_evidence, seal_hash
from afdp.audit.verify import Acts, Chain, Fault, Finding, SealedRow, check_filing, check_rows
from afdp.errors import DataLoss, DeadlineExceeded, InvalidArgument, NotaryError, NotFound, Unavailable
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.evidence import canonical_evidence
from afdp.messages import metadata as store
from afdp.notary.anchors import Anchors
from afdp.notary.command_peers import open_peers
from afdp.notary.config import NotarySettings
from afdp.notary.cosignatures import Cosignatures
from afdp.notary.keys import KeyDirectory
from afdp.notary.outside import OutsideStamps
from afdp.notary.receipts import ReceiptOffice
from afdp.notary.told_expiries import ToldExpiries, untold_expiries
from afdp.notary.told_holds import ToldHolds, missing_holds
from afdp.telemetry.logs import configure_logging

_CLEAN, _BROKEN, _UNREADABLE, _UNREACHABLE = 0, 1, 2, 3
_PAGE = 1000
_SEALS = 100
_TIMEOUT = 30.0
_GRACE = timedelta(minutes=5)
"""How old a seal may be that the log does not know yet."""
_SHOWN = 100
_SCOPE = "the records of this deployment"


async def verify_audit(settings: NotarySettings, arguments: Sequence[str]) -> int:
    """Names each broken link, the first one first: 0 all holds, 1 something is broken, 2 unreadable, 3 unreachable."""
    parser = argparse.ArgumentParser(prog="python -m afdp.notary audit-verify")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keeps how far it has come, and goes on from there")
    asked = parser.parse_args(arguments)
    configure_logging("notary", "ERROR")
    try:
        since = load_remembered(asked.state, _SCOPE) if asked.state else None
        async with AsyncExitStack() as stack:
            verdict = await (await _trail(settings, stack)).verify(since)
        if asked.state and not verdict.findings:
            save_remembered(asked.state, verdict.remembered())
    except NotaryError as error:
        print(error, file=sys.stderr)
        return _UNREACHABLE if isinstance(error, Unavailable | DeadlineExceeded) else _UNREADABLE
    _say(verdict, as_json=asked.json)
    return _BROKEN if verdict.findings else _CLEAN


@dataclass
class Verdict:
    """What was found.

    Attributes:
        sealed: which acts have no outcome under a seal, which expiries are announced by one, and told by one; and which
            holds are placed by one, and released by one.
        row: the last sealed row.
        unsealed: rows that no seal covers yet.
    """

    chain: Chain = field(default_factory=Chain)
    acts: Acts = field(default_factory=Acts)
    sealed: tuple[Mapping[str, int], Sequence[str], Sequence[str], Mapping[str, str], Sequence[str]] = (
        {}, (), (), {}, (),
    )  # fmt: skip
    rows: int = 0
    row: int = 0
    unsealed: int = 0
    findings: list[Finding] = field(default_factory=list)
    expiries: ToldExpiries = field(default_factory=ToldExpiries)
    holds: ToldHolds = field(default_factory=ToldHolds)

    def hear(self, row: SealedRow) -> None:
        """The next row."""
        self.acts.hear(row)
        self.expiries.hear(row)
        self.holds.hear(row)

    def remembered(self) -> Remembered:
        """What the next run goes on from."""
        chain = self.chain
        return Remembered(_SCOPE, chain.seals, chain.newest, self.row, chain.anchored, *self.sealed)

    def all_sealed_heard(self) -> None:
        """What comes now is not under a seal yet: the next run hears it again."""
        expiries, holds = self.expiries, self.holds
        told = sorted(expiries.announced), sorted(expiries.told), dict(holds.placed), sorted(holds.released)
        self.sealed = dict(self.acts.unfinished), *told


class WholeTrail:
    """The trail as metadata keeps it."""

    def __init__(self, metadata: store.MetadataServiceClient, office: ReceiptOffice) -> None:
        self._metadata = metadata
        self._office = office

    async def verify(self, since: Remembered | None = None) -> Verdict:
        """Goes through all of it, or what came since."""
        verdict = Verdict()
        newest: store.AuditSeal | None = None
        if since is not None and since.number:
            before = store.ReadAuditSealsRequest(since.number - 1, 1)
            [newest] = (await self._metadata.read_audit_seals(before, timeout=_TIMEOUT)).seals or [store.AuditSeal()]
            if finding := since.check(newest.number, newest.body):
                verdict.findings.append(finding)
                return verdict
            verdict.chain, verdict.acts = since.resume(newest.body)
            verdict.expiries = ToldExpiries(set(since.announced), set(since.told))
            verdict.holds = ToldHolds(dict(since.holds), set(since.released))
            verdict.row = since.row
            verdict.findings += await self._anchor(verdict.chain, newest)
        rows = self._rows(verdict.row)
        waiting = await anext(rows, None)
        async for seal in self._seals(verdict.chain.seals):
            covered: list[SealedRow] = []
            last = max(seal.sequences, default=0)
            while waiting is not None and waiting.sequence <= last:
                covered.append(waiting)
                waiting = await anext(rows, None)
            await self._check(verdict, seal, covered)
            newest = seal
        verdict.all_sealed_heard()
        while waiting is not None:
            verdict.hear(waiting)
            verdict.unsealed += 1
            if finding := check_filing(waiting):
                verdict.findings.append(finding)
            waiting = await anext(rows, None)
        self._check_end(verdict, newest)
        verdict.findings += await untold_expiries(self._metadata, verdict.expiries)
        verdict.findings += await missing_holds(self._metadata, verdict.holds)
        return verdict

    async def _check(self, verdict: Verdict, seal: store.AuditSeal, rows: Sequence[SealedRow]) -> None:
        said, findings = verdict.chain.follow(seal.number, seal.body)
        verdict.findings += findings
        if said is not None:
            verdict.findings += await self._anchor(verdict.chain, seal)
            if any(each.fault == Fault.SEAL_MISSING for each in findings):  # its rows are no fault of theirs
                rows = [row for row in rows if row.sequence >= said.first]
            verdict.findings += check_rows(said, seal.sequences, seal.leaves, rows)
        verdict.rows += len(rows)
        verdict.row = max(seal.sequences, default=verdict.row)
        for row in rows:
            verdict.hear(row)

    async def _anchor(self, chain: Chain, seal: store.AuditSeal) -> list[Finding]:
        subject = f"seal {seal.number}"
        if not seal.anchor_receipt_id:
            request = store.SearchRecordsRequest(TENANT, 1, artifact_hash=seal_hash(seal.body))
            if (await self._metadata.search_records(request, timeout=_TIMEOUT)).records:
                return [Finding(Fault.ANCHOR_MISSING, subject, "it was notarised, and its receipt is not on record")]
            return []
        try:
            # Where it is kept, and no copy of it: what is verified here is what is there.
            asked = store.GetRecordsRequest(TENANT, [seal.anchor_receipt_id])
            records = (await self._metadata.get_records(asked, timeout=_TIMEOUT)).records
            if not records:
                raise NotFound("no record has this receipt ID")
            [record] = records
            draft = record.draft or store.Draft()
            receipt = await self._office.later_receipt(record)
        except (NotFound, InvalidArgument):
            return [Finding(Fault.ANCHOR_MISSING, subject, "there is no record of its receipt")]
        except DataLoss as error:
            return [Finding(Fault.ANCHOR_WRONG, subject, error.message)]
        by = draft.submitter
        if draft.evidence != canonical_evidence(seal_evidence(seal.body)) or by is None or by.method != "service":
            return [Finding(Fault.SEAL_ALTERED, subject, "what was notarised of it is something else")]
        if record.state == store.RecordState.LOGGED and receipt.bundle:
            chain.anchor(seal.number)
        return []

    def _check_end(self, verdict: Verdict, newest: store.AuditSeal | None) -> None:
        if newest is None or verdict.chain.anchored == newest.number or newest.sealed_at is None:
            return
        if datetime.now(UTC) - newest.sealed_at > _GRACE:
            why = f"the log knows seal {verdict.chain.anchored} as the newest one"
            verdict.findings.append(Finding(Fault.ANCHOR_MISSING, f"seal {newest.number}", why))

    async def _seals(self, after: int) -> AsyncIterator[store.AuditSeal]:
        while True:
            request = store.ReadAuditSealsRequest(after, _SEALS)
            found = (await self._metadata.read_audit_seals(request, timeout=_TIMEOUT)).seals
            for seal in found:
                yield seal
            if not found:
                return
            after = found[-1].number

    async def _rows(self, after: int) -> AsyncIterator[SealedRow]:
        while True:
            request = store.ReadAuditTrailRequest(after, _PAGE, filing=True)
            found = (await self._metadata.read_audit_trail(request, timeout=_TIMEOUT)).rows
            for row in found:
                yield SealedRow(row.sequence, row.recorded_at or datetime.now(UTC), row.row, row.misfiled)
            if not found:
                return
            after = found[-1].sequence


async def _trail(settings: NotarySettings, stack: AsyncExitStack) -> WholeTrail:
    """One that speaks to the peers as the service does."""
    peers = await open_peers(settings, stack)
    keys = KeyDirectory(peers.signer, peers.log)
    additions = Anchors(peers.log, keys), Cosignatures(peers.log, keys), OutsideStamps(_NobodyOutside())
    return WholeTrail(peers.records, ReceiptOffice(keys, *additions))


class _NobodyOutside:
    """Stamps of others prove when a seal was made, which nothing here depends on."""

    async def independent(self) -> Sequence[TimestampAuthority]:
        return ()


def _say(verdict: Verdict, *, as_json: bool) -> None:
    chain, unfinished = verdict.chain, verdict.acts.unfinished
    if as_json:
        answer = {
            "verified": not verdict.findings,
            "rows": verdict.rows,
            "unsealed": verdict.unsealed,
            "seals": chain.seals,
            "anchored": chain.anchored,
            "findings": [{"fault": each.fault, "subject": each.subject, "why": each.why} for each in verdict.findings],
            "unfinished": list(unfinished),
        }
        print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
        return
    for at, finding in enumerate(verdict.findings[:_SHOWN]):
        mark = "first broken link" if at == 0 else "broken too"
        print(f"{mark}: {finding.subject}: {finding.fault}: {finding.why}", file=sys.stderr)
    if len(verdict.findings) > _SHOWN:
        print(f"and {len(verdict.findings) - _SHOWN} more", file=sys.stderr)
    for act, sequence in list(unfinished.items())[:_SHOWN]:
        print(f"unfinished: {act}: row {sequence} says that it begins, and no row how it ended")
    seen = f"{verdict.rows} rows under {chain.seals} seals, of which the log knows the first {chain.anchored}"
    print(f"{seen}; {verdict.unsealed} rows are not sealed yet: {len(verdict.findings)} links are broken")
