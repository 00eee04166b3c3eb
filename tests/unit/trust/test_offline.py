"""What the offline roles have signed is believed root by root, whole, and only forward."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile

from afdp.ceremony.plan import WishedRevocation, Wishes
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.repository import ONLINE_KEYS, ONLINE_PATHS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from afdp.formats.trust import Log
from afdp.trust.offline import read_offline, require_follows
from afdp.trust.online import served_files
from tests.local_ceremony import LocalCeremony, signed_by
from tests.local_notary import LocalNotary


@pytest.fixture
def ceremony(tmp_path: Path) -> LocalCeremony:
    return LocalCeremony(tmp_path)


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(InvalidArgument) as refused:
        read_offline(files)
    return str(refused.value)


def test_a_chain_of_roots_is_followed_to_the_newest(ceremony: LocalCeremony) -> None:
    first = ceremony.signed(ceremony.first(keys=2, threshold=2))
    second = ceremony.signed(ceremony.next(first, Wishes(rotate=(ROOT, TARGETS))))
    third = ceremony.signed(ceremony.next(second, Wishes(root_days=10)))

    assert [name for name in third.files if name.endswith(".root.json")] == [f"{n}.root.json" for n in (1, 2, 3)]
    assert not set(first.root.roles[ROOT].keyids) & set(second.root.roles[ROOT].keyids)
    assert not set(first.root.roles[TARGETS].keyids) & set(second.root.roles[TARGETS].keyids)
    require_follows(first, third)


def test_a_root_that_the_one_before_has_not_signed_is_refused(ceremony: LocalCeremony, tmp_path: Path) -> None:
    first = ceremony.signed(ceremony.first())
    stranger = LocalCeremony(tmp_path / "stranger", ceremony.root, ceremony.online)
    other = stranger.signed(stranger.next(stranger.signed(stranger.first()), Wishes(root_days=9)))

    files = {**other.files, "1.root.json": first.files["1.root.json"]}
    assert "2.root.json: has 0 of the 1 signatures that root needs" in refusal(files)


def test_a_root_that_does_not_sign_itself_is_refused(ceremony: LocalCeremony) -> None:
    first = ceremony.signed(ceremony.first())
    old = list(ceremony.keys)
    second = ceremony.signed(ceremony.next(first, Wishes(rotate=(ROOT,))))
    root = Metadata[Root].from_bytes(second.files["2.root.json"])

    files = {**second.files, "2.root.json": signed_by(root, *(key.signer for key in old))}
    assert "2.root.json: has 0 of the 1 signatures that root needs" in refusal(files)


@pytest.mark.parametrize("name", ["1.root.json", "1.targets.json"])
def test_one_signature_too_few_is_too_few(ceremony: LocalCeremony, name: str) -> None:
    offline = ceremony.signed(ceremony.first(keys=3, threshold=2))
    metadata: Metadata[Root] = Metadata.from_bytes(offline.files[name])
    metadata.signatures.popitem()
    metadata.signatures.popitem()

    assert f"{name}: has 1 of the 2 signatures" in refusal({**offline.files, name: metadata.to_bytes()})


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("1.root.json", "1.root.json: is missing"),
        ("2.root.json", "a root before it is missing"),
        ("3.targets.json", "must be there in one version"),
    ],
)
def test_what_is_missing_is_named(ceremony: LocalCeremony, missing: str, why: str) -> None:
    offline = ceremony.signed(ceremony.first())
    for _ in range(2):
        offline = ceremony.signed(ceremony.next(offline, Wishes(root_days=9)))
    files = {name: data for name, data in offline.files.items() if name != missing}
    if missing == "1.root.json":
        files = {name: data for name, data in files.items() if not name.endswith("root.json")}

    assert why in refusal(files)


def test_a_file_that_was_changed_or_left_out_is_named(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())
    name = next(name for name in offline.files if name.endswith("revocations.json"))

    assert f"{name}: is not the file that 1.targets.json speaks of" in refusal({**offline.files, name: b"{}"})
    assert f"{name}: is missing" in refusal({each: data for each, data in offline.files.items() if each != name})


def test_metadata_under_anothers_version_is_refused(ceremony: LocalCeremony) -> None:
    files = dict(ceremony.signed(ceremony.first()).files)
    files["7.targets.json"] = files.pop("1.targets.json")

    assert "7.targets.json: is of version 1" in refusal(files)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"signed":{"_type":"root"},"signatures":[]}'])
@pytest.mark.parametrize("name", ["1.root.json", "1.targets.json"])
def test_what_is_no_metadata_is_named(ceremony: LocalCeremony, name: str, data: bytes) -> None:
    files = {**ceremony.signed(ceremony.first()).files, name: data}

    assert f"{name}: is not" in refusal(files)


# --- what no offline role may sign either -----------------------------------------------------------------------------


def changed_root(ceremony: LocalCeremony, change: str) -> dict[str, bytes]:
    files = dict(ceremony.signed(ceremony.first(keys=2, threshold=2)).files)
    root = Metadata[Root].from_bytes(files["1.root.json"]).signed
    stranger = SSlibKey.from_crypto(Ed25519PrivateKey.generate().public_key())
    match change:
        case "no snapshots":
            root.consistent_snapshot = False
        case "two online keys":
            root.add_key(stranger, TIMESTAMP)
        case "online key signs root":
            root.add_key(root.keys[root.roles[SNAPSHOT].keyids[0]], ROOT)
        case "online key signs targets":
            root.add_key(root.keys[root.roles[SNAPSHOT].keyids[0]], TARGETS)
        case "one key twice":
            again = next(iter(root.keys.values()))
            root.add_key(Key.from_dict("ff" * 32, again.to_dict()), ROOT)
    signed = signed_by(Metadata(root), *(key.signer for key in ceremony.keys))
    return {**files, "1.root.json": signed}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("no snapshots", "must have consistent_snapshot"),
        ("two online keys", "must have one key, the same"),
        ("online key signs root", "must not let the online key sign"),
        ("online key signs targets", "must not let the online key sign"),
        ("one key twice", "has the same key under two IDs"),
    ],
)
def test_a_root_that_gives_power_away_is_refused(ceremony: LocalCeremony, change: str, why: str) -> None:
    assert why in refusal(changed_root(ceremony, change))


@pytest.mark.parametrize(
    ("role", "why"),
    [
        (
            DelegatedRole("other", ["{online}"], 1, True, list(ONLINE_PATHS)),
            "must delegate to online-keys and to nobody",
        ),
        (DelegatedRole(ONLINE_KEYS, ["{online}"], 1, True, ["*"]), "must delegate keys.json"),
        (DelegatedRole(ONLINE_KEYS, ["{online}"], 1, False, list(ONLINE_PATHS)), "and end there"),
        (DelegatedRole(ONLINE_KEYS, ["{other}"], 1, True, list(ONLINE_PATHS)), "with the key that root has"),
    ],
)
def test_a_delegation_of_more_is_refused(ceremony: LocalCeremony, role: DelegatedRole, why: str) -> None:
    offline = ceremony.signed(ceremony.first())
    other = CryptoSigner.generate_ed25519().public_key
    role.keyids = [offline.online_key if role.keyids == ["{online}"] else other.keyid]
    keys = {offline.online_key: offline.root.keys[offline.online_key], other.keyid: other}
    delegations = Delegations(keys, {role.name: role})

    assert why in refusal(ceremony.forged(offline.files, "1.targets.json", delegations=delegations))


def test_no_delegation_is_refused_too(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())

    assert "must delegate" in refusal(ceremony.forged(offline.files, "1.targets.json", delegations=None))


def test_a_file_that_is_not_signed_offline_is_refused(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())
    more = {**offline.targets.targets, "keys.json": TargetFile.from_data("keys.json", b"{}", ["sha256"])}
    fewer = {path: each for path, each in offline.targets.targets.items() if path != "revocations.json"}

    files = {**offline.files, **served_files({"keys.json": b"{}"})}
    assert "speaks of 'keys.json'" in refusal(ceremony.forged(files, "1.targets.json", targets=more))
    assert "does not speak of revocations.json" in refusal(ceremony.forged(files, "1.targets.json", targets=fewer))


# --- forward ----------------------------------------------------------------------------------------------------------


def test_the_same_again_is_no_step_back(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())

    require_follows(offline, offline)


@pytest.mark.parametrize("name", ["1.root.json", "1.targets.json"])
def test_what_has_expired_is_not_published(ceremony: LocalCeremony, name: str) -> None:
    files = ceremony.signed(ceremony.first()).files
    yesterday = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)

    with pytest.raises(FailedPrecondition, match=r"expired at .*: sign it again"):
        require_follows(None, read_offline(ceremony.forged(files, name, expires=yesterday)))


def test_another_targets_of_the_same_version_is_refused(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())
    other = read_offline(
        ceremony.forged(offline.files, "1.targets.json", expires=offline.root.expires - timedelta(days=1))
    )

    with pytest.raises(FailedPrecondition, match="version 1 already"):
        require_follows(offline, other)


def test_another_root_of_the_same_version_is_refused(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())
    other = read_offline(
        ceremony.forged(offline.files, "1.root.json", expires=offline.root.expires - timedelta(days=1))
    )

    with pytest.raises(FailedPrecondition, match=r"1\.root\.json is another"):
        require_follows(offline, other)


def test_a_log_of_others_with_an_ecdsa_key_is_signed_offline_as_ours_is(ceremony: LocalCeremony) -> None:
    first = ceremony.signed(ceremony.first())
    spki = LocalNotary().spki
    rekor = Log.of("rekor.example", spki, datetime(2026, 11, 1, tzinfo=UTC))
    ceremony.root = replace(ceremony.root, logs=(*ceremony.root.logs, rekor))

    second = ceremony.signed(ceremony.next(first))

    assert read_offline(second.files).logs == {*first.logs, rekor.vkey}


def test_not_even_the_offline_role_takes_a_revocation_or_a_log_back(ceremony: LocalCeremony) -> None:
    first = ceremony.signed(ceremony.first())
    key = ceremony.root.keys[0]
    revoked = ceremony.signed(ceremony.next(first, Wishes((WishedRevocation(key.key_id, "stolen", None),))))
    elsewhere = replace(LocalNotary().log.log, origin="elsewhere.example")
    ceremony.root = replace(ceremony.root, logs=(elsewhere,))
    other_log = ceremony.signed(ceremony.next(revoked))  # the old log stays, the new one comes

    assert other_log.logs == {*first.logs, elsewhere.vkey}
    files = {**first.files, "9.targets.json": first.targets_bytes}
    del files["1.targets.json"]
    files = ceremony.forged(files, "9.targets.json", version=9)
    with pytest.raises(
        FailedPrecondition, match=f"takes back the revocation of {key.key_id}; the log elsewhere.example"
    ):
        require_follows(other_log, read_offline(files))
