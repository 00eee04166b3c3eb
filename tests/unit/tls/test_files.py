"""What a process goes on with when its files of TLS change."""

import asyncio
import logging
import ssl
from pathlib import Path

import pytest

from afdp.certs.authority import Authority
from afdp.certs.names import Names
from afdp.tls import files as module
from afdp.tls.files import TlsFiles
from afdp.tls.material import Material, TlsError, TlsPaths, load_material


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.make(tmp_path / "tls", "afdp.internal")
    made.issue("notary", Names.of_service("notary", "afdp.internal", Names()))
    made.issue("alice", Names(uris=("spiffe://afdp.internal/user/alice",)), server=False)
    return made


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    own = authority.issued("notary")
    return TlsFiles(TlsPaths(own.cert, own.key, authority.file, crl=authority.list_file), {})


def test_a_list_that_could_not_be_read_for_a_moment_is_taken_afterwards(
    authority: Authority, files: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: TlsPaths) -> Material:
        raise TlsError(Path("crl.pem"), "cannot be read: Too many open files")

    authority.revoke("alice")
    monkeypatch.setattr(module, "load_material", fails)
    with caplog.at_level(logging.ERROR):
        files.refresh()
        files.refresh()
    assert [each.message for each in caplog.records] == ["the files of TLS have changed and do not serve"]
    assert not files.material.revoked

    monkeypatch.setattr(module, "load_material", load_material)
    files.refresh()
    assert len(files.material.revoked) == 1


async def test_whoever_fails_to_take_what_is_new_ends_nothing_and_is_asked_again(
    authority: Authority, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, taken = list[Material](), list[Material]()

    def fails_once(material: Material) -> None:
        asked.append(material)
        if len(asked) == 1:
            raise ssl.SSLError("EE_KEY_TOO_SMALL")
        watch.cancel()

    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)
    files.subscribe(fails_once)
    files.subscribe(taken.append)
    authority.revoke("alice")
    watch = asyncio.create_task(files.run())
    async with asyncio.timeout(30):
        await asyncio.wait([watch])

    assert watch.cancelled()
    assert asked == [files.material, files.material]
    assert taken == [files.material]
    assert files.material.revoked
