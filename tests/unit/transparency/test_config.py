"""The settings: names, defaults and what is refused."""

import pytest

from afdp.config import SettingsError, load
from afdp.transparency.config import TransparencySettings


def test_the_defaults_are_those_of_the_embedded_stack() -> None:
    settings = load(TransparencySettings)

    assert (settings.port, settings.http_port, settings.metrics_port) == (50053, 8053, 9092)
    assert (settings.log_origin, settings.base_url) == ("notary.localhost", "http://127.0.0.1:3030/log")
    assert settings.signer_address == "127.0.0.1:50052"


@pytest.mark.parametrize(
    "origin",
    ["", "Notary.example", "notary.example/log", "notary.example:443", "https://a.b", "10.0.0.1", "a b", "x - 1"],
)
def test_an_origin_that_verifiers_would_not_find_again_is_refused(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("AFDP_LOG_ORIGIN", origin)

    with pytest.raises(SettingsError, match=r"AFDP_LOG_ORIGIN: .*log origin"):
        load(TransparencySettings)


@pytest.mark.parametrize("url", ["notary.example", "ftp://notary.example", ""])
def test_a_base_url_must_be_one_of_the_web(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AFDP_LOG_BASE_URL", url)

    with pytest.raises(SettingsError, match="AFDP_LOG_BASE_URL"):
        load(TransparencySettings)


def test_a_wrong_database_url_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_DATABASE_URL", "mysql://afdp:hunter2@db/afdp")

    with pytest.raises(SettingsError, match="AFDP_DATABASE_URL") as refused:
        load(TransparencySettings)

    assert "hunter2" not in str(refused.value)
