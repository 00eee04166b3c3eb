"""Which shard of a log takes entries, from a signing config and the trusted root beside it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from afdp.errors import FailedPrecondition
from afdp.formats.encoding import b64
from afdp.formats.spki import ed25519_spki
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import Log
from afdp.transparency.external.config import ExternalLogSettings
from afdp.transparency.external.shards import SigningConfigShards

NOW = datetime.now(UTC).replace(microsecond=0)


def log(origin: str) -> Log:
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return Log.of(origin, ed25519_spki(key), NOW - timedelta(days=400))


class Sources:
    """The two files."""

    def __init__(self, folder: Path) -> None:
        self.config, self.root = folder / "signing_config.json", folder / "trusted_root.json"
        self.logs: dict[str, Log] = {}
        self.services: list[dict[str, Any]] = []

    def shard(self, origin: str, begins: int, ends: int | None = None, api: int = 2, *, known: bool = True) -> None:
        """One that is used from so many days from now on."""
        if known:
            self.logs[origin] = log(origin)
        valid = {"start": format_timestamp(NOW + timedelta(days=begins))}
        if ends is not None:
            valid["end"] = format_timestamp(NOW + timedelta(days=ends))
        service = {"url": f"https://{origin}", "majorApiVersion": api, "validFor": valid, "operator": "example"}
        self.services.append(service)
        self.write()

    def write(self) -> None:
        config = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "rekorTlogUrls": self.services,
            "rekorTlogConfig": {"selector": "ANY"},
        }
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                {
                    "baseUrl": f"https://{each.origin}",
                    "hashAlgorithm": "SHA2_256",
                    "publicKey": {
                        "rawBytes": b64(each.spki),
                        "keyDetails": "PKIX_ED25519",
                        "validFor": {"start": format_timestamp(each.valid_from)},
                    },
                    "logId": {"keyId": b64(each.log_id)},
                }
                for each in self.logs.values()
            ],
            "certificateAuthorities": [],
            "ctlogs": [],
            "timestampAuthorities": [],
        }
        self.config.write_text(json.dumps(config))
        self.root.write_text(json.dumps(root))
        stamp = self.config.stat().st_mtime_ns + len(self.services)  # whatever the clock's grain
        os.utime(self.config, ns=(stamp, stamp))

    def opened(self, api: int = 2) -> SigningConfigShards:
        return SigningConfigShards("rekor", api, self.config, self.root)  # type: ignore[arg-type]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


async def origins(shards: SigningConfigShards) -> list[str]:
    return [each.log.origin for each in await shards.usable()]


async def test_the_newest_shard_that_is_valid_now_comes_first_and_others_do_not_count(sources: Sources) -> None:
    sources.shard("log2025.example", -300)
    sources.shard("log2026.example", -10)
    sources.shard("log2027.example", 20)
    sources.shard("log2024.example", -600, -200)
    sources.shard("old.example", -5, api=1)

    shards = await sources.opened().usable()

    assert [each.log for each in shards] == [sources.logs["log2026.example"], sources.logs["log2025.example"]]
    assert (shards[0].url, shards[0].read_url) == ("https://log2026.example", "https://log2026.example/api/v2")
    assert await origins(sources.opened(api=1)) == ["old.example"]


async def test_a_frozen_shard_is_passed_over_until_the_signing_config_changes(sources: Sources) -> None:
    sources.shard("log2025.example", -300)
    sources.shard("log2026.example", -10)
    shards = sources.opened()
    shards.freeze((await shards.usable())[0])
    assert await origins(shards) == ["log2025.example"]

    sources.shard("log2027.example", -1)

    assert await origins(shards) == ["log2027.example", "log2026.example", "log2025.example"]


async def test_the_only_shard_is_tried_again_ten_minutes_after_it_was_found_frozen(sources: Sources) -> None:
    sources.shard("log2026.example", -10)
    now = 1000.0
    shards = SigningConfigShards("rekor", 2, sources.config, sources.root, lambda: now)
    shards.freeze((await shards.usable())[0])

    now += 599
    assert await origins(shards) == []
    now += 1
    assert await origins(shards) == ["log2026.example"]


async def test_a_shard_whose_key_the_trusted_root_does_not_have_is_left_out(sources: Sources) -> None:
    sources.shard("log2026.example", -10)
    sources.shard("unknown.example", -1, known=False)

    assert await origins(sources.opened()) == ["log2026.example"]


@pytest.mark.parametrize("text", ["", "{}", "no JSON"])
async def test_a_signing_config_that_cannot_be_read_says_so(sources: Sources, text: str) -> None:
    sources.shard("log2026.example", -10)
    sources.config.write_text(text)
    with pytest.raises(FailedPrecondition, match="signing config"):
        await sources.opened().usable()


async def test_without_a_shard_that_is_valid_now_nothing_is_usable(sources: Sources) -> None:
    sources.shard("log2027.example", 20)
    with pytest.raises(FailedPrecondition, match="no shard that is valid now"):
        await sources.opened().usable()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "needs either url and public_key, or signing_config and trusted_root"),
        ({"url": "https://rekor.example"}, "needs either"),
        ({"url": "https://r.example", "public_key": "k", "signing_config": "s", "trusted_root": "t"}, "needs either"),
        ({"name": "embedded", "url": "https://r.example", "public_key": "k"}, "that of the notary's own log"),
        ({"api_version": 1, "url": "https://r.example", "public_key": "k"}, "gets whole envelopes"),
        ({"url": "https://r.example", "public_key": "k", "timeout_seconds": 5}, "greater than or equal to 20"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ExternalLogSettings.model_validate({"name": "rekor", **settings})
