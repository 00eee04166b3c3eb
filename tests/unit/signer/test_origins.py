"""Whose checkpoints are signed, with which key, and what is remembered of each log."""

from __future__ import annotations

from pathlib import Path

import pytest

from afdp.config import SettingsError, load
from afdp.errors import FailedPrecondition, InvalidArgument, PermissionDenied, ResourceExhausted
from afdp.formats.merkle import Frontier, extend, leaf_hash
from afdp.formats.note import Checkpoint
from afdp.signer import guard as memory
from afdp.signer.config import SignerSettings
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import ED25519, KeySpec, Purpose
from afdp.signer.origins import signs_for
from afdp.signer.service import Signer
from tests.local_keys import LOG, file_catalogue

ORIGINS = ("notary.example", "*.notary.example")
OWN = KeySpec("afdp-log-of-bank", Purpose.LOG, ED25519, origins=("bank.notary.example",))


def open_signer(folder: Path) -> Signer:
    return Signer(file_catalogue(folder, OWN), CheckpointGuard(folder / "checkpoints", ORIGINS), ORIGINS)


def checkpoint(origin: str, *entries: str) -> Checkpoint:
    tree = extend(Frontier.empty(), [leaf_hash(each.encode()) for each in entries]).new
    return Checkpoint(origin, tree.size, tree.root())


@pytest.mark.parametrize(
    ("origin", "signed"),
    [
        ("notary.example", True),
        ("acme.notary.example", True),
        ("2027.acme.notary.example", True),
        ("notary.example.org", False),
        ("evil-notary.example", False),
        ("Acme.notary.example", False),
        ("../x.notary.example", False),
        ("a/b.notary.example", False),
        (".notary.example", False),
        ("", False),
    ],
)
def test_a_domain_stands_for_the_bare_host_names_under_it(origin: str, signed: bool) -> None:
    assert signs_for(ORIGINS, origin) is signed


async def test_each_log_has_a_memory_of_its_own_and_a_fork_of_any_is_refused(tmp_path: Path) -> None:
    signer = open_signer(tmp_path)
    for origin in ("notary.example", "acme.notary.example", "bank.notary.example"):
        await signer.sign_checkpoint(checkpoint(origin, origin, "2"), [], 0)

    again = open_signer(tmp_path)
    for origin in ("notary.example", "acme.notary.example", "bank.notary.example"):
        assert again.last_checkpoint(origin) == checkpoint(origin, origin, "2")
        for fork in (checkpoint(origin, "other", "2"), checkpoint(origin, "other")):
            with pytest.raises(FailedPrecondition):
                await again.sign_checkpoint(fork, [], 2)
    with pytest.raises(PermissionDenied):
        again.last_checkpoint("log.example")


async def test_a_log_with_a_key_of_its_own_is_signed_with_it_and_every_other_with_the_one_of_all(
    tmp_path: Path,
) -> None:
    signer = open_signer(tmp_path)
    signed = {
        origin: (await signer.sign_checkpoint(checkpoint(origin, "1"), [], 0)).signature.key
        for origin in ("notary.example", "acme.notary.example", "bank.notary.example")
    }

    names = {origin: key.key_id.partition(":")[0] for origin, key in signed.items()}
    assert names == {"notary.example": LOG.name, "acme.notary.example": LOG.name, "bank.notary.example": OWN.name}
    origins = {key.key_id: key.origins for key in await signer.versions(Purpose.LOG)}
    assert origins == {f"{LOG.name}:1": ("*",), f"{OWN.name}:1": ("bank.notary.example",)}
    with pytest.raises(InvalidArgument, match="the log's key is part of its identity"):
        await signer.rotate(None, OWN.name)


async def test_logs_are_not_signed_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST", 2)
    signer = open_signer(tmp_path)
    for number in range(2):
        await signer.sign_checkpoint(checkpoint(f"{number}.notary.example", "1"), [], 0)

    with pytest.raises(ResourceExhausted):
        await signer.sign_checkpoint(checkpoint("2.notary.example", "1"), [], 0)
    grown = checkpoint("1.notary.example", "1", "2")
    await signer.sign_checkpoint(grown, [leaf_hash(b"2")], 1)
    assert signer.last_checkpoint("1.notary.example") == grown


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AFDP_LOG_ORIGINS", "*.notary.example", "must begin with the name of a log"),
        ("AFDP_LOG_ORIGINS", "notary.example,*", "log origin"),
        ("AFDP_LOG_ORIGINS", "notary.example,*.Notary.example", "log origin"),
        ("AFDP_OWN_LOG_KEYS", '[{"name": "a", "origins": ["x"]}, {"name": "b", "origins": ["x"]}]', "two keys"),
        ("AFDP_OWN_LOG_KEYS", '[{"name": "a", "origins": []}]', "at least 1 item"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=f"{name}.*{said}"):
        load(SignerSettings)
