"""The trust root's files as a repository has them: their names, who may say what, and revocations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from afdp.errors import InvalidArgument
from afdp.formats.repository import (
    INDEPENDENT,
    REVOCATIONS,
    KeyRevocation,
    independent_pem,
    is_online_path,
    is_served_name,
    read_repository,
    read_revocations,
    repository_contents,
    revocations_json,
    target_name,
)
from afdp.formats.trust import LOG_VKEY, Revocation, TrustRoot, trust_files
from tests.local_authority import LocalAuthority
from tests.local_notary import LocalNotary

AT = datetime(2026, 11, 24, 4, 9, 28, tzinfo=UTC)
LOCAL = LocalNotary()
KEY = LOCAL.evidence_key
STOLEN = Revocation(AT, AT.replace(day=20), "stolen")
REVOKED = KeyRevocation(KEY.key_id, KEY.hint, STOLEN)
OWN = LocalAuthority(f"https://{LOCAL.log.origin}/api/v1/timestamp").trusted
ROOT = TrustRoot((KEY,), (LOCAL.log.log,), (OWN,))


def contents(online: TrustRoot, *revocations: KeyRevocation, offline: TrustRoot = ROOT) -> dict[str, bytes]:
    return {
        **repository_contents(online),
        REVOCATIONS: revocations_json(revocations),
        LOG_VKEY: trust_files(offline)[LOG_VKEY].encode(),
        INDEPENDENT: independent_pem(offline),
    }


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(InvalidArgument) as refused:
        read_repository(files)
    return str(refused.value)


@pytest.mark.parametrize("name", ["keys.json", "keys/signer:1.pem", "trusted_root.json", "tsa.pem"])
def test_the_online_role_speaks_of_keys_and_the_notarys_own_authority(name: str) -> None:
    assert is_online_path(name)


@pytest.mark.parametrize(
    "name",
    ["revocations.json", "log.vkey", "independent.pem", "keys/a/b.pem", "keys/a.txt", "KEYS.json", "a/keys.json"],
)
def test_all_else_is_signed_offline(name: str) -> None:
    assert not is_online_path(name)


@pytest.mark.parametrize(
    "name",
    [
        "timestamp.json",
        "1.root.json",
        "12.online-keys.json",
        target_name("keys.json", "ab" * 32),
        target_name("keys/signer:1.pem", "ab" * 32),
    ],
)
def test_a_repositorys_files_have_these_names(name: str) -> None:
    assert is_served_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "root.json",
        "0.root.json",
        "1.other.json",
        "../1.root.json",
        "targets/keys.json",
        "keys/x.pem",
        "1.root.json\n",
    ],
)
def test_and_no_others(name: str) -> None:
    assert not is_served_name(name)


def test_revocations_read_back_as_they_were_written() -> None:
    retired = KeyRevocation("signer:2", LocalNotary().evidence_key.hint, Revocation(AT, None, "retired „au revoir“"))

    assert read_revocations(revocations_json([REVOKED, retired])) == (REVOKED, retired)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"[]", "body"),
        (b"{}", "revocations"),
        (revocations_json([REVOKED, REVOKED]), "revocations"),
        (revocations_json([REVOKED]).replace(b'"hint"', b'"hunt"'), "revocations[0].hint"),
        (revocations_json([REVOKED]).replace(b'"at"', b'"more": 1, "at"'), "revocations[0].more"),
        (revocations_json([REVOKED]).replace(b"2026-11-24T", b"yesterday"), "revocations[0].at"),
    ],
)
def test_revocations_that_are_wrong_are_refused_by_their_member(data: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_revocations(data)
    assert [fault.field for fault in refused.value.fields] == [field]


def test_a_repository_reads_as_the_trust_root_that_it_was_made_from() -> None:
    independent = replace(ROOT, timestamp_authorities=(OWN, LocalAuthority().trusted))
    revoked = replace(independent, keys=(replace(KEY, revoked=STOLEN),))

    assert read_repository(contents(ROOT)) == ROOT
    assert read_repository(contents(revoked, REVOKED, offline=independent)) == revoked


def test_the_online_role_cannot_take_a_revocation_back() -> None:
    assert f"does not have the revocation of {KEY.key_id}" in refusal(contents(ROOT, REVOKED))


def test_nor_hide_it_under_another_name() -> None:
    renamed = replace(ROOT, keys=(replace(KEY, key_id="fresh:1"),))

    assert "does not have the revocation of fresh:1" in refusal(contents(renamed, REVOKED))


def test_nor_make_it_weaker() -> None:
    weaker = replace(ROOT, keys=(replace(KEY, revoked=replace(STOLEN, compromised_since=None)),))

    assert "does not have the revocation" in refusal(contents(weaker, REVOKED))


def test_nor_revoke_by_itself() -> None:
    revoked = replace(ROOT, keys=(replace(KEY, revoked=STOLEN),))

    assert f"revokes {KEY.key_id}, which was not signed offline" in refusal(contents(revoked))


def test_nor_add_a_log() -> None:
    more = replace(ROOT, logs=(*ROOT.logs, replace(LocalNotary().log.log, origin="rogue.example")))

    assert "log.vkey does not have the keys" in refusal(contents(more)).replace(":", "")


def test_nor_an_independent_authority() -> None:
    more = replace(ROOT, timestamp_authorities=(OWN, LocalAuthority().trusted))

    assert "names https://tsa.example/stamp, which was not signed offline" in refusal(contents(more))


def test_but_a_certificate_of_its_own_authority_and_a_key() -> None:
    again = LocalAuthority(OWN.uri).trusted
    more = replace(ROOT, keys=(KEY, LocalNotary(key_id="signer:9").evidence_key), timestamp_authorities=(OWN, again))

    assert read_repository(contents(more)) == more


@pytest.mark.parametrize("name", [REVOCATIONS, LOG_VKEY, "keys.json", "trusted_root.json", "tsa.pem"])
def test_a_file_that_is_missing_is_named(name: str) -> None:
    files = contents(ROOT)
    del files[name]

    assert name in refusal(files)
