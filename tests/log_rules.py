"""The eight rules that keep the log sound, and the mark of the tests that hold us to them: `pytest -m log_rule`."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

RULES: Mapping[int, str] = {
    1: "Entries are committed, then their root is signed, then the checkpoint is committed; only then does anybody see "
    "it. The tree's lock is not held meanwhile, and a checkpoint that comes late replaces no larger one.",
    2: "Any number of writers make one tree, each checking it under its lock. A size that moved is normal, a root that "
    "does not match stops the writer, and the signer signs nothing that does not go on from what it has signed.",
    3: "Growth costs nothing: an append reads the right edge, a start does not read the tree.",
    4: "What leaves is checked before: leaf hashes against entries, proofs against the checkpoint's root.",
    5: "Anybody can recompute the whole log and is told the first bad byte, and can watch any such log.",
    6: "A database restored from an old backup is found before the first append, by what the signer signed last, and "
    "by what witnesses did.",
    7: "Any k of n witnesses, asked at most once a second; receipts that wait get a fresh proof; a closed policy "
    "serves cosigned checkpoints only.",
    8: "The log says nothing of the evidence; that one is shown all of its entries is proven for a log of one's own.",
}


def rule(number: int) -> pytest.MarkDecorator:
    """Marks a test that holds us to a rule."""
    assert number in RULES
    return pytest.mark.log_rule(number)
