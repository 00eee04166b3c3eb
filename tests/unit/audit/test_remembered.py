"""What a verification of the trail keeps between two runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from afdp.audit.remembered import Remembered, load_remembered, save_remembered
from afdp.audit.seals import seal_hash
from afdp.audit.verify import Fault
from afdp.errors import InvalidArgument

VERIFIED = Remembered(
    "records", 7, seal_hash(b"seal 7"), 91, 6, {"act": 90}, ("announced",), ("expiry:1",), {"h": "acme"}, ("h",)
)


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    assert load_remembered(tmp_path / "state", "records") is None
    save_remembered(tmp_path / "state", VERIFIED)
    found = load_remembered(tmp_path / "state", "records")
    assert found is not None
    assert (found.announced, found.told) == (["announced"], ["expiry:1"])
    assert found.check(7, b"seal 7") is None
    chain, acts = found.resume(b"seal 7")
    assert (chain.seals, chain.anchored, chain.newest, acts.unfinished) == (7, 6, VERIFIED.seal, {"act": 90})


@pytest.mark.parametrize(("number", "body"), [(7, b"another"), (8, b"seal 8"), (0, b"")])
def test_another_seal_where_one_was_verified_is_a_trail_that_was_rewritten(number: int, body: bytes) -> None:
    finding = VERIFIED.check(number, body)
    assert finding is not None
    assert (finding.fault, finding.subject) == (Fault.REWRITTEN, "seal 7")


def test_a_state_that_is_damaged_or_of_other_rows_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "state"
    save_remembered(file, VERIFIED)
    with pytest.raises(InvalidArgument, match=r"state is of records, not of an export"):
        load_remembered(file, "an export")
    for damaged in (file.read_text().replace("91", "92"), "{}", "[]", "", '{"format":1}'):
        file.write_text(damaged)
        with pytest.raises(InvalidArgument, match="state is damaged"):
            load_remembered(file, "records")
