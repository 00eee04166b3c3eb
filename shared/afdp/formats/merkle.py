"""The Merkle tree of RFC 6962 and RFC 9162: growing it from its right edge, proving, and verifying.

A node is named by its height (0 for a leaf) and its index among the nodes of that height, from the left. What a log
stores are *tile hashes* (C2SP tlog-tiles): level 0 holds the leaf hashes, level L the roots of all complete subtrees of
256^L leaves. Every other node follows from at most 256 of them. Hashes are SHA-256, 32 bytes.

Growing needs only the frontier, so it costs O(new leaves + log size) and reads no older node:

    >>> extension = extend(Frontier.empty(), [leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")])
    >>> proof = extension.inclusion_proof(1)
    >>> verify_inclusion(1, 3, leaf_hash(b"b"), proof, extension.new.root())
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

HASH_SIZE = 32
EMPTY_ROOT = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # SHA-256 of nothing
"""The root of a tree without leaves (RFC 9162, section 2.1.1)."""

TILE_HEIGHT = 8
MAX_SIZE = 2**63 - 1

Proof = Sequence[bytes]


class ProofError(ValueError):
    """A proof, or what a proof is to be made from, does not hold. The message says why."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a log entry (RFC 9162, section 2.1.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 9162, section 2.1.1)."""
    return sha256(b"\x01" + left + right).digest()


# --- growing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree: the roots of the complete subtrees it is made of, largest first.

    Attributes:
        size: the number of leaves.
        hashes: one hash for each bit that is set in `size`, from the highest.
    """

    size: int
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise ValueError(f"a tree size must be between 0 and 2^63-1, not {self.size}")
        if len(self.hashes) != self.size.bit_count():
            raise ValueError(
                f"a tree of size {self.size} has {self.size.bit_count()} frontier hashes, not {len(self.hashes)}"
            )
        if any(len(each) != HASH_SIZE for each in self.hashes):
            raise ValueError("a frontier hash must have 32 bytes")

    @classmethod
    def empty(cls) -> Frontier:
        """The frontier of the tree without leaves."""
        return cls(0, ())

    def root(self) -> bytes:
        """The root hash of the tree."""
        return _bagged(self.hashes) if self.hashes else EMPTY_ROOT

    def to_bytes(self) -> bytes:
        """The size as 8 bytes, big-endian, then the hashes: at most 8 + 63 · 32 bytes."""
        return self.size.to_bytes(8, "big") + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Frontier:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: the length does not fit the size.
        """
        if len(data) < 8 or (len(data) - 8) % HASH_SIZE:
            raise ValueError(f"a frontier of {len(data)} bytes is not a size and hashes of 32 bytes")
        hashes = tuple(data[at : at + HASH_SIZE] for at in range(8, len(data), HASH_SIZE))
        return cls(int.from_bytes(data[:8], "big"), hashes)


@dataclass(frozen=True, slots=True)
class TileHash:
    """A hash to be stored: the root of the complete subtree of 256^level leaves with this index."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Extension:
    """A tree that has grown: from `old` to `new`, with every node that the growth has touched.

    Attributes:
        old: the frontier before.
        new: the frontier after.
        completed: the tile hashes of level 1 and above that the new leaves completed, lowest level first. Those of
            level 0 are the new leaf hashes themselves, from index `old.size` on.
    """

    old: Frontier
    new: Frontier
    completed: tuple[TileHash, ...]
    _levels: tuple[_Level, ...]

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """The inclusion proof of a new leaf in the new tree (RFC 9162, section 2.1.3.1), from its sibling upwards.

        Raises:
            ValueError: `index` is not that of a new leaf.
        """
        if not self.old.size <= index < self.new.size:
            raise ValueError(f"leaf {index} is not one of the new leaves {self.old.size} to {self.new.size - 1}")
        return tuple(map(self._hash, _inclusion_nodes(index, self.new.size)))

    def consistency_proof(self) -> tuple[bytes, ...]:
        """The consistency proof from the old tree to the new one (RFC 9162, section 2.1.4.1); empty from size 0."""
        return tuple(map(self._hash, _consistency_nodes(self.old.size, self.new.size)))

    def _hash(self, node: _Node) -> bytes:
        height, index = node
        if (index + 1) << height > self.new.size:  # the incomplete subtree at the right: the frontier's tail
            below = (self.new.size & ((1 << height) - 1)).bit_count()
            return _bagged(self.new.hashes[-below:])
        level = self._levels[height]
        return level.hashes[index - level.start]


def extend(frontier: Frontier, leaf_hashes: Sequence[bytes]) -> Extension:
    """The tree with these leaves added at its right.

    Raises:
        ValueError: a leaf hash has not 32 bytes, or the tree would be larger than 2^63−1.
    """
    if any(len(each) != HASH_SIZE for each in leaf_hashes):
        raise ValueError("a leaf hash must have 32 bytes")
    size = frontier.size + len(leaf_hashes)
    edge = iter(reversed(frontier.hashes))
    levels: list[_Level] = []
    completed: list[TileHash] = []
    fresh = list(leaf_hashes)
    for height in range(size.bit_length()):
        start = frontier.size >> height
        if height and height % TILE_HEIGHT == 0:
            tile_level = height // TILE_HEIGHT
            completed += [TileHash(tile_level, index, each) for index, each in enumerate(fresh, start)]
        if start & 1:  # the old tree has a complete subtree here, the left sibling of the first new node
            start -= 1
            fresh.insert(0, next(edge))
        levels.append(_Level(start, fresh))
        fresh = [sha256(b"\x01" + fresh[at] + fresh[at + 1]).digest() for at in range(0, len(fresh) - 1, 2)]
    hashes = tuple(level.hashes[-1] for height, level in reversed(list(enumerate(levels))) if size >> height & 1)
    return Extension(frontier, Frontier(size, hashes), tuple(completed), tuple(levels))


class _Level(NamedTuple):
    """Neighbouring complete nodes of one height: the index of the first, which is even, and their hashes."""

    start: int
    hashes: list[bytes]


def _bagged(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbouring complete subtrees, largest first."""
    root = hashes[-1]
    for each in reversed(hashes[:-1]):
        root = node_hash(each, root)
    return root


# --- proving from stored hashes ---------------------------------------------------------------------------------------


class HashRange(NamedTuple):
    """Stored tile hashes of one level: from index `start` up to, not including, `end`."""

    level: int
    start: int
    end: int


TileHashes = Mapping[tuple[int, int], bytes]
"""Stored hashes by level and index."""


def plan_inclusion(index: int, size: int) -> list[HashRange]:
    """The stored hashes that `inclusion_proof` needs: sorted, none twice, at most 510 for each level of tiles.

    Raises:
        ValueError: there is no such leaf in a tree of this size.
    """
    return merged_ranges(_stored(node, size) for node in _inclusion_nodes(index, size))


def inclusion_proof(index: int, size: int, hashes: TileHashes) -> tuple[bytes, ...]:
    """The inclusion proof of a leaf (RFC 9162, section 2.1.3.1), computed from the hashes that were planned.

    Raises:
        ValueError: there is no such leaf in a tree of this size.
        ProofError: a hash is missing.
    """
    return tuple(_computed(node, size, hashes) for node in _inclusion_nodes(index, size))


def plan_consistency(old: int, new: int) -> list[HashRange]:
    """The stored hashes that `consistency_proof` needs.

    Raises:
        ValueError: `old` is larger than `new`.
    """
    return merged_ranges(_stored(node, new) for node in _consistency_nodes(old, new))


def consistency_proof(old: int, new: int, hashes: TileHashes) -> tuple[bytes, ...]:
    """The consistency proof between two sizes (RFC 9162, section 2.1.4.1); empty where they are equal or `old` is 0.

    Raises:
        ValueError: `old` is larger than `new`.
        ProofError: a hash is missing.
    """
    return tuple(_computed(node, new, hashes) for node in _consistency_nodes(old, new))


def plan_frontier(size: int) -> list[HashRange]:
    """The stored hashes that `frontier` needs."""
    return merged_ranges(_stored(node, size) for node in _complete_nodes(0, size))


def frontier(size: int, hashes: TileHashes) -> Frontier:
    """The right edge of the tree at a size, recomputed from stored hashes.

    Raises:
        ProofError: a hash is missing.
    """
    return Frontier(size, tuple(_computed(node, size, hashes) for node in _complete_nodes(0, size)))


def merged_ranges(ranges: Iterable[Iterable[HashRange]]) -> list[HashRange]:
    """The union of ranges, sorted, with neighbours joined: one query for many proofs."""
    union: list[HashRange] = []
    for each in sorted(each for some in ranges for each in some):
        if union and union[-1].level == each.level and each.start <= union[-1].end:
            union[-1] = HashRange(each.level, union[-1].start, max(union[-1].end, each.end))
        else:
            union.append(each)
    return union


_Node = tuple[int, int]  # height and index; a plain tuple, for it is made for each hash of each proof


def _inclusion_nodes(index: int, size: int) -> list[_Node]:
    """The nodes of an inclusion proof, from the leaf upwards; at most one of them is incomplete at its right."""
    if not 0 <= index < size <= MAX_SIZE:
        raise ValueError(f"there is no leaf {index} in a tree of size {size}")
    return _siblings((0, index), size)


def _consistency_nodes(old: int, new: int) -> list[_Node]:
    """The nodes of a consistency proof: the way up from the old tree's last complete subtree."""
    if not 0 <= old <= new <= MAX_SIZE:
        raise ValueError(f"a tree of size {new} does not extend one of size {old}")
    if old in (0, new):
        return []
    height = (old & -old).bit_length() - 1
    last = (old - 1) >> height
    siblings = _siblings((height, last), new)
    return siblings if last == 0 else [(height, last), *siblings]  # at a power of two it is the old root itself


def _siblings(node: _Node, size: int) -> list[_Node]:
    """The siblings on the way from a complete node up to the root."""
    height, index = node
    last = (size - 1) >> height  # the right edge's node at this height
    fork = (index ^ last).bit_length()
    # Under the fork both siblings exist. Above it the way runs along the right edge, where only left ones do.
    inner = [(height + up, (index >> up) ^ 1) for up in range(fork)]
    edge = [(height + up, (index >> up) - 1) for up in range(fork, index.bit_length()) if index >> up & 1]
    return inner + edge


def _complete_nodes(start: int, end: int) -> list[_Node]:
    """The complete subtrees that make up the leaves from `start` to `end`; `start` begins a subtree that holds them."""
    nodes = []
    while start < end:
        height = (end - start).bit_length() - 1
        nodes.append((height, start >> height))
        start += 1 << height
    return nodes


def _parts(node: _Node, size: int) -> list[_Node]:
    """The node, or the complete subtrees it is made of where the tree's end cuts it."""
    height, index = node
    return _complete_nodes(index << height, min((index + 1) << height, size))


def _stored(node: _Node, size: int) -> Iterator[HashRange]:
    for height, index in _parts(node, size):
        level, over = divmod(height, TILE_HEIGHT)
        yield HashRange(level, index << over, (index + 1) << over)


def _computed(node: _Node, size: int, hashes: TileHashes) -> bytes:
    return _bagged([_subtree_root(part, hashes) for part in _parts(node, size)])


def _subtree_root(node: _Node, hashes: TileHashes) -> bytes:
    height, at = node
    level, over = divmod(height, TILE_HEIGHT)
    try:
        row = [hashes[level, index] for index in range(at << over, (at + 1) << over)]
    except KeyError as error:
        raise ProofError("the stored hash of level {} and index {} is missing".format(*error.args[0])) from error
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


# --- verifying --------------------------------------------------------------------------------------------------------


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Proof, root: bytes) -> None:
    """Checks that the leaf with this hash stands at `index` of the tree with this size and root.

    Source: RFC 9162, section 2.1.3.2.

    Raises:
        ProofError: it is not proven; a proof with a hash too many or too few proves nothing.
    """
    if root_from_inclusion_proof(index, size, leaf, proof) != root:
        raise ProofError("the inclusion proof leads to another root hash")


def root_from_inclusion_proof(index: int, size: int, leaf: bytes, proof: Proof) -> bytes:
    """The root hash that an inclusion proof leads to.

    Raises:
        ProofError: the proof does not have the shape that `index` and `size` ask for.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"there is no leaf {index} in a tree of size {size}")
    fork = (index ^ (size - 1)).bit_length()
    _check_shape(proof, fork + (index >> fork).bit_count(), "inclusion")
    _check_hashes((leaf,), "leaf")
    result, at, last = leaf, index, size - 1
    for each in proof:
        while at == last and not at & 1:  # on the right edge a left child has no sibling: up to the next that has
            at, last = at >> 1, last >> 1
        result = sha256(b"\x01" + each + result if at & 1 else b"\x01" + result + each).digest()
        at, last = at >> 1, last >> 1
    return result


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Proof) -> None:
    """Checks that the new tree begins with the old one.

    Source: RFC 9162, section 2.1.4.2. From size 0 every tree follows, with an empty proof.

    Raises:
        ProofError: it is not proven; a proof with a hash too many or too few proves nothing.
    """
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise ProofError(f"a tree of size {new_size} does not extend one of size {old_size}")
    _check_hashes((old_root, new_root), "root")
    nodes = _consistency_nodes(old_size, new_size)
    _check_shape(proof, len(nodes), "consistency")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ProofError("the old root hash is not that of the empty tree")
    if old_size == new_size and old_root != new_root:
        raise ProofError("two root hashes for one tree size")
    if nodes:
        _verify_growth(old_size, old_root, new_root, nodes, proof)


def _verify_growth(old_size: int, old_root: bytes, new_root: bytes, nodes: list[_Node], proof: Proof) -> None:
    steps = list(zip(nodes, proof, strict=True))
    height = (old_size & -old_size).bit_length() - 1
    last = (old_size - 1) >> height
    if last == 0:
        old = new = old_root
    else:
        old = new = steps.pop(0)[1]
    for (at, sibling), each in steps:
        if sibling < (old_size - 1) >> at:  # a left sibling is in both trees, a right one in the new tree only
            old, new = node_hash(each, old), node_hash(each, new)
        else:
            new = node_hash(new, each)
    if old != old_root:
        raise ProofError("the consistency proof leads to another old root hash")
    if new != new_root:
        raise ProofError("the consistency proof leads to another new root hash")


def _check_shape(proof: Proof, expected: int, kind: str) -> None:
    if len(proof) != expected:
        raise ProofError(f"the {kind} proof has {len(proof)} hashes, {expected} are needed")
    _check_hashes(proof, "proof")


def _check_hashes(hashes: Iterable[bytes], kind: str) -> None:
    if any(len(each) != HASH_SIZE for each in hashes):
        raise ProofError(f"a {kind} hash has not 32 bytes")
