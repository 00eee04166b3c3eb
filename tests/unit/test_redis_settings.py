"""Which URLs of Redis are taken."""

from __future__ import annotations

import pytest

from afdp.config import SettingsError, load
from afdp.errors import FailedPrecondition
from afdp.notary.config import NotarySettings
from afdp.redis import FollowingRedis


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://:p@localhost/1",
        "redis://[::1]:6379",
        "unix:///run/redis.sock",
        "rediss://u:p@redis.example:6380/0",
    ],
)
def test_what_stays_here_may_be_plain_text_and_the_rest_is_tls(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AFDP_REDIS_URL", url)
    settings = load(NotarySettings)

    assert settings.redis_url is not None
    assert FollowingRedis.of(settings) is not None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:hunter2@redis:6379/0", "names another machine, and plain text stays on this one: use rediss://"),
        ("redis://:hunter2@10.0.0.1", "use rediss://"),
        ("redis://:hunter2@/0", "must be redis://HOST:PORT/DB"),
        ("http://:hunter2@redis", "must be redis://HOST:PORT/DB"),
        ("rediss://:hunter2@redis:x/0", "must be redis://HOST:PORT/DB"),
        ("rediss://:hunter2@redis/0?ssl_cert_reqs=none", "must not say how TLS is done"),
        ("rediss://:hunter2@redis/0?ssl%5Fcert%5Freqs=none", "must not say how TLS is done"),
        ("rediss://:hunter2@redis/0?db=1&ssl_min_version=770", "must not say how TLS is done"),
    ],
)
def test_others_are_refused_by_the_settings_name_and_without_the_password(
    monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    monkeypatch.setenv("AFDP_REDIS_URL", url)

    with pytest.raises(SettingsError, match=f"^AFDP_REDIS_URL: .*{why}") as refused:
        load(NotarySettings)
    assert "hunter2" not in str(refused.value)


async def test_the_authoritys_file_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_REDIS_URL", "rediss://redis.example")
    monkeypatch.setenv("AFDP_REDIS_CA_FILE", "/nowhere")

    with pytest.raises(FailedPrecondition, match="AFDP_REDIS_CA_FILE: /nowhere is not a file"):
        FollowingRedis.of(load(NotarySettings))


async def test_a_database_that_is_none_is_said_without_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_REDIS_URL", "redis://:hunter2@127.0.0.1/0?socket_timeout=long")
    with pytest.raises(FailedPrecondition, match=r"^AFDP_REDIS_URL must be") as refused:
        FollowingRedis.of(load(NotarySettings))
    assert "hunter2" not in str(refused.value)
