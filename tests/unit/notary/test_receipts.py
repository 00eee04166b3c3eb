"""What leaves the notary, and what does not: records of a notary in memory, made into receipts by the real office."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import REGISTRY

from afdp.errors import DataLoss, NotFound, Unavailable, Unimplemented
from afdp.formats.anchor import Anchor
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.bundle import Bundle, LogEntry
from afdp.formats.canonical import strict_json
from afdp.formats.hashedrekord import SignatureAlgorithm, entry_body
from afdp.formats.note import Note, SignatureType, VerifierKey
from afdp.formats.receipt import Receipt
from afdp.formats.trust import Revocation, read_trust_files, trust_files
from afdp.messages import signer as keyring
from afdp.messages import transparency as log
from afdp.messages.metadata import Draft, LogPosition, Record, RecordState
from afdp.messages.metadata import Principal as Submitter
from afdp.messages.notary import NotarizationReceipt, ReceiptState
from afdp.notary.anchors import Anchors
from afdp.notary.cosignatures import Cosignatures
from afdp.notary.keys import KeyDirectory
from afdp.notary.outside import OutsideStamps
from afdp.notary.receipts import ReceiptOffice
from afdp.verify.policy import Policy
from afdp.verify.receipts import verify_receipt
from afdp.verify.result import Status
from tests.local_authority import OPENED, LocalAuthority
from tests.local_log import LocalLog
from tests.local_notary import NOTARIZED_AT, STAMPED_AT, LocalNotary
from tests.local_witness import cosigned

THEIRS = LocalAuthority("https://tsa.example/tsr")
OWN_URI = "https://notary.localhost/api/v1/timestamp"


class Peers:
    """Signer and log, as the notary asks them."""

    def __init__(self, notary: LocalNotary, *external: LocalAuthority) -> None:
        self.notary = notary
        self.own: LocalAuthority | None = notary.authority
        self.external = list(external)
        self.anchor: Anchor | Exception = NotFound("no checkpoint over this leaf is stamped yet")
        self.asked_for_anchors = 0
        self.witnesses: list[VerifierKey] = []
        self.cosigned: LogEntry | Exception = NotFound("no checkpoint over this leaf is cosigned yet")
        self.asked_for_cosignatures = 0
        self.asked_for_authorities = 0
        self.others: list[log.ExternalLog] = []
        self.unsigned = False  # whether the offline roles have yet to sign the external authorities

    async def get_public_keys(self, _: object, *, timeout: float) -> keyring.GetPublicKeysResponse:
        key, founded = self.notary.evidence_key, self.notary.log.log.valid_from
        return keyring.GetPublicKeysResponse(
            [
                keyring.PublicKey(
                    key_id=key.key_id,
                    purpose=keyring.KeyPurpose.EVIDENCE,
                    algorithm=key.algorithm,
                    spki=key.spki,
                    valid_from=key.valid_from,
                    tenants=list(key.tenants),
                    current=True,
                ),
                keyring.PublicKey(key_id="log:1", purpose=keyring.KeyPurpose.LOG, valid_from=founded),
            ]
        )

    async def get_timestamp_authorities(self, _: object, *, timeout: float) -> keyring.GetTimestampAuthoritiesResponse:
        self.asked_for_authorities += 1
        own = [("", self.own)] if self.own else []
        known = [*own, *((each.uri, each) for each in self.external)]
        return keyring.GetTimestampAuthoritiesResponse(
            [keyring.TimestampAuthority(url, list(each.certificates), OPENED) for url, each in known]
        )

    async def list_logs(self, _: object, *, timeout: float) -> log.ListLogsResponse:
        known = self.notary.log.log
        return log.ListLogsResponse(
            [
                log.Log(
                    origin=known.origin,
                    base_url="http://127.0.0.1:8053",
                    spki=known.spki,
                    witnesses=[str(each) for each in self.witnesses],
                    witness_quorum=min(1, len(self.witnesses)),
                    state=log.LogState.OPEN,
                )
            ]
        )

    async def list_external_logs(self, _: object, *, timeout: float) -> log.ListExternalLogsResponse:
        return log.ListExternalLogsResponse(self.others)

    async def get_cosigned_checkpoint(
        self, request: log.GetCosignedCheckpointRequest, *, timeout: float
    ) -> log.GetCosignedCheckpointResponse:
        self.asked_for_cosignatures += 1
        if isinstance(self.cosigned, Exception):
            raise self.cosigned
        place = log.Inclusion(self.cosigned.log_index, b"", b"".join(self.cosigned.hashes))
        checkpoint = log.Checkpoint(note=self.cosigned.checkpoint, size=self.cosigned.tree_size)
        return log.GetCosignedCheckpointResponse(checkpoint, place)

    async def get_stamped_checkpoint(
        self, request: log.GetStampedCheckpointRequest, *, timeout: float
    ) -> log.GetStampedCheckpointResponse:
        self.asked_for_anchors += 1
        if isinstance(self.anchor, Exception):
            raise self.anchor
        place = log.Inclusion(leaf_index=self.anchor.log_index, proof=b"".join(self.anchor.hashes))
        checkpoint = log.Checkpoint(note=self.anchor.checkpoint, size=self.anchor.tree_size)
        return log.GetStampedCheckpointResponse(checkpoint, place, self.anchor.timestamp)


@pytest.fixture
def notary() -> LocalNotary:
    return LocalNotary()


@pytest.fixture
def peers(notary: LocalNotary) -> Peers:
    return Peers(notary)


class HandedOut:
    """What verifiers are told: all that the peers say, or less."""

    def __init__(self, keys: KeyDirectory, peers: Peers) -> None:
        self._keys = keys
        self._peers = peers

    async def independent(self) -> tuple[TimestampAuthority, ...]:
        return () if self._peers.unsigned else (await self._keys.trust_root()).independent_authorities


def office_of(peers: Peers) -> tuple[ReceiptOffice, KeyDirectory]:
    keys = KeyDirectory(peers, peers)
    return ReceiptOffice(
        keys, Anchors(peers, keys), Cosignatures(peers, keys), OutsideStamps(HandedOut(keys, peers))
    ), keys


def record_of(receipt: Receipt, notary: LocalNotary) -> Record:
    """The record that the store has of a receipt."""
    bundle, entry = receipt.bundle, receipt.bundle.entry
    draft = Draft(
        receipt_id=receipt.receipt_id,
        submitter=Submitter(notary.tenant, "https://issuer.example", "ci@acme", "oidc"),
        evidence_hash=bytes.fromhex(receipt.evidence_package_hash),
        statement=bundle.envelope.payload,
        signature=receipt.signature,
        key_id=receipt.key_id,
        leaf_hash=bytes.fromhex(receipt.rekor_log_id),
        notarized_at=NOTARIZED_AT,
        timestamp=bundle.timestamps[0] if bundle.timestamps else b"",
    )
    if entry is None:
        return Record(draft, RecordState.PENDING)
    proof = b"".join(entry.hashes)
    position = LogPosition(notary.log.log.origin, entry.log_index, entry.tree_size, proof, entry.checkpoint)
    return Record(draft, RecordState.LOGGED, position)


def read(message: NotarizationReceipt) -> Receipt:
    states = {
        ReceiptState.SIGNED: "signed",
        ReceiptState.LOGGED: "logged",
        ReceiptState.WITNESSED: "witnessed",
    }
    state = states[message.state]
    anchors = tuple(Anchor.from_object(strict_json(each)) for each in message.anchors)
    names = ("evidence_package_hash", "rekor_log_id", "rekor_server_url", "signature_b64", "public_key_b64")
    plain = {name: getattr(message, name) for name in (*names, "integrated_time", "log_index", "receipt_id", "key_id")}
    more = tuple(map(Bundle.from_json, message.more_bundles))
    return Receipt(**plain, state=state, bundle=Bundle.from_json(message.bundle), more_bundles=more, anchors=anchors)


def with_timestamp(record: Record, timestamp: bytes) -> Record:
    assert record.draft is not None
    return replace(record, draft=replace(record.draft, timestamp=timestamp))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_receipt_is_the_one_that_was_made_and_verifies(fresh: bool, notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise()
    office, keys = office_of(peers)

    receipt = read(await office.receipt(record_of(made, notary), fresh=fresh))

    assert receipt == made
    result = verify_receipt(receipt, await keys.trust_root(), tenant="acme")
    assert result.verified
    assert result.status("time") is Status.PASSED
    assert receipt.integrated_time == int(STAMPED_AT.timestamp())


async def test_a_receipt_of_a_p384_key_verifies(peers: Peers) -> None:
    peers.notary = notary = LocalNotary(curve=ec.SECP384R1())
    peers.own = notary.authority
    office, keys = office_of(peers)
    made = notary.notarise()

    receipt = read(await office.receipt(record_of(made, notary)))

    assert receipt == made
    assert verify_receipt(receipt, await keys.trust_root(), tenant="acme").verified


async def test_a_record_without_a_timestamp_states_when_the_notary_says_it_was(
    notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise(stamped_at=None)
    office, keys = office_of(peers)

    receipt = read(await office.receipt(record_of(made, notary)))

    assert receipt == made
    assert receipt.integrated_time == int(NOTARIZED_AT.timestamp())
    assert verify_receipt(receipt, await keys.trust_root()).status("time") is Status.ABSENT


async def test_what_is_only_signed_is_stamped_already(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise(logged=False)
    office, _ = office_of(peers)

    assert read(await office.receipt(record_of(made, notary), fresh=True)) == made


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_timestamp_over_another_signature_is_withheld(fresh: bool, notary: LocalNotary, peers: Peers) -> None:
    record, other = record_of(notary.notarise(), notary), notary.notarise()
    office, _ = office_of(peers)

    with pytest.raises(DataLoss, match="over other data"):
        await office.receipt(with_timestamp(record, other.bundle.timestamps[0]), fresh=fresh)


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_timestamp_of_an_authority_that_verifiers_do_not_know_is_withheld(
    fresh: bool, notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise()
    stranger = LocalAuthority().stamp(made.signature, STAMPED_AT)
    office, _ = office_of(peers)

    with pytest.raises(DataLoss, match="does not know"):
        await office.receipt(with_timestamp(record_of(made, notary), stranger), fresh=fresh)


async def test_a_bit_that_was_flipped_in_a_stored_timestamp_is_noticed(notary: LocalNotary, peers: Peers) -> None:
    record = record_of(notary.notarise(), notary)
    assert record.draft is not None
    office, _ = office_of(peers)

    with pytest.raises(DataLoss, match="the timestamp's signature does not hold"):
        await office.receipt(with_timestamp(record, flipped(record.draft.timestamp)))


async def test_an_authority_that_is_new_is_asked_for_once(notary: LocalNotary, peers: Peers) -> None:
    office, _ = office_of(peers)
    await office.receipt(record_of(notary.notarise(), notary))
    peers.external.append(THEIRS)
    asked = peers.asked_for_authorities

    for _ in range(3):
        made = notary.notarise()
        stamp = THEIRS.stamp(made.signature, STAMPED_AT)
        await office.receipt(with_timestamp(record_of(made, notary), stamp), fresh=True)

    assert peers.asked_for_authorities == asked + 1


async def test_the_trust_root_names_the_authorities_and_whose_they_are(peers: Peers) -> None:
    peers.external.append(THEIRS)
    _, keys = office_of(peers)

    trust = await keys.trust_root()

    assert [each.uri for each in trust.timestamp_authorities] == [OWN_URI, THEIRS.uri]
    assert [each.uri for each in trust.independent_authorities] == [THEIRS.uri]


async def test_an_authority_that_no_verifier_could_read_is_left_out(peers: Peers) -> None:
    broken = LocalAuthority("https://broken.example/tsr")
    broken.certificate = broken.issuer.certificate
    peers.external += [broken, THEIRS]
    _, keys = office_of(peers)

    assert [each.uri for each in (await keys.trust_root()).timestamp_authorities] == [OWN_URI, THEIRS.uri]


async def test_a_signer_that_does_not_know_of_authorities_has_none(notary: LocalNotary, peers: Peers) -> None:
    async def unknown(_: object, *, timeout: float) -> keyring.GetTimestampAuthoritiesResponse:
        raise Unimplemented("signer does not know this call")

    peers.get_timestamp_authorities = unknown  # type: ignore[method-assign]
    office, keys = office_of(peers)

    assert (await keys.trust_root()).timestamp_authorities == ()
    made = notary.notarise(stamped_at=None)
    assert read(await office.receipt(record_of(made, notary))) == made


# --- stamps from outside

LATER = STAMPED_AT + timedelta(seconds=7)


def stamped_outside(notary: LocalNotary, made: Receipt, by: LocalAuthority = THEIRS) -> Record:
    return replace(record_of(made, notary), external_timestamp=by.stamp(made.signature, LATER))


async def test_a_receipt_that_is_read_later_has_the_stamp_from_outside_after_the_notarys_own(
    notary: LocalNotary, peers: Peers
) -> None:
    peers.external.append(THEIRS)
    made = notary.notarise()
    record = stamped_outside(notary, made)
    office, keys = office_of(peers)

    receipt = read(await office.later_receipt(record))

    assert receipt.bundle.timestamps == (*made.bundle.timestamps, record.external_timestamp)
    assert receipt.integrated_time == int(STAMPED_AT.timestamp())
    assert read(await office.receipt(record)) == made
    result = verify_receipt(receipt, await keys.trust_root(), Policy(require_independent_time=True))
    assert result.verified, result.failures()


async def test_where_the_notary_stamps_nothing_itself_the_stamp_from_outside_states_the_time(
    notary: LocalNotary, peers: Peers
) -> None:
    peers.external.append(THEIRS)
    made = notary.notarise(stamped_at=None)
    office, keys = office_of(peers)

    receipt = read(await office.later_receipt(stamped_outside(notary, made)))

    assert receipt.integrated_time == int(LATER.timestamp())
    assert verify_receipt(receipt, await keys.trust_root()).status("time") is Status.PASSED


async def test_a_stamp_that_verifiers_could_not_verify_yet_stays_out_of_the_bundle(
    notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise()
    office, _ = office_of(peers)
    assert read(await office.later_receipt(stamped_outside(notary, made))) == made

    peers.external, peers.unsigned = [THEIRS], True
    office, _ = office_of(peers)
    assert read(await office.later_receipt(stamped_outside(notary, made))) == made


async def test_a_stamp_from_outside_that_does_not_hold_is_left_out_and_counted(
    notary: LocalNotary, peers: Peers
) -> None:
    peers.external.append(THEIRS)
    made = notary.notarise()
    record = stamped_outside(notary, made)
    office, _ = office_of(peers)
    before = REGISTRY.get_sample_value("afdp_notary_external_stamp_failures_total") or 0

    for stamp in (flipped(record.external_timestamp), b"nonsense", THEIRS.stamp(b"other data", LATER)):
        assert read(await office.later_receipt(replace(record, external_timestamp=stamp))) == made

    assert REGISTRY.get_sample_value("afdp_notary_external_stamp_failures_total") == before + 3


# --- cosignatures

WITNESS = Ed25519PrivateKey.generate()
WITNESS_KEY = VerifierKey("w.example", WITNESS.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
COSIGNED_AT = STAMPED_AT + timedelta(seconds=1)


def cosigned_later(notary: LocalNotary, receipt: Receipt, key: Ed25519PrivateKey = WITNESS) -> LogEntry:
    """The receipt's entry in a larger tree, which the witness has cosigned."""
    notary.log.append([sha256(b"later").digest()])
    entry = notary.log.proven(receipt.log_index)
    signature = cosigned(Note.parse(entry.checkpoint), "w.example", key, int(COSIGNED_AT.timestamp()))
    signature = replace(signature, key_id=WITNESS_KEY.key_id)
    return replace(entry, checkpoint=str(Note.parse(entry.checkpoint).with_signatures([signature])))


async def test_a_receipt_that_is_read_later_is_witnessed_with_a_proof_in_the_cosigned_tree(
    notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise()
    peers.witnesses, peers.cosigned = [WITNESS_KEY], cosigned_later(notary, made)
    office, _ = office_of(peers)

    receipt = read(await office.later_receipt(record_of(made, notary)))

    entry = receipt.bundle.entry
    assert receipt == replace(made, state="witnessed", bundle=receipt.bundle)
    assert entry == replace(peers.cosigned, proof_index=made.log_index)
    result = verify_receipt(receipt, notary.trust, policy=Policy(require_witnesses=1, witnesses=(WITNESS_KEY,)))
    assert result.verified
    assert result.status("witnesses") is Status.PASSED


@pytest.mark.parametrize(("since", "verified"), [(timedelta(seconds=1), True), (timedelta(0), False)])
async def test_what_a_witness_has_cosigned_before_a_key_was_compromised_still_counts(
    notary: LocalNotary, peers: Peers, since: timedelta, verified: bool
) -> None:
    made = notary.notarise()
    peers.witnesses, peers.cosigned = [WITNESS_KEY], cosigned_later(notary, made)
    office, _ = office_of(peers)
    receipt = read(await office.later_receipt(record_of(made, notary)))

    stolen_at = COSIGNED_AT.replace(microsecond=0) + since
    trust = notary.trusting(revoked=Revocation(stolen_at + timedelta(days=9), stolen_at, "stolen"))
    policy = Policy(witnesses=(WITNESS_KEY,))
    assert verify_receipt(receipt, trust, policy=policy).verified is verified
    assert not verify_receipt(made, trust, policy=policy).verified


async def test_the_answer_that_signs_asks_for_cosignatures_only_where_its_caller_waits(
    notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise()
    peers.witnesses, peers.cosigned = [WITNESS_KEY], cosigned_later(notary, made)
    office, _ = office_of(peers)

    assert read(await office.receipt(record_of(made, notary), fresh=True)) == made
    assert peers.asked_for_cosignatures == 0
    waited = await office.receipt(record_of(made, notary), fresh=True, witnessed=10.0)
    assert waited.state == ReceiptState.WITNESSED


@pytest.mark.parametrize("fault", ["none yet", "the log is away", "another key", "another tree", "no proof"])
async def test_where_cosignatures_are_missing_or_do_not_hold_the_receipt_is_what_it_was(
    notary: LocalNotary, peers: Peers, fault: str
) -> None:
    made = notary.notarise()
    good = cosigned_later(notary, made)
    peers.witnesses = [WITNESS_KEY]
    peers.cosigned = {
        "none yet": NotFound("no checkpoint over this leaf is cosigned yet"),
        "the log is away": Unavailable("it is away", retry_after=1.0),
        "another key": cosigned_later(notary, made, Ed25519PrivateKey.generate()),
        "another tree": replace(good, tree_size=good.tree_size + 1),
        "no proof": replace(good, hashes=good.hashes[:-1]),
    }[fault]
    office, _ = office_of(peers)

    assert read(await office.later_receipt(record_of(made, notary))) == made


# --- anchors


def anchored(notary: LocalNotary, receipt: Receipt, time: datetime = STAMPED_AT + timedelta(days=1)) -> Anchor:
    notary.log.append([sha256(b"later").digest()])
    return notary.anchor(receipt, THEIRS, time)


async def test_a_receipt_that_is_read_later_has_its_anchor(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise()
    peers.external.append(THEIRS)
    peers.anchor = anchored(notary, made)
    office, keys = office_of(peers)

    receipt = read(await office.later_receipt(record_of(made, notary)))

    assert receipt == replace(made, anchors=(peers.anchor,))
    result = verify_receipt(receipt, await keys.trust_root())
    assert result.verified
    assert result.status("anchors") is Status.PASSED


async def test_the_answer_that_signs_has_no_anchor_and_nobody_asks(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise()
    peers.external.append(THEIRS)
    peers.anchor = anchored(notary, made)
    office, _ = office_of(peers)

    assert read(await office.receipt(record_of(made, notary), fresh=True)) == made
    assert peers.asked_for_anchors == 0


async def test_without_an_authority_outside_of_the_notary_nobody_asks_for_anchors(
    notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise()
    peers.anchor = anchored(notary, made)
    office, _ = office_of(peers)

    assert read(await office.later_receipt(record_of(made, notary))) == made
    assert peers.asked_for_anchors == 0


@pytest.mark.parametrize("error", [NotFound("not yet"), Unavailable("the log is away")], ids=lambda error: error.code)
async def test_a_receipt_is_given_without_an_anchor_where_there_is_none_yet_or_the_log_is_away(
    error: Exception, notary: LocalNotary, peers: Peers
) -> None:
    made = notary.notarise()
    peers.external.append(THEIRS)
    peers.anchor = error
    office, _ = office_of(peers)

    assert read(await office.later_receipt(record_of(made, notary))) == made


async def test_an_anchor_that_does_not_hold_is_left_out(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise()
    peers.external.append(THEIRS)
    good = anchored(notary, made)
    office, _ = office_of(peers)

    for bad in (
        replace(good, timestamp=flipped(good.timestamp)),
        replace(good, hashes=(bytes(32), *good.hashes[1:])),
        replace(good, log_index=0),
        replace(good, checkpoint=""),
    ):
        peers.anchor = bad
        assert read(await office.later_receipt(record_of(made, notary))) == made


async def test_what_is_not_in_the_log_has_no_anchor(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise(logged=False)
    peers.external.append(THEIRS)
    office, _ = office_of(peers)

    assert read(await office.later_receipt(record_of(made, notary))) == made
    assert peers.asked_for_anchors == 0


# --- logs of others


def in_rekor(made: Receipt) -> tuple[log.ExternalLog, LogPosition]:
    """A Rekor 2 that has the entry, and where."""
    rekor = LocalLog("rekor.example")
    envelope = made.bundle.envelope
    digest = SignatureAlgorithm.ECDSA_P256_SHA256.digest(envelope.pae)
    rekor.append([b"before", entry_body(digest, made.signature, made.public_key)])
    entry = rekor.proven(1)
    known = log.ExternalLog(
        name="rekor",
        api_version=2,
        origin="rekor.example",
        base_url="https://rekor.example",
        log_id=rekor.log.log_id,
        spki=rekor.log.spki,
        valid_from=rekor.log.valid_from,
        current=True,
    )
    return known, LogPosition("rekor.example", 1, 2, b"".join(entry.hashes), entry.checkpoint)


async def test_a_receipt_that_is_read_later_has_the_bundle_of_a_further_log(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise()
    known, position = in_rekor(made)
    peers.others = [known]
    office, keys = office_of(peers)

    receipt = read(await office.later_receipt(replace(record_of(made, notary), more=[position])))

    [further] = receipt.more_bundles
    assert further.entry is not None
    assert (further.entry.log_index, further.entry.log_id) == (1, known.log_id)
    assert verify_receipt(receipt, await keys.trust_root()).verified


async def test_receipts_of_a_log_of_others_that_has_changed_its_key_go_on_verifying_with_each_of_its_keys(
    notary: LocalNotary, peers: Peers
) -> None:
    made = [notary.notarise(logged=False) for _ in range(3)]
    places = [in_rekor(each) for each in made]  # the same name each time, and another key
    peers.others = [known for known, _ in places[:2]][::-1]
    office, keys = office_of(peers)
    records = [
        replace(record_of(each, notary), state=RecordState.LOGGED, log=place)
        for each, (_, place) in zip(made, places, strict=True)
    ]
    receipts = [read(await office.later_receipt(each)) for each in records[:2]]
    with pytest.raises(DataLoss, match="not signed by a known key"):
        await office.later_receipt(records[2])

    files = {name: text.encode() for name, text in trust_files(await keys.trust_root()).items()}
    offline = read_trust_files(files)
    assert [verify_receipt(each, offline).verified for each in receipts] == [True, True]
    assert len({each.log_id for each in offline.logs if each.origin == "rekor.example"}) == 2


async def test_a_further_bundle_that_does_not_hold_is_withheld(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise()
    known, position = in_rekor(made)
    peers.others = [known]
    office, _ = office_of(peers)

    with pytest.raises(DataLoss, match="withheld"):
        await office.later_receipt(replace(record_of(made, notary), more=[replace(position, log_index=0)]))


async def test_a_receipt_of_a_log_of_others_names_it_from_the_start(notary: LocalNotary, peers: Peers) -> None:
    made = notary.notarise(logged=False)
    known, position = in_rekor(made)
    peers.others = [known]
    office, keys = office_of(peers)
    record = record_of(made, notary)
    assert record.draft is not None
    queued = replace(record, draft=replace(record.draft, external_log="rekor"))

    signed = read(await office.receipt(queued, fresh=True))
    logged = read(await office.receipt(replace(queued, state=RecordState.LOGGED, log=position)))

    assert (signed.state, signed.rekor_server_url) == ("signed", "https://rekor.example")
    assert (logged.state, logged.log_index) == ("logged", 1)
    assert verify_receipt(logged, await keys.trust_root()).verified
