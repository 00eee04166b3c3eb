"""The commands of docs/search.md, executed as they stand."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.conftest import blocks


def test_what_is_found_is_exported_and_verified_offline(newcomer: Callable[[str], str]) -> None:
    newcomer("afdp sign LICENSE --event-type ai.model.deployed --actor human:alice")
    find, export = blocks("docs/search.md", "sh")

    told = newcomer(find)
    assert "ai.model.deployed  by human:alice  logged" in told
    assert '"actor_id": ' in told  # others, too, notarise here: the oldest of all are theirs
    assert " verified" in newcomer(export)
    assert "NOT" not in newcomer("afdp verify deployed.ndjson --trust trust")
    assert newcomer("head -1 all.csv").startswith('"receipt_id","notarized_at","state","event_type"')
