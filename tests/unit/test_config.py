from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from afdp.config import ServiceSettings, SettingsError, load, shown


class Settings(ServiceSettings):
    port: int = Field(50052, ge=0)
    metrics_port: int = 9091
    password: SecretStr = SecretStr("hunter2")


def test_every_value_has_a_default() -> None:
    assert load(Settings).port == 50052


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "signer.yaml"
    file.write_text("port: 1\nlog_level: DEBUG\n")
    monkeypatch.setenv("AFDP_CONFIG", str(file))
    monkeypatch.setenv("AFDP_PORT", "2")

    assert (load(Settings).port, load(Settings).log_level) == (2, "DEBUG")


def test_an_unknown_name_is_an_error_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_PROT", "1")
    with pytest.raises(SettingsError, match="AFDP_PROT: no such setting"):
        load(Settings)


def test_an_unknown_name_is_an_error_in_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "signer.yaml"
    file.write_text("prot: 1\n")
    monkeypatch.setenv("AFDP_CONFIG", str(file))
    with pytest.raises(SettingsError, match="AFDP_PROT"):
        load(Settings)


def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_PORT", "s3cret")
    with pytest.raises(SettingsError, match="AFDP_PORT") as wrong:
        load(Settings)
    assert "s3cret" not in str(wrong.value)


@pytest.mark.parametrize("content", ["port: [", "- just\n- a list\n"])
def test_a_file_that_is_no_mapping_is_an_error(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "signer.yaml"
    file.write_text(content)
    monkeypatch.setenv("AFDP_CONFIG", str(file))
    with pytest.raises(SettingsError, match="AFDP_CONFIG"):
        load(Settings)


def test_a_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_CONFIG", "/nonexistent/afdp.yaml")
    with pytest.raises(SettingsError, match="is not a file"):
        load(Settings)


def test_secrets_are_masked_when_shown() -> None:
    assert "hunter2" not in str(shown(load(Settings)))
