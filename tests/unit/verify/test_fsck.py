from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.formats.note import Note, NoteSignature, SignatureType, VerifierKey
from afdp.formats.tiles import TileRef
from afdp.verify.fsck import Checked, Fault, LogReport, check_log
from tests.local_log import LocalLog
from tests.local_witness import cosigned
from tests.log_rules import rule


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        return map(self.read, paths)


def log_of(size: int) -> LocalLog:
    log = LocalLog()
    log.append(b"entry %d of the log" % number for number in range(size))
    return log


@pytest.fixture
def log() -> LocalLog:
    return log_of(70_000)


def check(folder: Path, log: LocalLog) -> LogReport:
    return check_log(Folder(folder), log.log.vkey)


def fault(folder: Path, log: LocalLog) -> Fault:
    found = check(folder, log).fault
    assert found is not None
    return found


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x01
    file.write_bytes(data)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 600, 65_536, 65_537])
def test_a_sound_log_of_any_size_has_no_fault(size: int, tmp_path: Path) -> None:
    log = log_of(size)

    report = check(log.write(tmp_path), log)

    assert report.fault is None
    assert report.entries == size
    assert report.checkpoint is not None
    assert report.checkpoint.size == size


def test_progress_is_told_while_it_reads(tmp_path: Path) -> None:
    log = log_of(600)
    told: list[tuple[int, int]] = []

    check_log(Folder(log.write(tmp_path)), log.log.vkey, lambda done, size: told.append((done, size)))

    assert told == [(512, 600), (600, 600)]


@rule(5)
def test_a_flipped_bit_in_an_entry_is_found_where_the_entry_begins(tmp_path: Path) -> None:
    log = log_of(600)
    bundle = log.write(tmp_path) / "tile/entries/001"
    start = sum(2 + len(entry) for entry in log.entries[256:300])
    flip(bundle, start + 5)

    found = fault(tmp_path, log)

    assert (found.path, found.offset) == ("tile/entries/001", start)
    assert "entry 300 is not what was logged" in found.reason


@pytest.mark.parametrize("offset", [0, 31, 32 * 44 + 7])
def test_a_flipped_bit_in_a_tile_of_leaf_hashes_is_found_to_the_byte(offset: int, tmp_path: Path) -> None:
    log = log_of(600)
    flip(log.write(tmp_path) / "tile/0/001", offset)

    found = fault(tmp_path, log)

    assert (found.path, found.offset) == ("tile/0/001", offset)


@pytest.mark.parametrize("path", ["tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/0/273.p/112"])
def test_a_flipped_bit_in_any_tile_is_found_to_the_byte(path: str, tmp_path: Path, log: LocalLog) -> None:
    flip(log.write(tmp_path) / path, 9)

    found = fault(tmp_path, log)

    assert (found.path, found.offset) == (path, 9)


def test_an_entry_changed_together_with_its_leaf_hash_is_found_in_the_tile_above(tmp_path: Path) -> None:
    log = log_of(600)
    folder = log.write(tmp_path)
    forged = log_of(600)
    forged.entries[300] = b"forged"
    forged.key = log.key
    again = LocalLog(key=log.key)
    again.append(forged.entries)
    again.write(tmp_path / "forged")
    for path in ("tile/entries/001", "tile/0/001"):
        (folder / path).write_bytes((tmp_path / "forged" / path).read_bytes())

    found = fault(folder, log)

    assert found.path == "tile/1/000.p/2"
    assert found.offset is not None
    assert 32 <= found.offset < 64
    assert "neither leads to the checkpoint's root" in found.reason


def test_a_bundle_whose_lengths_are_wrong_is_found_at_the_entry(tmp_path: Path) -> None:
    log = log_of(600)
    start = sum(2 + len(entry) for entry in log.entries[256:300])
    flip(log.write(tmp_path) / "tile/entries/001", start + 1)

    found = fault(tmp_path, log)

    assert (found.path, found.offset) == ("tile/entries/001", start)


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/001", "tile/0/000", "tile/1/000.p/2"])
def test_a_missing_file_is_named(path: str, tmp_path: Path) -> None:
    log = log_of(600)
    (log.write(tmp_path) / path).unlink()

    found = fault(tmp_path, log)

    assert (found.path, found.offset, found.reason) == (path, None, "is missing")


def test_a_tile_that_was_cut_is_named_with_its_end(tmp_path: Path) -> None:
    log = log_of(600)
    tile = log.write(tmp_path) / "tile/0/001"
    tile.write_bytes(tile.read_bytes()[:100])

    found = fault(tmp_path, log)

    assert (found.path, found.offset) == ("tile/0/001", 100)


def test_a_root_that_the_key_signed_and_nothing_leads_to_is_the_checkpoints_fault(tmp_path: Path) -> None:
    log = log_of(600)
    folder = log.write(tmp_path)
    (folder / "checkpoint").write_bytes(log.checkpoint(root=bytes(32)).to_bytes())

    found = fault(folder, log)

    assert (found.path, found.offset) == ("checkpoint", len("notary.localhost\n600\n"))


def test_a_checkpoint_of_somebody_elses_log_may_have_further_lines(tmp_path: Path) -> None:
    log = log_of(3)
    folder = log.write(tmp_path)
    text = log.checkpoint().text + "Timestamp: 1700000000\n"
    (folder / "checkpoint").write_bytes(
        Note(text, (NoteSignature.by(log.log.vkey, log.key.sign(text.encode())),)).to_bytes()
    )

    assert check(folder, log).fault is None


def test_a_checkpoint_of_another_key_is_refused(tmp_path: Path) -> None:
    log = log_of(3)

    found = fault(log.write(tmp_path), LocalLog())

    assert (found.path, found.reason) == ("checkpoint", "the note is not signed by a known key")


def test_a_checkpoint_of_another_origin_is_refused(tmp_path: Path) -> None:
    log = log_of(3)
    foreign = LocalLog(origin="other.localhost", key=log.key)
    folder = foreign.write(tmp_path)

    found = check_log(Folder(folder), VerifierKey("notary.localhost", log.log.public_key)).fault

    assert found is not None
    assert found.path == "checkpoint"


def test_a_log_that_has_grown_may_have_dropped_its_partial_tiles(tmp_path: Path) -> None:
    log = log_of(600)
    folder = log.write(tmp_path)
    old = log.checkpoint()
    log.append(b"later %d" % number for number in range(168))
    for ref in (TileRef(None, 2, 88), TileRef(0, 2, 88)):
        (folder / ref.path()).unlink()
    log.write(folder)
    (folder / "checkpoint").write_bytes(old.to_bytes())

    report = check(folder, log)

    assert report.fault is None
    assert report.entries == 600


# --- going on from what was kept --------------------------------------------------------------------------------------


def kept_of(folder: Path, log: LocalLog, until: int | None = None) -> Checked:
    """What a check keeps, of all, or of an interruption after some segments."""
    kept: list[Checked] = []
    check_log(Folder(folder), log.log.vkey, keep=kept.append)
    return kept[-1 if until is None else until]


GROWN = [(1, 0), (1, 1), (255, 1), (256, 0), (256, 256), (600, 1), (600, 9_000), (65_536, 1), (65_530, 300)]


@pytest.mark.parametrize(("size", "more"), GROWN)
def test_a_log_that_has_grown_is_read_from_where_it_was_read_to(size: int, more: int, tmp_path: Path) -> None:
    log = log_of(size)
    kept = kept_of(log.write(tmp_path), log)
    log.append(b"later %d" % number for number in range(more))
    log.write(tmp_path)
    again: list[Checked] = []

    report = check_log(Folder(tmp_path), log.log.vkey, since=kept, keep=again.append)

    assert (report.fault, report.contradicts) == (None, None)
    assert (report.start, report.entries) == (size // 256 * 256, size + more)
    assert again[-1].read == log.frontier
    assert again[-1].whole


@pytest.mark.parametrize("segments", [1, 5, 8])
def test_an_interrupted_check_that_goes_on_finds_what_a_whole_one_finds(
    segments: int, tmp_path: Path, log: LocalLog
) -> None:
    folder = log.write(tmp_path)
    kept = kept_of(folder, log, segments - 1)
    assert (kept.read.size, kept.whole) == (8192 * segments, False)

    sound = check_log(Folder(folder), log.log.vkey, since=kept)
    flip(folder / "tile/entries/270", 3)
    whole, gone_on = check(folder, log), check_log(Folder(folder), log.log.vkey, since=kept)

    assert (sound.fault, sound.start) == (None, 8192 * segments)
    assert whole.fault is not None
    assert gone_on.fault == whole.fault


def test_an_interrupted_check_goes_on_only_where_the_log_leads_on_from_the_checkpoint_it_began_with(
    tmp_path: Path, log: LocalLog
) -> None:
    kept = kept_of(log.write(tmp_path), log, until=0)
    fork = LocalLog(key=log.key)
    fork.append([*log.entries[:-1], b"another", b"one more"])
    fork.write(tmp_path)

    report = check_log(Folder(tmp_path), log.log.vkey, since=kept)

    assert report.fault is not None
    assert "the log has forked" in report.fault.reason
    assert report.contradicts == kept.head


def test_an_entry_of_before_that_was_changed_since_is_found_by_the_tree_it_makes(tmp_path: Path) -> None:
    log = log_of(70_000)
    kept = kept_of(log.write(tmp_path), log)
    fork = LocalLog(key=log.key)
    fork.append([b"other", *log.entries[1:], b"one more"])
    fork.write(tmp_path)

    report = check_log(Folder(tmp_path), log.log.vkey, since=kept)

    assert report.fault is not None
    assert "the 70000 entries that were read before have another tree now" in report.fault.reason
    assert report.contradicts == kept.head
    assert report.served == fork.checkpoint().to_bytes()


def test_an_entry_in_the_bundle_that_was_not_full_is_compared_again(tmp_path: Path) -> None:
    log = log_of(600)
    kept = kept_of(log.write(tmp_path), log)
    log.append([b"later"])
    log.write(tmp_path)
    flip(tmp_path / "tile/entries/002.p/89", 4)

    report = check_log(Folder(tmp_path), log.log.vkey, since=kept)

    assert report.fault is not None
    assert (report.fault.path, report.fault.offset, report.fault.entry) == ("tile/entries/002.p/89", 0, 512)


@pytest.mark.parametrize(("size", "said"), [(599, "rolled back"), (600, "forked")])
def test_a_log_that_was_rolled_back_or_forked_contradicts_what_was_seen(size: int, said: str, tmp_path: Path) -> None:
    log = log_of(600)
    kept = kept_of(log.write(tmp_path), log)
    fork = LocalLog(key=log.key)
    fork.append([*log.entries[: size - 1], b"another"])
    fork.write(tmp_path)

    report = check_log(Folder(tmp_path), log.log.vkey, since=kept)

    assert report.fault is not None
    assert said in report.fault.reason
    assert report.contradicts == kept.head


def test_a_cosignature_of_a_known_witness_counts_and_a_wrong_one_is_a_fault(tmp_path: Path) -> None:
    log, key = log_of(3), Ed25519PrivateKey.generate()
    witness = VerifierKey("w.example", key.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
    folder = log.write(tmp_path)
    note = log.checkpoint()
    (folder / "checkpoint").write_bytes(
        note.with_signatures([cosigned(note, "w.example", key, 1_700_000_000)]).to_bytes()
    )
    good = check_log(Folder(folder), log.log.vkey, witnesses=[witness])
    wrong = cosigned(Note(note.text.replace("3", "4"), ()), "w.example", key, 1_700_000_000)
    (folder / "checkpoint").write_bytes(note.with_signatures([wrong]).to_bytes())
    bad = check_log(Folder(folder), log.log.vkey, witnesses=[witness])

    assert good.fault is None
    assert good.head is not None
    assert [(each.key, each.time) for each in good.head.cosignatures] == [(witness, 1_700_000_000)]
    assert bad.fault is not None
    assert "w.example" in bad.fault.reason
