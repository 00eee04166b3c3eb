from __future__ import annotations

import random
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import (
    InmemoryTree,
)
from pymerkle import (
    verify_inclusion as peer_verify_inclusion,
)

from afdp.formats.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    Extension,
    Frontier,
    HashRange,
    ProofError,
    TileHash,
    TileHashes,
    consistency_proof,
    extend,
    frontier,
    inclusion_proof,
    leaf_hash,
    merged_ranges,
    node_hash,
    plan_consistency,
    plan_frontier,
    plan_inclusion,
    verify_consistency,
    verify_inclusion,
)

ENTRIES = [b"entry %d" % index for index in range(1100)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
BOUNDARIES = sorted(
    {max(1, power + near) for power in (1, 2, 4, 8, 16, 64, 256, 512, 768, 1024) for near in (-1, 0, 1)}
)


# --- RFC 9162, section 2.1, as it stands there ------------------------------------------------------------------------


def largest_power_under(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@cache
def mth(start: int, end: int) -> bytes:
    """MTH(D[start:end]) of section 2.1.1."""
    if start == end:
        return sha256(b"").digest()
    if end - start == 1:
        return sha256(b"\x00" + ENTRIES[start]).digest()
    k = largest_power_under(end - start)
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[bytes]:
    """PATH(m, D[start:end]) of section 2.1.3.1."""
    if end - start == 1:
        return []
    k = largest_power_under(end - start)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, complete: bool) -> list[bytes]:
    """SUBPROOF(m, D[start:end], b) of section 2.1.4.1."""
    if m == end - start:
        return [] if complete else [mth(start, end)]
    k = largest_power_under(end - start)
    if m <= k:
        return [*subproof(m, start, start + k, complete), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


def stored(size: int) -> TileHashes:
    """Every tile hash that a log of this size has stored, by the definition."""
    hashes = {(0, index): LEAVES[index] for index in range(size)}
    hashes |= {(1, index): mth(256 * index, 256 * index + 256) for index in range(size // 256)}
    return hashes


def read(ranges: list[HashRange], size: int) -> TileHashes:
    """Exactly the hashes that were planned; one that is not stored fails."""
    everything = stored(size)
    return {(level, index): everything[level, index] for level, start, end in ranges for index in range(start, end)}


def grown(*sizes: int) -> Extension:
    """The last step of a tree that grew through these sizes."""
    edge, extension = Frontier.empty(), None
    for size in sizes:
        extension = extend(edge, LEAVES[edge.size : size])
        edge = extension.new
    assert extension is not None
    return extension


SIZES = st.one_of(st.sampled_from(BOUNDARIES), st.integers(1, len(LEAVES)))
INDEX_AND_SIZE = SIZES.flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size)))
OLD_AND_NEW = SIZES.flatmap(
    lambda new: st.tuples(st.one_of(SIZES.filter(lambda s: s <= new), st.just(0)), st.just(new))
)


# --- known values -----------------------------------------------------------------------------------------------------


def test_the_reference_tree_of_certificate_transparency_has_its_published_roots() -> None:
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in REFERENCE_ENTRIES]

    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Frontier.empty().root() == EMPTY_ROOT
    for size, root in roots.items():
        assert extend(Frontier.empty(), leaves[:size]).new.root().hex() == root


REFERENCE_ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
REFERENCE_CONSISTENCY = {
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (1, 1): [],
}


def test_the_reference_tree_has_its_published_consistency_proofs() -> None:
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in REFERENCE_ENTRIES]
    for (old, new), expected in REFERENCE_CONSISTENCY.items():
        extension = extend(extend(Frontier.empty(), leaves[:old]).new, leaves[old:new])
        proof = [bytes.fromhex(each) for each in expected]

        assert list(extension.consistency_proof()) == proof
        verify_consistency(old, extension.old.root(), new, extension.new.root(), proof)


# --- growing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=6).map(sorted))
def test_a_tree_has_the_root_of_the_rfc_however_it_grew(sizes: list[int]) -> None:
    assert grown(*sizes).new.root() == mth(0, sizes[-1])


@settings(max_examples=80, deadline=None)
@given(OLD_AND_NEW, st.randoms(use_true_random=False))
def test_an_extension_proves_its_new_leaves_and_its_consistency(sizes: tuple[int, int], chance: random.Random) -> None:
    old, new = sizes
    extension = grown(old, new)

    for index in {old, new - 1, *(chance.randrange(old, new) for _ in range(4) if new > old)}:
        if old <= index < new:
            proof = extension.inclusion_proof(index)
            assert list(proof) == path(index, 0, new)
            verify_inclusion(index, new, LEAVES[index], proof, mth(0, new))
    assert list(extension.consistency_proof()) == (subproof(old, 0, new, True) if old else [])
    verify_consistency(old, mth(0, old), new, mth(0, new), extension.consistency_proof())


def test_growing_by_single_leaves_gives_every_tile_hash_exactly_once() -> None:
    edge, seen = Frontier.empty(), dict[tuple[int, int], bytes]()
    for index, leaf in enumerate(LEAVES):
        extension = extend(edge, [leaf])
        assert extension.inclusion_proof(index) == tuple(path(index, 0, index + 1))
        seen |= {(each.level, each.index): each.hash for each in extension.completed}
        edge = extension.new

    assert seen == {(1, at): mth(256 * at, 256 * at + 256) for at in range(4)}


@settings(max_examples=40, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=6).map(sorted))
def test_steps_of_any_width_complete_the_same_tile_hashes(sizes: list[int]) -> None:
    edge, seen = Frontier.empty(), list[TileHash]()
    for size in sizes:
        extension = extend(edge, LEAVES[edge.size : size])
        seen += extension.completed
        edge = extension.new

    assert [(each.level, each.index) for each in seen] == [(1, at) for at in range(sizes[-1] // 256)]
    assert all(each.hash == mth(256 * each.index, 256 * each.index + 256) for each in seen)


def test_the_upper_tile_levels_are_completed_at_their_heights() -> None:
    leaves = [leaf_hash(b"")] * 65_537
    root = leaves[0]
    for _ in range(16):
        root = node_hash(root, root)

    extension = extend(extend(Frontier.empty(), leaves[:65_535]).new, leaves[65_535:])

    assert [(each.level, each.index) for each in extension.completed] == [(1, 255), (2, 0)]
    assert extension.completed[1].hash == root


def test_an_extension_by_nothing_is_the_same_tree() -> None:
    for size in (0, 1, 256, 1000):
        extension = grown(size, size)
        assert extension.new == extension.old
        assert extension.consistency_proof() == ()
        assert extension.completed == ()


def test_a_leaf_that_is_not_new_has_no_proof_in_memory() -> None:
    extension = grown(5, 9)
    for index in (4, 9, -1):
        with pytest.raises(ValueError, match="not one of the new leaves"):
            extension.inclusion_proof(index)


def test_hashes_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        extend(Frontier.empty(), [b"short"])
    with pytest.raises(ValueError, match="32 bytes"):
        Frontier(1, (b"short",))
    with pytest.raises(ValueError, match="2 frontier hashes"):
        Frontier(3, (LEAVES[0],))
    with pytest.raises(ValueError, match="tree size"):
        extend(Frontier(MAX_SIZE, (LEAVES[0],) * 63), [LEAVES[0]])


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_a_frontier_survives_its_bytes(size: int) -> None:
    edge = grown(size).new

    assert Frontier.from_bytes(edge.to_bytes()) == edge
    for broken in (edge.to_bytes()[:-1], edge.to_bytes() + bytes(32), edge.to_bytes()[:7]):
        with pytest.raises(ValueError, match="frontier"):
            Frontier.from_bytes(broken)


# --- proving from stored hashes ---------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(INDEX_AND_SIZE)
def test_an_inclusion_proof_from_tiles_is_that_of_the_rfc(case: tuple[int, int]) -> None:
    index, size = case
    assert list(inclusion_proof(index, size, read(plan_inclusion(index, size), size))) == path(index, 0, size)


@settings(max_examples=100, deadline=None)
@given(OLD_AND_NEW)
def test_a_consistency_proof_from_tiles_is_that_of_the_rfc(sizes: tuple[int, int]) -> None:
    old, new = sizes
    expected = subproof(old, 0, new, True) if old else []
    assert list(consistency_proof(old, new, read(plan_consistency(old, new), new))) == expected


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_the_frontier_is_found_again_from_tiles(size: int) -> None:
    assert frontier(size, read(plan_frontier(size), size)) == grown(size).new


def test_small_trees_are_proven_like_the_rfc_without_exception() -> None:
    for size in range(1, 70):
        hashes = stored(size)
        for index in range(size):
            assert list(inclusion_proof(index, size, hashes)) == path(index, 0, size)
        for old in range(1, size + 1):
            proof = consistency_proof(old, size, hashes)
            assert list(proof) == subproof(old, 0, size, True)
            verify_consistency(old, mth(0, old), size, mth(0, size), proof)


def test_a_plan_reads_few_hashes_whatever_the_size() -> None:
    for size in (10_000_000, 2**40 + 12345, MAX_SIZE):
        levels = (size.bit_length() + 7) // 8
        for index in (0, size // 3, size - 1):
            plan = plan_inclusion(index, size)
            assert plan == merged_ranges([plan])
            assert sum(end - start for _, start, end in plan) <= 510 * levels
            assert all(end << 8 * level <= size for level, _, end in plan)


def test_many_plans_become_one_query() -> None:
    plans = [plan_inclusion(index, 1000) for index in range(1000)]
    union = merged_ranges(plans)

    assert len(union) == 2
    assert union[0] == HashRange(0, 0, 1000)
    assert union[1].level == 1


def test_a_missing_hash_is_named() -> None:
    with pytest.raises(ProofError, match="level 1 and index 0 is missing"):
        inclusion_proof(300, 600, {(0, index): LEAVES[index] for index in range(600)})


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 5), (5, 5), (0, 2**63)])
def test_a_leaf_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        plan_inclusion(index, size)
    with pytest.raises(ProofError, match="no leaf"):
        verify_inclusion(index, size, LEAVES[0], [], LEAVES[0])


def test_a_tree_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="does not extend"):
        plan_consistency(6, 5)
    with pytest.raises(ProofError, match="does not extend"):
        verify_consistency(6, mth(0, 6), 5, mth(0, 5), [])


# --- verifying --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(INDEX_AND_SIZE, st.randoms(use_true_random=False))
def test_an_inclusion_proof_that_was_changed_is_refused(case: tuple[int, int], chance: random.Random) -> None:
    index, size = case
    proof, root, leaf = path(index, 0, size), mth(0, size), LEAVES[index]
    other = sha256(b"other").digest()
    verify_inclusion(index, size, leaf, proof, root)

    broken = [([*proof, other], leaf, root), (proof, other, root), (proof, leaf, other), (proof, leaf[:31], root)]
    if proof:
        at = chance.randrange(len(proof))
        broken += [([*proof[:at], other, *proof[at + 1 :]], leaf, root), (proof[:at] + proof[at + 1 :], leaf, root)]
        broken += [([*proof[:at], proof[at][:31], *proof[at + 1 :]], leaf, root)]
    for changed, its_leaf, its_root in broken:
        with pytest.raises(ProofError):
            verify_inclusion(index, size, its_leaf, changed, its_root)
    for wrong_index in {index ^ 1, index + 1, 0} - {index}:
        with pytest.raises(ProofError):
            verify_inclusion(wrong_index, size, leaf, proof, root)


@settings(max_examples=60, deadline=None)
@given(OLD_AND_NEW, st.randoms(use_true_random=False))
def test_a_consistency_proof_that_was_changed_is_refused(sizes: tuple[int, int], chance: random.Random) -> None:
    old, new = sizes
    proof = subproof(old, 0, new, True) if old else []
    other = sha256(b"other").digest()
    verify_consistency(old, mth(0, old), new, mth(0, new), proof)

    broken = [([*proof, other], mth(0, old), mth(0, new)), (proof, other, mth(0, new))]
    if old:
        broken.append((proof, mth(0, old), other))
    if proof:
        at = chance.randrange(len(proof))
        broken.append(([*proof[:at], other, *proof[at + 1 :]], mth(0, old), mth(0, new)))
        broken.append((proof[:at] + proof[at + 1 :], mth(0, old), mth(0, new)))
    for changed, old_root, new_root in broken:
        with pytest.raises(ProofError):
            verify_consistency(old, old_root, new, new_root, changed)


# --- beside a library that is not ours --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for entry in ENTRIES[:600]:
        tree.append_entry(entry)
    return tree


@settings(max_examples=60, deadline=None)
@given(size=st.one_of(st.sampled_from([n for n in BOUNDARIES if n <= 600]), st.integers(1, 600)), data=st.data())
def test_pymerkle_has_the_same_roots_and_inclusion_proofs(peer: InmemoryTree, size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root, included = peer.get_root(size), peer.prove_inclusion(index + 1, size)

    assert root == grown(size).new.root()
    assert tuple(included.path[1:]) == inclusion_proof(index, size, stored(size))
    verify_inclusion(index, size, included.path[0], included.path[1:], root)
    peer_verify_inclusion(LEAVES[index], root, included, index=index + 1, size=size)
