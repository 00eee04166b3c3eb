"""Verification of a receipt, offline, against a trust root. The checks and their order are part of the promise.

    result = verify_receipt(receipt, trust, artifacts=[ArtifactDigest("model.bin", digest)])
    if not result.verified:
        print(result.failures())

Every check runs that can run: one that fails does not hide the others. A check that could not run is ABSENT and says
why, and a receipt whose envelope, signature, key or evidence was not checked is not verified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from afdp.errors import InvalidArgument
from afdp.formats.anchor import Anchor
from afdp.formats.bundle import Bundle, LogEntry
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE
from afdp.formats.hashedrekord import SignatureAlgorithm
from afdp.formats.merkle import leaf_hash
from afdp.formats.receipt import Receipt
from afdp.formats.statement import Statement, Subject, parse_statement
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import EvidenceKey, EvidencePublicKey, Log, TrustRoot
from afdp.verify.anchors import check_anchor
from afdp.verify.log import check_body, check_checkpoint, check_envelope_body, check_inclusion, cosignatures
from afdp.verify.policy import DEFAULT_POLICY, Policy
from afdp.verify.result import Check, NotVerifiedError, Result, Status
from afdp.verify.timestamps import Stamp, UncountedError, UnknownAuthorityError, verify_stamp
from afdp.verify.validity import Testimony, require_valid

NEWER_KEYS = "get the notary's newest keys with `afdp trust export`; a key that is not there either is not the notary's"


@dataclass(frozen=True, slots=True)
class ArtifactDigest:
    """An artifact as the verifier has it: its name and the SHA-256 of its bytes, in lower-case hex."""

    name: str
    sha256: str


def verify_receipt(
    receipt: Receipt,
    trust: TrustRoot,
    policy: Policy = DEFAULT_POLICY,
    *,
    evidence: bytes | None = None,
    artifacts: Sequence[ArtifactDigest] = (),
    tenant: str | None = None,
    now: datetime | None = None,
) -> Result:
    """Checks all that a receipt says.

    Args:
        receipt: as it was read; nothing in it is believed.
        trust: the only keys that are believed.
        policy: what is asked for beyond that.
        evidence: the canonical evidence package as the verifier has it (`formats.evidence.canonical_evidence`).
        artifacts: the artifacts as the verifier has them.
        tenant: the tenant that the evidence must belong to.
        now: the time of verification; by default the clock's.
    """
    run = _Verification(receipt, trust, policy, evidence, tenant, now or datetime.now(UTC))
    checks = [
        _check("envelope", run.envelope),
        _check("signature", run.signature),
        _check("time", run.time),
        _check("key", run.key_holds),
        _check("evidence", run.evidence_matches),
        *(_check("artifact", partial(run.artifact, each)) for each in artifacts or (None,)),
        _check("approvals", run.approvals),
    ]
    for bundle in (receipt.bundle, *receipt.more_bundles):
        checks.append(_check("log", partial(run.logged, bundle)))
        checks.append(_check("checkpoint", partial(run.checkpoint, bundle)))
    checks.append(_check("witnesses", run.witnesses))
    checks.append(_check("anchors", run.anchors))
    return Result(tuple(checks))


class _NotRunError(Exception):
    """A check cannot run: there is nothing to check, or nothing to check it with."""


def _check(name: str, run: Callable[[], str]) -> Check:
    try:
        return Check(name, Status.PASSED, run())
    except _NotRunError as absent:
        return Check(name, Status.ABSENT, str(absent))
    except NotVerifiedError as failed:
        return Check(name, Status.FAILED, failed.reason, failed.advice)
    except InvalidArgument as refused:
        reason = "; ".join(f"{each.field} {each.message}" for each in refused.fields) or refused.message
        return Check(name, Status.FAILED, reason)


@dataclass(slots=True)
class _Verification:
    """The checks of one receipt, each a method: it returns what was found, or raises."""

    receipt: Receipt
    trust: TrustRoot
    policy: Policy
    evidence: bytes | None
    tenant: str | None
    now: datetime
    statement: Statement | None = None
    key: EvidenceKey | None = None
    signed: bool = False
    stamps: tuple[Stamp, ...] = ()
    time_known: bool = False  # or known to be absent
    by_name: dict[str, Subject] = field(default_factory=dict)
    by_hash: dict[str, Subject] = field(default_factory=dict)

    # --- the envelope and who signed it

    def envelope(self) -> str:
        envelope = self.receipt.bundle.envelope
        if envelope.payload_type != IN_TOTO_PAYLOAD_TYPE:
            raise NotVerifiedError(f"the payload type is {envelope.payload_type}, not {IN_TOTO_PAYLOAD_TYPE}")
        if len(envelope.signatures) != 1:
            raise NotVerifiedError(f"the envelope has {len(envelope.signatures)} signatures, not one")
        self.statement = parse_statement(envelope.payload)
        return "DSSE, in-toto statement v1"

    def signature(self) -> str:
        receipt, bundle = self.receipt, self.receipt.bundle
        known = self.trust.key_of_hint.get(bundle.hint)
        if known is None:
            raise NotVerifiedError(f"no key of the trust root has the hint {bundle.hint}", NEWER_KEYS)
        self.key, public_key = known
        signature = bundle.envelope.signatures[0].sig
        if not _verifies(public_key, self.key.algorithm, signature, bundle.envelope.pae):
            raise NotVerifiedError(f"it was not made by key {self.key.key_id} over this statement")
        if receipt.signature != signature:
            raise NotVerifiedError("the receipt's signature_b64 is not the signature in its bundle")
        if receipt.public_key != self.key.spki:
            raise NotVerifiedError(f"the receipt's public_key_b64 is not key {self.key.key_id}")
        if receipt.key_id != self.key.key_id:
            raise NotVerifiedError(f"the receipt's key_id is {receipt.key_id}; the key is {self.key.key_id}")
        self.signed = True
        return f"{_ALGORITHM_NAMES[self.key.algorithm]}, key {self.key.key_id}"

    def time(self) -> str:
        receipt, bundle = self.receipt, self.receipt.bundle
        if not bundle.timestamps:
            raise self._no_timestamp()
        found = [self._stamp(each) for each in bundle.timestamps]
        entry = bundle.entry
        if entry is not None and entry.is_rekor1:
            if receipt.integrated_time != entry.integrated_time:
                raise NotVerifiedError("the receipt's integrated_time is not that of its log entry")
        elif receipt.integrated_time != int(found[0].time.timestamp()):
            raise NotVerifiedError("the receipt's integrated_time is not the second of its timestamp")
        self.stamps = tuple(each for each in found if isinstance(each, Stamp))
        uncounted = [each for each in found if isinstance(each, UncountedError)]
        unknown = [each for each in found if isinstance(each, UnknownAuthorityError)]
        if not self.stamps:
            raise self._uncounted(uncounted[0]) if uncounted else unknown[0]
        self.time_known = True
        others = ["one more by an authority that the trust root does not know"] * len(unknown)
        return "; ".join([*map(_stamped, self.stamps), *others])

    def _stamp(self, response: bytes) -> Stamp | UncountedError | UnknownAuthorityError:
        """A stamp that does not hold fails; one that says nothing to this trust root may stand beside one that does."""
        signature = self.receipt.bundle.envelope.signatures[0].sig
        try:
            return verify_stamp(response, signature, self.trust.timestamp_authorities)
        except (UncountedError, UnknownAuthorityError) as uncounted:
            return uncounted

    def _uncounted(self, uncounted: UncountedError) -> Exception:
        """What a timestamp leads to whose authority was revoked: somebody else's word may stand in its place."""
        words = self._testimonies()
        if not words or self.policy.require_timestamp:
            return uncounted
        self.time_known = True
        first = min(words, key=lambda each: each.latest)
        return _NotRunError(f"{uncounted.reason}; {first.by} saw it at {format_timestamp(first.latest)} at the latest")

    def _no_timestamp(self) -> Exception:
        if self.policy.require_timestamp:
            return NotVerifiedError("the policy asks for a trusted timestamp, and there is none")
        if self.statement is None:
            return _NotRunError("no trusted timestamp")
        notarized_at = self.statement.notarized_at
        entry = self.receipt.bundle.entry
        own = entry.integrated_time if entry is not None and entry.is_rekor1 else int(notarized_at.timestamp())
        if self.receipt.integrated_time != own:
            return NotVerifiedError("the receipt's integrated_time is not the statement's notarized_at")
        self.time_known = True
        return _NotRunError(f"no trusted timestamp; the notary says {format_timestamp(notarized_at)}")

    def key_holds(self) -> str:
        key = self._known_key()
        if not self.time_known:
            raise _NotRunError("not checked: the time does not hold")
        revocation = require_valid(key, self.stamps[0] if self.stamps else None, self._testimonies, self.now)
        tenant = self._tenant(key)
        return f"valid since {key.valid_from.date().isoformat()}, {revocation}, tenant {tenant}"

    def _testimonies(self) -> list[Testimony]:
        """What witnesses and authorities outside of the notary say, where it holds; what does not fails elsewhere."""
        stamps = [each for each in self.stamps if self.trust.is_independent(each.authority)]
        found = [Testimony.of(each) for each in stamps]
        try:
            self.logged(self.receipt.bundle)
            self.checkpoint(self.receipt.bundle)
        except (_NotRunError, NotVerifiedError, InvalidArgument):
            return found
        with suppress(NotVerifiedError):
            found += self._cosigned()
        for anchor in self.receipt.anchors:
            with suppress(NotVerifiedError):
                found.append(Testimony.of(self._anchored(anchor)))
        return found

    def _tenant(self, key: EvidenceKey) -> str:
        if self.statement is None:
            raise _NotRunError("there is no statement that names a tenant")
        tenant = self.statement.tenant
        for asked in filter(None, (self.tenant, self.policy.tenant)):
            if tenant != asked:
                raise NotVerifiedError(f"the evidence belongs to tenant {tenant}, not to {asked}")
        if not key.signs_for(tenant):
            raise NotVerifiedError(f"{key.key_id} does not sign for tenant {tenant}")
        return tenant

    # --- what was signed

    def evidence_matches(self) -> str:
        statement = self._read_statement()
        statement.check_subjects()
        if self.receipt.evidence_package_hash != statement.evidence_hash:
            raise NotVerifiedError("the receipt's evidence_package_hash is not that of the evidence in the statement")
        if not statement.workflow_id.endswith(f"-{self.receipt.receipt_id}"):
            raise NotVerifiedError(f"the statement is of {statement.workflow_id}, not of {self.receipt.receipt_id}")
        if self.evidence is not None and sha256(self.evidence).hexdigest() != statement.evidence_hash:
            raise NotVerifiedError("the evidence that was given is not what was notarised")
        event_type, submitter = str(statement.evidence.get("event_type")), statement.submitter.subject
        if self.policy.event_types and event_type not in self.policy.event_types:
            raise NotVerifiedError(f"the policy does not allow the event type {event_type}")
        if self.policy.submitters and submitter not in self.policy.submitters:
            raise NotVerifiedError(f"the policy does not allow what {submitter} submits")
        return f"{event_type}, submitted by {submitter}" if self.signed else event_type

    def artifact(self, given: ArtifactDigest | None) -> str:
        if not self.by_name:
            artifacts = self._read_statement().artifacts()
            self.by_name = {each.name: each for each in artifacts}
            self.by_hash = {each.sha256: each for each in artifacts}
        if given is None:
            raise _NotRunError(f"none given; the evidence names {len(self.by_name) or 'none'}")
        named = self.by_name.get(given.name)
        if named is not None and named.sha256 != given.sha256:
            raise NotVerifiedError(
                f"{given.name} has changed: its SHA-256 is {given.sha256}, the evidence says {named.sha256}"
            )
        found = named or self.by_hash.get(given.sha256)
        if found is None:
            raise NotVerifiedError(f"{given.name} (SHA-256 {given.sha256}) is not an artifact of this evidence")
        alias = "" if found.name == given.name else f" ({found.name} in the evidence)"
        return f"{given.name}{alias}  sha256 {given.sha256[:4]}…{given.sha256[-4:]}"

    def approvals(self) -> str:
        count = len(self._read_statement().approvals)
        if count:
            raise NotVerifiedError(
                f"the statement has {count} approvals, and this version cannot verify them", "use a newer `afdp`"
            )
        raise _NotRunError("none asked for")

    # --- the log

    def logged(self, bundle: Bundle) -> str:
        receipt, first = self.receipt, bundle is self.receipt.bundle
        if first and (receipt.state == "signed") is not (bundle.entry is None):
            raise NotVerifiedError(f"the receipt says {receipt.state}, and its bundle does not agree")
        if bundle.entry is None and first and self.policy.require_log:
            raise NotVerifiedError(
                "it is not in a log yet", f"ask again later: GET /api/v1/receipts/{receipt.receipt_id}"
            )
        entry, log = self._entry_and_log(bundle)
        if bundle.envelope != receipt.bundle.envelope:
            raise NotVerifiedError("a further bundle has another envelope")
        key, envelope = self._known_key(), bundle.envelope
        signature = envelope.signatures[0].sig
        if entry.is_rekor1:
            check_envelope_body(entry.body, envelope.payload, signature, key.spki)
        else:
            check_body(entry.body, envelope.pae, signature, key.spki, key.algorithm)
        check_inclusion(entry)
        if first and receipt.rekor_log_id != leaf_hash(entry.body).hex():
            raise NotVerifiedError("the receipt's rekor_log_id is not the hash of the log entry")
        if first and receipt.log_index != entry.log_index:
            raise NotVerifiedError(f"the receipt's log_index is {receipt.log_index}, its bundle's {entry.log_index}")
        return f"entry {_grouped(entry.place)} of {_grouped(entry.tree_size)}, {log.origin}"

    def checkpoint(self, bundle: Bundle) -> str:
        entry, log = self._entry_and_log(bundle)
        check_checkpoint(entry, self.trust.vkey_of_log[entry.log_id])
        return f"signed by {log.origin}"

    def witnesses(self) -> str:
        policy, entry = self.policy, self.receipt.bundle.entry
        if not policy.witnesses:
            raise _NotRunError("none asked for")
        if entry is None or entry.log_id not in self.trust.log_of_id:
            if policy.require_witnesses:
                raise NotVerifiedError(f"the policy asks for {policy.require_witnesses}, and there is no checkpoint")
            raise _NotRunError("there is no checkpoint to cosign")
        names = [each.by for each in self._cosigned()]
        if len(names) < policy.require_witnesses:
            raise NotVerifiedError(f"the policy asks for {policy.require_witnesses} witnesses, and {len(names)} signed")
        if not names:
            raise _NotRunError("none of the policy's witnesses has cosigned, and it asks for none")
        return f"cosigned by {', '.join(names)}"

    def anchors(self) -> str:
        if self.policy.require_independent_time and not self._testimonies():
            raise NotVerifiedError(
                "the policy asks for a time that somebody outside of the notary states, and there is none",
                "get the receipt anew from the notary: checkpoints are stamped now and then, and it has the stamp then",
            )
        if not self.receipt.anchors:
            raise _NotRunError("none")
        found = []
        for anchor in self.receipt.anchors:
            with suppress(UnknownAuthorityError):
                found.append(f"{_stamped(self._anchored(anchor))}, in a tree of {_grouped(anchor.tree_size)}")
        if not found:
            raise _NotRunError("no authority outside of the notary that the trust root knows has stamped them")
        return "; ".join(found)

    # --- what the checks need

    def _known_key(self) -> EvidenceKey:
        if self.key is None:
            raise _NotRunError("not checked: the key is not known")
        return self.key

    def _anchored(self, anchor: Anchor) -> Stamp:
        entry, _ = self._entry_and_log(self.receipt.bundle)
        vkey = self.trust.vkey_of_log[entry.log_id]
        return check_anchor(anchor, leaf_hash(entry.body), entry.log_index, vkey, self.trust.independent_authorities)

    def _cosigned(self) -> list[Testimony]:
        """The policy's witnesses that have cosigned the checkpoint."""
        entry, _ = self._entry_and_log(self.receipt.bundle)
        vkey = self.trust.vkey_of_log[entry.log_id]
        signatures = cosignatures(entry.checkpoint, vkey, self.policy.witnesses)
        return [Testimony.at(each.key.name, each.time or 0) for each in signatures]

    def _read_statement(self) -> Statement:
        if self.statement is None:
            raise _NotRunError("not checked: there is no statement that can be read")
        return self.statement

    def _entry_and_log(self, bundle: Bundle) -> tuple[LogEntry, Log]:
        if bundle.entry is None:
            raise _NotRunError("it is not in a log")
        log = self.trust.log_of_id.get(bundle.entry.log_id)
        if log is None and bundle is not self.receipt.bundle:
            raise _NotRunError("a further bundle is of a log that the trust root does not know")
        if log is None:
            raise NotVerifiedError("the log entry is of a log that the trust root does not know", NEWER_KEYS)
        return bundle.entry, log


_ALGORITHM_NAMES = {
    SignatureAlgorithm.ECDSA_P256_SHA256: "ECDSA P-256",
    SignatureAlgorithm.ECDSA_P384_SHA384: "ECDSA P-384",
}
_HASHES = {
    SignatureAlgorithm.ECDSA_P256_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithm.ECDSA_P384_SHA384: ec.ECDSA(hashes.SHA384()),
}


def _verifies(key: EvidencePublicKey, algorithm: SignatureAlgorithm, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, _HASHES[algorithm])
    except InvalidSignature:
        return False
    return True


def _stamped(stamp: Stamp) -> str:
    """When and by whom, to the second: finer than its accuracy is not known."""
    accuracy = "" if stamp.accuracy is None else f", ±{stamp.accuracy.total_seconds():g} s"
    return f"{format_timestamp(stamp.time.replace(microsecond=0))} by {stamp.authority.name}{accuracy}"


def _grouped(number: int) -> str:
    """Digits in groups of three, with a narrow no-break space between them."""
    return f"{number:,}".replace(",", "\u202f")
