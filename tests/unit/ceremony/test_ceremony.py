"""What is proposed to the signer, in words; keys in files; a folder that remembers; commands that ask nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from afdp.ceremony.folder import CeremonyFolder
from afdp.ceremony.keys import is_named_after, make_key, open_key
from afdp.ceremony.plan import WishedRevocation, Wishes, first_plan, next_plan
from afdp.ceremony.published import caught_up
from afdp.ceremony.signing import Unsigned
from afdp.cli.__main__ import cli
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.repository import INDEPENDENT, KeyRevocation
from afdp.formats.trust import Revocation, TrustRoot
from tests.local_authority import LocalAuthority
from tests.local_ceremony import PASSPHRASE, LocalCeremony
from tests.local_notary import LocalNotary
from tests.trust_mirror import Thief

AT = datetime(2026, 11, 24, 4, 9, 28, tzinfo=UTC)
STOLEN = Revocation(AT, AT - timedelta(days=3), "stolen")


@pytest.fixture
def ceremony(tmp_path: Path) -> LocalCeremony:
    return LocalCeremony(tmp_path / "keys")


@pytest.fixture
def folder(ceremony: LocalCeremony, tmp_path: Path) -> CeremonyFolder:
    """A folder whose repository was begun."""
    folder = CeremonyFolder(tmp_path)
    folder.keep(ceremony.signed(ceremony.first(keys=2, threshold=2)))
    folder.keep_notary(ceremony.notary)
    return folder


# --- proposals --------------------------------------------------------------------------------------------------------


def test_a_repository_begins_with_all_that_the_notary_says(ceremony: LocalCeremony) -> None:
    [key] = ceremony.root.keys
    clock = LocalAuthority().trusted
    authorities = (*ceremony.root.timestamp_authorities, clock)
    ceremony.root = TrustRoot((replace(key, revoked=STOLEN),), ceremony.root.logs, authorities)

    offline = ceremony.signed(ceremony.first())

    assert offline.revocations == (KeyRevocation(key.key_id, key.hint, STOLEN),)
    assert offline.logs == {log.vkey for log in ceremony.root.logs}
    assert offline.independent == {clock.certificates[-1]}
    assert first_plan(ceremony.notary, 365, 90).changes[0] == (
        f"revokes {key.key_id}, compromised since 2026-11-21T04:09:28Z: stolen"
    )


def test_what_waits_at_the_notary_is_proposed(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())
    [key] = ceremony.root.keys
    log = replace(LocalNotary().log.log, origin="second.example")
    clock = LocalAuthority("https://second.example.org/").trusted
    ceremony.root = TrustRoot(
        (replace(key, revoked=STOLEN),),
        (*ceremony.root.logs, log),
        (*ceremony.root.timestamp_authorities, clock),
    )

    plan = next_plan(offline, ceremony.notary, Wishes())

    assert [change.split(" ")[0] for change in plan.changes] == ["revokes", "trusts", "trusts", "targets"]
    assert plan.changes[1] == f"trusts the log {log.vkey}"
    assert "AFDP tests, Root of time" in plan.changes[2]
    assert plan.root_expires is None
    assert INDEPENDENT in plan.contents
    assert ceremony.signed(ceremony.next(offline)).logs == {*offline.logs, log.vkey}


def test_nothing_is_proposed_twice(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.next(ceremony.signed(ceremony.first())))

    [only] = next_plan(offline, ceremony.notary, Wishes()).changes

    assert only.startswith("targets 3 is valid until")


@pytest.mark.parametrize("since", [None, AT - timedelta(days=1)])
def test_a_revocation_is_never_made_weaker(ceremony: LocalCeremony, since: datetime | None) -> None:
    [key] = ceremony.root.keys
    first = Wishes((WishedRevocation(key.key_id, "stolen", AT - timedelta(days=9)),))
    revoked = ceremony.signed(ceremony.next(ceremony.signed(ceremony.first()), first))

    again = ceremony.next(revoked, Wishes((WishedRevocation(key.key_id, "not so bad", since),)))

    assert ceremony.signed(again).revocations == revoked.revocations


@pytest.mark.parametrize(
    ("key", "reason", "why"),
    [
        ("nobody:1", "stolen", "no key version of this notary"),
        ("", "stolen", "no key version"),
        ("known", "", "must say why"),
    ],
)
def test_what_cannot_be_revoked_is_named(ceremony: LocalCeremony, key: str, reason: str, why: str) -> None:
    offline = ceremony.signed(ceremony.first())
    wish = WishedRevocation(ceremony.root.keys[0].key_id if key == "known" else key, reason, None)

    with pytest.raises(InvalidArgument, match=why):
        next_plan(offline, ceremony.notary, Wishes((wish,)))


def test_another_online_key_is_taken_only_on_request(ceremony: LocalCeremony) -> None:
    offline = ceremony.signed(ceremony.first())
    ceremony.online = Ed25519PrivateKey.generate()

    with pytest.raises(FailedPrecondition, match="--online-key"):
        next_plan(offline, ceremony.notary, Wishes())
    after = ceremony.signed(ceremony.next(offline, Wishes(online_key=True)))
    assert after.online_key != offline.online_key
    assert after.root.version == 2


# --- signing together -------------------------------------------------------------------------------------------------


def test_a_draft_is_kept_until_the_last_signature(ceremony: LocalCeremony, folder: CeremonyFolder) -> None:
    before = folder.offline()
    folder.keep_draft(ceremony.next(before, Wishes(rotate=("root", "targets"))).files)
    old, fresh = ceremony.keys[:4], ceremony.keys[4:]
    holders = [*(key for key in old if key.path.name.startswith("root")), *fresh]

    for holder in holders:
        draft = Unsigned.of_files(before, folder.draft())
        with pytest.raises(InvalidArgument, match="signatures"):
            draft.complete()
        assert holder.key_id in draft.wanted()
        draft.sign([holder])
        assert holder.key_id not in draft.wanted()
        folder.keep_draft(draft.files)
    after = Unsigned.of_files(before, folder.draft()).complete()
    folder.keep(after)

    assert (after.root.version, after.targets.version) == (2, 2)
    assert folder.draft() == {}
    assert folder.offline().files == after.files


def test_who_is_not_asked_adds_no_signature(ceremony: LocalCeremony, tmp_path: Path) -> None:
    unsigned = ceremony.first()

    unsigned.sign([make_key(tmp_path / "stranger", "root", PASSPHRASE)])

    assert not unsigned.targets.signatures
    assert unsigned.root is not None
    assert not unsigned.root.signatures


# --- what is published elsewhere --------------------------------------------------------------------------------------


def test_what_another_holder_has_published_is_caught_up_with(ceremony: LocalCeremony) -> None:
    first = ceremony.signed(ceremony.first())
    second = ceremony.signed(ceremony.next(first, Wishes(rotate=("root", "targets"))))
    third = ceremony.signed(ceremony.next(second, Wishes(root_days=9)))
    published = Thief(ceremony.online).begin(third)

    assert caught_up(first, published.get).files == third.files
    assert caught_up(first, {}.get).files == first.files


def test_what_does_not_follow_is_not_caught_up_with(ceremony: LocalCeremony, tmp_path: Path) -> None:
    first = ceremony.signed(ceremony.first())
    stranger = LocalCeremony(tmp_path / "stranger", ceremony.root, ceremony.online)
    other = stranger.signed(stranger.next(stranger.signed(stranger.first())))

    with pytest.raises(FailedPrecondition, match="does not follow"):
        caught_up(first, Thief(ceremony.online).begin(other).get)


# --- keys in files ----------------------------------------------------------------------------------------------------


def test_a_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    made = make_key(tmp_path / "keys", "root", PASSPHRASE)

    assert open_key(made.path, PASSPHRASE).key_id == made.key_id
    assert is_named_after(made.path, made.key_id)
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in made.path.read_bytes()
    with pytest.raises(FailedPrecondition, match="does not open with this passphrase"):
        open_key(made.path, b"another")
    with pytest.raises(FailedPrecondition, match="needs a passphrase"):
        make_key(tmp_path, "root", b"")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    made = make_key(tmp_path, "root", PASSPHRASE)
    made.path.chmod(0o640)

    with pytest.raises(FailedPrecondition, match="chmod 600"):
        open_key(made.path, PASSPHRASE)


def test_only_an_encrypted_ed25519_key_is_an_offline_key(tmp_path: Path) -> None:
    path = tmp_path / "root-00000000.pem"
    plain = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    curve = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE)
    )
    for data, why in ((plain, "is not encrypted"), (curve, "is not an Ed25519 key"), (b"x", "is no key")):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(FailedPrecondition, match=why):
            open_key(path, PASSPHRASE)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        open_key(tmp_path / "nowhere.pem", PASSPHRASE)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_gives_back_what_it_was_given(folder: CeremonyFolder, ceremony: LocalCeremony) -> None:
    assert folder.notary() == ceremony.notary
    assert folder.offline().targets.version == 1
    with pytest.raises(FailedPrecondition, match="has a repository already"):
        folder.require_new()


@pytest.mark.parametrize("name", ["signed/1.root.json", "signed/1.targets.json"])
def test_a_folder_that_is_damaged_says_so(folder: CeremonyFolder, name: str) -> None:
    path = folder.path / name
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))

    with pytest.raises(FailedPrecondition, match="is damaged"):
        folder.offline()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"online_key":"00","hints":{},"files":{}}'])
def test_what_the_notary_said_is_not_guessed(folder: CeremonyFolder, data: bytes) -> None:
    (folder.path / "notary.json").write_bytes(data)

    with pytest.raises(FailedPrecondition, match="is damaged"):
        folder.notary()


def test_an_empty_folder_has_no_repository(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="afdp trust init"):
        CeremonyFolder(tmp_path).offline()
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        CeremonyFolder(tmp_path).notary()


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o600)
    return path


def afdp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["trust", *map(str, arguments)], prog_name="afdp")


def test_signing_needs_no_notary(folder: CeremonyFolder, passphrase: Path, ceremony: LocalCeremony) -> None:
    [key] = ceremony.root.keys

    result = afdp(
        "sign", folder.path, "--offline", "--yes", "--passphrase-file", passphrase,
        "--revoke", key.key_id, "--reason", "stolen", "--compromised-since", "2026-11-20",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert f"revokes {key.key_id}, compromised since 2026-11-20T00:00:00Z: stolen" in result.stderr
    assert result.stdout.splitlines()[-1] == "SIGNED"
    assert folder.offline().targets.version == 2
    assert folder.offline().revocations[0].key_id == key.key_id


def test_nobody_signs_unseen(folder: CeremonyFolder, passphrase: Path) -> None:
    result = afdp("sign", folder.path, "--offline", "--passphrase-file", passphrase)

    assert (result.exit_code, "--yes" in result.stderr) == (2, True)
    assert folder.offline().targets.version == 1


def test_a_wrong_passphrase_signs_nothing(folder: CeremonyFolder, passphrase: Path) -> None:
    passphrase.write_bytes(b"wrong")

    result = afdp("sign", folder.path, "--offline", "--yes", "--passphrase-file", passphrase)

    assert (result.exit_code, "does not open with this passphrase" in result.stderr) == (1, True)
    assert folder.offline().targets.version == 1
    assert folder.draft() == {}


def test_a_passphrase_that_others_may_read_or_that_nobody_gives_is_refused(
    folder: CeremonyFolder, passphrase: Path
) -> None:
    passphrase.chmod(0o644)

    readable = afdp("sign", folder.path, "--offline", "--yes", "--passphrase-file", passphrase)
    missing = afdp("sign", folder.path, "--offline", "--yes")

    assert (readable.exit_code, "chmod 600" in readable.stderr) == (2, True)
    assert (missing.exit_code, "--passphrase-file" in missing.stderr) == (2, True)


def test_a_threshold_above_the_number_of_keys_is_refused(tmp_path: Path) -> None:
    result = afdp("init", tmp_path / "new", "--root-keys", "2", "--root-threshold", "3")

    assert (result.exit_code, "--root-threshold is more than --root-keys" in result.stderr) == (2, True)
    assert not (tmp_path / "new").exists()


def test_a_repository_is_begun_once(folder: CeremonyFolder) -> None:
    result = afdp("init", folder.path)

    assert (result.exit_code, "has a repository already" in result.stderr) == (1, True)


def test_a_notary_that_is_away_costs_nothing(tmp_path: Path, folder: CeremonyFolder, passphrase: Path) -> None:
    nowhere = ("--url", "http://127.0.0.1:9", "--passphrase-file", passphrase)

    begun = afdp("init", tmp_path / "new", *nowhere)
    signed = afdp("sign", folder.path, "--yes", *nowhere)

    assert (begun.exit_code, signed.exit_code) == (3, 3)
    assert not (tmp_path / "new").exists()
    assert folder.offline().targets.version == 1
