"""The tree's row is believed only where its parts belong together."""

import pytest

from afdp.formats.merkle import Frontier, extend, leaf_hash
from afdp.transparency.values import BrokenLog, LogIdentity, StoredTree

EDGE = extend(Frontier.empty(), [leaf_hash(b"%d" % number) for number in range(5)]).new
OTHER = extend(Frontier.empty(), [leaf_hash(b"x%d" % number) for number in range(5)]).new


def test_a_row_whose_parts_agree_gives_its_right_edge() -> None:
    assert StoredTree(5, EDGE.root(), EDGE.to_bytes()).verified() == EDGE


@pytest.mark.parametrize(
    "row",
    [
        StoredTree(4, EDGE.root(), EDGE.to_bytes()),
        StoredTree(5, OTHER.root(), EDGE.to_bytes()),
        StoredTree(5, EDGE.root(), OTHER.to_bytes()),
        StoredTree(5, EDGE.root(), EDGE.to_bytes()[:-32]),
        StoredTree(5, EDGE.root(), b""),
    ],
)
def test_a_row_whose_parts_do_not_agree_is_a_broken_log(row: StoredTree) -> None:
    with pytest.raises(BrokenLog, match=f"right edge of the tree does not lead to its root at size {row.size}"):
        row.verified()


def test_the_log_id_is_the_untruncated_key_id() -> None:
    identity = LogIdentity("notary.localhost", bytes(range(32)))

    assert len(identity.log_id) == 32
    assert identity.vkey.key_id == identity.log_id[:4]
    assert str(identity.vkey).startswith(f"notary.localhost+{identity.log_id[:4].hex()}+")
