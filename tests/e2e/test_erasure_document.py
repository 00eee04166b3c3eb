"""The commands of docs/erasure.md, executed as they stand."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.conftest import blocks


def test_who_is_erased_is_listed_and_erased_again_by_the_list_while_the_receipt_verifies(
    newcomer: Callable[[str], str],
) -> None:
    erase, verify, keep, replay = blocks("docs/erasure.md", "sh")

    told = newcomer(erase)
    assert "ERASED" in told
    assert "1 record  certificate " in told
    assert "VERIFIED" in newcomer(verify)
    newcomer(keep)
    assert "ERASED" in newcomer(replay)
