"""`afdp login` and what follows: a real provider; a token kept for its owner alone, renewed, shown to one notary."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.client.token import bearer_token
from afdp.errors import InvalidArgument, Unauthenticated, Unavailable
from afdp.login.provider import Tokens
from afdp.login.store import Login, LoginFile
from tests.oidc_provider import OidcProvider, running_oidc_provider

NOTARY = "https://notary.example"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def provider(tool: Callable[[str], Path]) -> AsyncIterator[OidcProvider]:
    async with running_oidc_provider(tool) as running:
        yield running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("AFDP_TOKEN", "AFDP_TOKEN_FILE", "AFDP_URL", "AFDP_ISSUER", "AFDP_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "afdp" / "logins"


def afdp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def log_in(provider: OidcProvider, tmp_path: Path, **options: Any) -> Result:
    secret = tmp_path / "secret"
    secret.write_text("a secret\n")
    given = {"issuer": provider.issuer, "client-id": "pipeline", "client-secret-file": secret, "url": NOTARY, **options}
    return afdp("login", *(part for name, value in given.items() for part in (f"--{name}", value)))


def test_a_client_logs_in_and_its_token_is_kept_for_its_owner_alone(
    provider: OidcProvider, tmp_path: Path, folder: Path
) -> None:
    done = log_in(provider, tmp_path)

    assert done.exit_code == 0, done.output
    assert f"Logged in for {NOTARY}" in done.output
    (file,) = folder.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = json.loads(file.read_bytes())
    assert "a secret" not in file.read_text()
    assert kept["tokens"]["access_token"] not in done.output
    assert (kept["url"], kept["issuer"]) == (NOTARY, provider.issuer)


def test_the_token_is_shown_to_the_notary_that_it_is_for_and_no_other(provider: OidcProvider, tmp_path: Path) -> None:
    log_in(provider, tmp_path)

    token = bearer_token(None, NOTARY)
    assert token is not None
    assert token.header().startswith("Bearer ey")
    assert bearer_token(None, "https://other.example") is None


def test_whoami_says_who_and_logout_forgets(provider: OidcProvider, tmp_path: Path, folder: Path) -> None:
    assert afdp("whoami", "--offline", "--url", NOTARY).exit_code == 1
    log_in(provider, tmp_path)

    shown = json.loads(afdp("whoami", "--offline", "--url", NOTARY, "--json").output)
    assert (shown["issuer"], shown["client_id"], shown["token"]["iss"]) == (
        provider.issuer,
        "pipeline",
        provider.issuer,
    )
    assert afdp("logout", "--url", NOTARY).exit_code == 0
    assert not list(folder.glob("*.json"))
    assert afdp("logout", "--url", NOTARY).exit_code == 0


def test_a_token_that_ends_soon_is_renewed_and_the_new_one_is_kept(provider: OidcProvider, tmp_path: Path) -> None:
    log_in(provider, tmp_path)
    file = LoginFile(NOTARY)
    kept = file.read()
    assert kept is not None
    by_secret = Login(**{name: getattr(kept, name) for name in Login.__slots__} | {"tokens": Tokens("old", 0)})
    by_refresh = Login(NOTARY, provider.issuer, "pipeline", "openid", Tokens("old", 0, "a refresh token"))
    for ended in (by_secret, by_refresh):
        file.write(ended)

        assert LoginFile(NOTARY)() != "old"
        renewed = file.read()
        assert renewed is not None
        assert not renewed.due


def test_a_login_that_has_ended_says_so(provider: OidcProvider) -> None:
    LoginFile(NOTARY).write(Login(NOTARY, provider.issuer, "pipeline", "", Tokens("old", 0)))

    with pytest.raises(Unauthenticated, match="afdp login"):
        LoginFile(NOTARY)()
    assert afdp("whoami", "--offline", "--url", NOTARY).exit_code == 1


def test_a_kept_token_that_others_can_read_is_not_used(provider: OidcProvider, tmp_path: Path, folder: Path) -> None:
    log_in(provider, tmp_path)
    (file,) = folder.glob("*.json")
    file.chmod(0o644)

    with pytest.raises(InvalidArgument, match="read by others"):
        LoginFile(NOTARY)()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"url": 1}', b"\xff"])
def test_a_damaged_file_says_what_to_do(provider: OidcProvider, tmp_path: Path, folder: Path, damage: bytes) -> None:
    log_in(provider, tmp_path)
    (file,) = folder.glob("*.json")
    file.write_bytes(damage)

    done = afdp("whoami", "--offline", "--url", NOTARY)

    assert done.exit_code == 2
    assert "do `afdp login` again" in done.output


def test_secrets_go_nowhere_in_the_clear(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log_in(provider, tmp_path, url="http://notary.example").exit_code == 2
    assert log_in(provider, tmp_path, issuer="http://issuer.example").exit_code == 2
    monkeypatch.setenv("AFDP_TOKEN", "a.b.c")
    done = afdp("keys", "list", "--url", "http://192.0.2.1")
    assert done.exit_code == 2
    assert "must not be sent in the clear" in done.output


def test_an_issuer_that_is_not_there_or_another_is_told_of(provider: OidcProvider, tmp_path: Path) -> None:
    away = log_in(provider, tmp_path, issuer="http://127.0.0.1:1")
    assert away.exit_code == 3
    other = log_in(provider, tmp_path, issuer=f"{provider.issuer}/")
    assert other.exit_code == 2
    assert "as the provider itself writes it" in other.output


def test_what_is_kept_fails_softly_while_the_provider_is_away() -> None:
    LoginFile(NOTARY).write(Login(NOTARY, "http://127.0.0.1:1", "a", "", Tokens("old", 0, "refresh")))

    with pytest.raises(Unavailable):
        LoginFile(NOTARY)()


# --- other ways to give a token ---------------------------------------------------------------------------------------


def test_a_tokens_file_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    monkeypatch.setenv("AFDP_TOKEN_FILE", str(file))
    token = bearer_token(None)
    assert token is not None
    assert token.header() == "Bearer one"

    new = tmp_path / "new"
    new.write_text("two")
    new.replace(file)
    assert token.header() == "Bearer two"
    file.unlink()
    with pytest.raises(InvalidArgument, match="cannot be read"):
        token.header()


def test_the_nearest_token_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_TOKEN", "environment")

    assert bearer_token(None).header() == "Bearer environment"  # type: ignore[union-attr]
    assert bearer_token("given").header() == "Bearer given"  # type: ignore[union-attr]
    assert bearer_token(lambda: "made").header() == "Bearer made"  # type: ignore[union-attr]
    for wrong in ("two words", "a\r\nx-other: b", "", "größe"):
        with pytest.raises(InvalidArgument):
            bearer_token(wrong).header()  # type: ignore[union-attr]


def test_who_has_no_home_has_no_login_and_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", no_home)

    assert bearer_token(None, NOTARY) is None
    done = afdp("whoami", "--offline", "--url", NOTARY)
    assert done.exit_code == 2
    assert "set HOME" in done.output
