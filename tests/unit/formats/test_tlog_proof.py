from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Note, NoteSignature, SignatureType, VerifierKey, cosignature_message, format_cosignature
from afdp.formats.tlog_proof import TlogProof, TlogProofError
from tests.local_log import LocalLog

# C2SP tlog-proof, the example's form with values of our own: one line per hash, the note as it is
FILE = (
    "c2sp.org/tlog-proof@v1\n"
    "extra ZXh0cmE=\n"
    "index 73894\n"
    f"{'A' * 43}=\n"
    f"{'A' * 42}E=\n"
    "\n"
    "example.com/fancylog\n"
    "109482\n"
    "sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n"
    "\n"
    "— example.com/fancylog AAAAAAAA\n"
)
WITNESS = Ed25519PrivateKey.generate()
WITNESS_KEY = VerifierKey("witness.example", WITNESS.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)

proofs = st.builds(
    TlogProof,
    index=st.integers(0, 2**63 - 2),
    hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    checkpoint=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1).map("{}\n".format),
    extra=st.none() | st.binary(min_size=1, max_size=200),
)


def log_of(size: int) -> LocalLog:
    log = LocalLog()
    log.append(b"entry %d" % number for number in range(size))
    return log


def proof_of(log: LocalLog, index: int, checkpoint: Note | None = None) -> TlogProof:
    entry = log.proven(index)
    return TlogProof(index, tuple(entry.hashes), str(checkpoint) if checkpoint else entry.checkpoint, entry.body)


def cosigned(log: LocalLog, time: int = 1_800_000_000) -> Note:
    note = log.checkpoint()
    signature = format_cosignature(time, WITNESS.sign(cosignature_message(time, note.text)))
    return note.with_signatures([NoteSignature.by(WITNESS_KEY, signature)])


def test_the_form_is_that_of_the_specification() -> None:
    proof = TlogProof.parse(FILE.encode())

    assert (proof.index, proof.extra) == (73894, b"extra")
    assert proof.hashes == (bytes(32), bytes(31) + b"\x01")
    assert proof.checkpoint.startswith("example.com/fancylog\n109482\n")
    assert proof.to_bytes() == FILE.encode()


@given(proofs)
def test_what_is_written_is_read_again(proof: TlogProof) -> None:
    assert TlogProof.parse(proof.to_bytes()) == proof


@given(st.integers(1, 600), st.data())
def test_every_entry_of_a_log_is_proven_and_no_other_in_its_place(size: int, data: st.DataObject) -> None:
    log = log_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof = TlogProof.parse(proof_of(log, index).to_bytes())

    checkpoint, cosignatures = proof.verify(leaf_hash(log.entries[index]), log.log.vkey)

    assert (checkpoint.size, checkpoint.root, cosignatures) == (size, log.frontier.root(), [])
    with pytest.raises(TlogProofError):
        proof.verify(leaf_hash(b"another entry"), log.log.vkey)


@given(st.data())
def test_a_flipped_bit_is_refused_or_is_in_what_nothing_authenticates(data: st.DataObject) -> None:
    log = log_of(11)
    proof = proof_of(log, 4)
    file = bytearray(proof.to_bytes())
    at = data.draw(st.integers(0, 8 * len(file) - 1))
    file[at // 8] ^= 1 << at % 8

    try:
        changed = TlogProof.parse(bytes(file))
        changed.verify(leaf_hash(log.entries[4]), log.log.vkey)
    except TlogProofError:
        return
    assert changed.extra != proof.extra
    assert (changed.index, changed.hashes, changed.checkpoint) == (proof.index, proof.hashes, proof.checkpoint)


def test_cosignatures_of_known_witnesses_are_told_and_wrong_ones_refused() -> None:
    log = log_of(3)
    leaf = leaf_hash(log.entries[1])
    proof = proof_of(log, 1, cosigned(log))

    _, cosignatures = proof.verify(leaf, log.log.vkey, [WITNESS_KEY])

    assert [(each.key, each.time) for each in cosignatures] == [(WITNESS_KEY, 1_800_000_000)]
    assert proof.verify(leaf, log.log.vkey)[1] == []
    other = log.checkpoint(root=bytes(32))
    lines = cosigned(log).signatures[1:]
    with pytest.raises(TlogProofError, match=r"witness\.example\+.* is wrong"):
        proof_of(log, 1, other.with_signatures(lines)).verify(leaf, log.log.vkey, [WITNESS_KEY])


def test_a_checkpoint_that_only_a_witness_has_signed_proves_nothing() -> None:
    log = log_of(3)
    note = cosigned(log)
    proof = proof_of(log, 1, Note(note.text, note.signatures[1:]))

    with pytest.raises(TlogProofError, match=r"is not signed by notary\.localhost"):
        proof.verify(leaf_hash(log.entries[1]), log.log.vkey, [WITNESS_KEY])


def test_a_checkpoint_of_another_log_by_the_same_key_proves_nothing() -> None:
    log = log_of(3)
    other = LocalLog(origin="other.example", key=log.key, entries=log.entries, frontier=log.frontier, hashes=log.hashes)
    by_ours = Note(
        other.checkpoint().text, (NoteSignature.by(log.log.vkey, log.key.sign(other.checkpoint().text.encode())),)
    )

    with pytest.raises(TlogProofError, match=r"is of other\.example"):
        proof_of(log, 1, by_ours).verify(leaf_hash(log.entries[1]), log.log.vkey)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (FILE.replace("@v1", "@v2"), "first line"),
        (FILE.replace("index 73894", "index 073894"), "leading zeros"),
        (FILE.replace("index 73894", "index -1"), "leading zeros"),
        (FILE.replace("index 73894", f"index {2**63 - 1}"), "between 0 and"),
        (FILE.replace("index 73894\n", ""), "'index'"),
        (FILE.replace("extra ZXh0cmE=", "extra ZXh0cmF="), "extra data must be standard base64"),
        (FILE.replace("extra ZXh0cmE=", "extra "), "1 to"),
        (FILE.replace("extra ZXh0cmE=\n", "extra ZXh0cmE=\nextra ZXh0cmE=\n"), "'index'"),
        (FILE.replace(f"{'A' * 43}=", "AAAA"), "32 bytes"),
        (FILE.replace(f"{'A' * 43}=", "no hash"), "a hash must be standard base64"),
        (FILE.replace(f"{'A' * 43}=\n", f"{'A' * 43}=\n" * 63), "more than 63"),
        (FILE.replace("\n", "\r\n"), "first line"),
        (FILE.split("\n\n")[0] + "\n\n", "a blank line and a checkpoint"),
        (FILE.split("\n\n")[0], "a blank line and a checkpoint"),
        ("", "first line"),
    ],
)
def test_what_is_not_exactly_one_proof_is_refused_with_the_reason(broken: str, said: str) -> None:
    with pytest.raises(TlogProofError, match=said):
        TlogProof.parse(broken.encode())


def test_what_is_not_utf_8_or_too_large_is_refused() -> None:
    with pytest.raises(TlogProofError, match="UTF-8"):
        TlogProof.parse(FILE.encode() + b"\xff")
    with pytest.raises(TlogProofError, match="larger than"):
        TlogProof.parse(b"x" * 3_000_001)
