from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.tiles import (
    TileError,
    TileRef,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    entries_path,
    exists,
    levels_at,
    parse_tile_path,
    partial_width,
    tile_path,
    tiles_at,
    width_at,
)

REFS = st.builds(TileRef, st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 256**7 - 1), st.integers(1, 256))


@pytest.mark.parametrize(
    ("path", "ref"),
    [
        ("tile/0/x001/x234/067", TileRef(0, 1234067)),
        ("tile/0/000", TileRef(0, 0)),
        ("tile/63/999", TileRef(63, 999)),
        ("tile/1/x001/000", TileRef(1, 1000)),
        ("tile/10/x001/002.p/255", TileRef(10, 1002, 255)),
        ("tile/entries/x273/123.p/1", TileRef(None, 273123, 1)),
    ],
)
def test_paths_are_those_of_the_specification(path: str, ref: TileRef) -> None:
    assert parse_tile_path(path) == ref
    assert ref.path() == path


def test_path_functions_name_tiles_and_bundles() -> None:
    assert tile_path(2, 7, 16) == "tile/2/007.p/16"
    assert entries_path(1234067) == "tile/entries/x001/x234/067"


@settings(max_examples=200, deadline=None)
@given(REFS)
def test_a_tile_is_found_again_from_its_path(ref: TileRef) -> None:
    assert parse_tile_path(ref.path()) == ref


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/tile/0/000",
        "tile/0/000/",
        "tile/64/000",
        "tile/00/000",
        "tile/01/000",
        "tile/-1/000",
        "tile/100/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/x000/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/x001/x002",
        "tile/0/X001/002",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/300",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/2",
        "tile/0/000.p/+1",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/٠/000",
        "tile/Entries/000",
        "tile/data/000",
        "tile//000",
        "tile/0/../000",
        "tile/0/%30%30%30",
        "checkpoint",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/0/" + "x999/" * 5 + "999",
        "tile/0/" + "x999/" * 1000 + "999",
    ],
)
def test_any_other_spelling_is_refused(path: str) -> None:
    with pytest.raises(TileError):
        parse_tile_path(path)


@pytest.mark.parametrize(("level", "index", "width"), [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_a_tile_out_of_range_does_not_exist(level: int, index: int, width: int) -> None:
    with pytest.raises(TileError):
        tile_path(level, index, width)


def test_the_tiles_of_a_tree_are_those_of_the_example_in_the_specification() -> None:
    assert levels_at(70_000) == 3
    level0, level1, level2 = (list(tiles_at(70_000, level)) for level in range(3))

    assert (len(level0), level0[-1]) == (274, TileRef(0, 273, 112))
    assert level1 == [TileRef(1, 0), TileRef(1, 1, 17)]
    assert level2 == [TileRef(2, 0, 1)]
    assert list(tiles_at(256, 0)) == [TileRef(0, 0)]
    assert list(tiles_at(256, 1)) == [TileRef(1, 0, 1)]
    assert list(tiles_at(300, None)) == [TileRef(None, 0), TileRef(None, 1, 44)]
    assert (levels_at(0), list(tiles_at(0))) == (0, [])
    with pytest.raises(TileError):
        levels_at(-1)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 5))
def test_widths_agree_with_the_formula_of_the_specification(size: int, level: int) -> None:
    partial = size // 256**level % 256
    last = size // 256**level // 256

    assert partial_width(level, size) == partial
    assert width_at(level, last, size) == partial
    assert width_at(level, last + 1, size) == 0
    if last:
        assert width_at(level, last - 1, size) == 256


def test_a_partial_tile_may_be_served_until_it_is_full_and_after() -> None:
    assert exists(TileRef(0, 0, 5), 5)
    assert exists(TileRef(0, 0, 5), 300)
    assert exists(TileRef(None, 1, 44), 300)
    assert not exists(TileRef(0, 0, 6), 5)
    assert not exists(TileRef(0, 1), 300)
    assert not exists(TileRef(1, 0, 2), 511)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_a_bundle_gives_its_entries_back(entries: list[bytes]) -> None:
    assert list(decode_bundle(encode_bundle(entries), len(entries))) == entries


def test_a_bundle_is_laid_out_as_specified() -> None:
    assert encode_bundle([b"", b"ab", b"x" * 65_535]) == b"\0\0" + b"\0\2ab" + b"\xff\xff" + b"x" * 65_535


def test_an_entry_that_is_too_long_is_refused() -> None:
    with pytest.raises(TileError, match="65535"):
        encode_bundle([b"x" * 65_536])


@pytest.mark.parametrize(
    ("data", "width"), [(b"\0", 1), (b"\0\1", 1), (b"\0\2a", 1), (b"\0\1a", 2), (b"\0\1a\0\1b", 1), (b"", 1)]
)
def test_a_bundle_that_is_cut_or_of_another_width_is_refused(data: bytes, width: int) -> None:
    with pytest.raises(TileError):
        decode_bundle(data, width)


def test_a_tile_is_its_hashes_and_nothing_else() -> None:
    hashes = (b"a" * 32, b"b" * 32)

    assert decode_tile(encode_tile(hashes), 2) == hashes
    for data, width in ((encode_tile(hashes), 1), (encode_tile(hashes)[:-1], 2)):
        with pytest.raises(TileError, match="bytes"):
            decode_tile(data, width)
