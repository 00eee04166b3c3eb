from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from afdp.config import ServiceSettings, SettingsError, load, shown
from afdp.secrets import SecretError, renew


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


def kept(folder: Path, content: str | bytes, mode: int = 0o600) -> Path:
    file = folder / "secret"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(mode)
    return file


def test_a_secret_may_be_in_a_file_which_the_environment_or_the_file_of_settings_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = kept(tmp_path, "s3cret\n")
    monkeypatch.setenv("AFDP_PASSWORD_FILE", str(secret))
    assert load(Settings).password.get_secret_value() == "s3cret"
    assert "s3cret" not in str(shown(load(Settings)))

    monkeypatch.delenv("AFDP_PASSWORD_FILE")
    file = tmp_path / "settings.yaml"
    file.write_text(f"password_file: {secret}\n")
    monkeypatch.setenv("AFDP_CONFIG", str(file))
    assert load(Settings).password.get_secret_value() == "s3cret"
    monkeypatch.setenv("AFDP_PASSWORD", "from the environment")
    assert load(Settings).password.get_secret_value() == "from the environment"


def test_a_secret_that_is_replaced_in_its_file_is_had_by_looking_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AFDP_PASSWORD_FILE", str(kept(tmp_path, "one")))
    password = load(Settings).password
    kept(tmp_path, "two")

    renew(password)
    assert password.get_secret_value() == "two"
    (tmp_path / "secret").unlink()
    with pytest.raises(SecretError, match="AFDP_PASSWORD_FILE"):
        renew(password)
    assert password.get_secret_value() == "two"


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        ("hunter3", 0o644, "can be read by everybody"),
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        (b"hunter3\xff", 0o600, "is not UTF-8"),
        ("hunter3" * 10_000, 0o600, "is over 65536 bytes"),
    ],
)
def test_a_file_that_will_not_do_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | bytes, mode: int, sentence: str
) -> None:
    monkeypatch.setenv("AFDP_PASSWORD_FILE", str(kept(tmp_path, content, mode)))
    with pytest.raises(SettingsError, match=f"^AFDP_PASSWORD_FILE: .*{sentence}") as wrong:
        load(Settings)
    assert "hunter3" not in str(wrong.value)


def test_a_secret_is_given_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFDP_PASSWORD_FILE", str(kept(tmp_path, "hunter3")))
    monkeypatch.setenv("AFDP_PASSWORD", "hunter4")
    with pytest.raises(SettingsError, match="AFDP_PASSWORD: is given twice, also as AFDP_PASSWORD_FILE") as wrong:
        load(Settings)
    assert "hunter" not in str(wrong.value)


def test_only_secrets_may_be_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFDP_HOST_FILE", str(kept(tmp_path, "127.0.0.1")))
    with pytest.raises(SettingsError, match="AFDP_HOST_FILE: no such setting"):
        load(Settings)


def test_a_service_without_vault_takes_no_secret_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_PASSWORD", "vault:kv/hunter3#hunter4")
    with pytest.raises(SettingsError, match="AFDP_PASSWORD: this service takes no secrets from Vault") as wrong:
        load(Settings)
    assert "hunter" not in str(wrong.value)
