import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from afdp.client import NotaryClient
from afdp.config import ServiceSettings, SettingsError, load, shown
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.metadata.config import MetadataSettings
from afdp.notary.config import NotarySettings
from afdp.rpc import open_channel
from afdp.secrets import SecretError, renew
from afdp.signer.config import SignerSettings
from afdp.transparency.config import TransparencySettings


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


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "notary.example.org", "127.0.0.1.example.org"])
def test_plain_text_is_refused_where_other_machines_reach(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_HOST", host)
    with pytest.raises(
        SettingsError, match=f"AFDP_HOST is {host}, which other machines reach.*set AFDP_TLS to required"
    ):
        load(Settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_plain_text_is_for_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_HOST", host)
    assert load(Settings).tls_paths is None


def test_tls_needs_its_files_and_files_need_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_TLS_CERT", "/tls/cert.pem")
    with pytest.raises(SettingsError, match="AFDP_TLS_CERT would not be used: set AFDP_TLS to required"):
        load(Settings)
    monkeypatch.setenv("AFDP_TLS", "required")
    with pytest.raises(SettingsError, match="AFDP_TLS_KEY and AFDP_TLS_CA must name a file"):
        load(Settings)
    monkeypatch.setenv("AFDP_TLS_NAMES", '{"singer": ["afdp-singer"]}')
    with pytest.raises(SettingsError, match="singer: no such service"):
        load(Settings)


@pytest.mark.parametrize("service", ["gateway", "notary", "signer", "transparency", "metadata"])
def test_a_service_that_is_not_told_how_open_it_is_does_not_start(service: str, tmp_path: Path) -> None:
    """Plain text, and everybody let in, have to be said."""
    environment = {"PATH": os.environ["PATH"], "AFDP_DATA_DIR": str(tmp_path / "data"), "AFDP_PORT": "0"}
    command = [sys.executable, "-m", f"afdp.{service}"]
    refused = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert refused.returncode == 2
    said = refused.stderr.splitlines()
    assert said[:1] == ["The settings are wrong:"]
    own = {"notary": ["AFDP_AUTH"], "metadata": ["AFDP_ENCRYPTION"]}.get(service, [])
    assert [line.split(" is not said")[0] for line in said[1:]] == ["AFDP_TLS", *own]
    assert not list(tmp_path.iterdir())


def test_what_is_said_is_enough_also_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_TLS", "off")
    assert [line.split(" is not said")[0] for line in load(NotarySettings).unsaid] == ["AFDP_AUTH"]
    (tmp_path / "afdp.yaml").write_text("auth: required\n")
    monkeypatch.setenv("AFDP_CONFIG", str(tmp_path / "afdp.yaml"))
    assert load(NotarySettings).unsaid == ()


AWAY = "postgresql://afdp:hunter2@db.example/afdp"
WITNESS = '[{"url": "http://witness.example", "vkey": "w+1+A"}]'
REKOR = '[{"name": "rekor", "url": "http://rekor.example", "public_key": "/k.pem"}]'
TSA = '[{"url": "http://tsa.example/", "ca_file": "/ca.pem"%s}]'


@pytest.mark.parametrize(
    ("schema", "setting", "value"),
    [
        (MetadataSettings, "DATABASE_URL", "postgresql:///afdp?service=elsewhere"),
        (MetadataSettings, "DATABASE_URL", AWAY),
        (MetadataSettings, "DATABASE_URL", f"{AWAY}?sslmode=require"),
        (MetadataSettings, "DATABASE_URL", "postgresql://afdp:hunter2@127.0.0.1,db.example:5433/afdp"),
        (MetadataSettings, "DATABASE_URL", "postgresql://afdp:hunter2@localhost/afdp?host=db.example"),
        (MetadataSettings, "DATABASE_URL", "postgresql://afdp:hunter2@db.example@127.0.0.1/afdp"),
        (MetadataSettings, "DATABASE_URL", "postgresql://afdp:hunter2@unix:%35432/afdp"),
        (MetadataSettings, "DATABASE_OWNER_URL", AWAY),
        (SignerSettings, "VAULT_ADDR", "http://vault.example:8200"),
        (TransparencySettings, "WITNESSES", WITNESS),
        (TransparencySettings, "EXTERNAL_LOGS", REKOR),
        (TransparencySettings, "LOG_MIRROR_ENDPOINT", "http://s3.example"),
        (SignerSettings, "TSA_EXTERNAL", TSA % ""),
        (SignerSettings, "TSA_EXTERNAL", TSA % ', "plain_http": true, "user": "u"'),
        (NotarySettings, "OTLP_ENDPOINT", "http://collector.example:4317"),
    ],
)
def test_plain_text_to_another_machine_is_refused_by_the_name_of_its_setting(
    schema: type[ServiceSettings], setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AFDP_{setting}", value)

    with pytest.raises(SettingsError, match=f"^AFDP_{setting}.*plain text stays on this one") as refused:
        load(schema)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("schema", "setting", "value"),
    [
        (MetadataSettings, "DATABASE_URL", f"{AWAY}?sslmode=verify-full&sslrootcert=/ca.pem"),
        (MetadataSettings, "DATABASE_URL", "postgresql://afdp@[::1]/afdp"),
        (MetadataSettings, "DATABASE_URL", "postgresql:///afdp?host=/run/postgresql"),
        (MetadataSettings, "DATABASE_URL", "postgresql:///afdp?host=::1"),
        (MetadataSettings, "DATABASE_URL", "postgresql://afdp@%2Ftmp/afdp"),
        (SignerSettings, "VAULT_ADDR", "https://vault.example:8200"),
        (SignerSettings, "TSA_EXTERNAL", TSA % ', "plain_http": true'),
        (NotarySettings, "OTLP_ENDPOINT", "https://collector.example:4317"),
    ],
)
def test_what_is_encrypted_or_stays_here_is_taken(
    schema: type[ServiceSettings], setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AFDP_{setting}", value)
    assert load(schema)


def test_a_notary_that_other_machines_reach_asks_who_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "0.0.0.0", "TLS": "required", "TLS_CERT": "c", "TLS_KEY": "k", "TLS_CA": "a"}.items():
        monkeypatch.setenv(f"AFDP_{name}", value)
    with pytest.raises(SettingsError, match="AFDP_AUTH off lets everybody in: set it to required"):
        load(NotarySettings)
    monkeypatch.setenv("AFDP_HOST", "127.0.0.1")
    assert load(NotarySettings).auth == "off"


@pytest.mark.parametrize("address", ["10.0.0.5:50052", "127.0.0.1:1,10.0.0.5:1", "signer:50052"])
async def test_plain_text_to_another_machine_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises((FailedPrecondition, InvalidArgument)):
        async with open_channel(address):
            pass
    with pytest.raises(FailedPrecondition, match=r"10\.0\.0\.5 is another machine"):
        NotaryClient("http://10.0.0.5:3030")
