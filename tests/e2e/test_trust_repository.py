"""The trust root as a repository, on a stack of its own: signed offline, followed by verifiers, never rolled back."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Timestamp

from afdp.cli.__main__ import cli
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.repository import repository_contents
from afdp.formats.trust import TRUSTED_ROOT, EvidenceKey, Revocation, TrustRoot, read_trust_files
from afdp.messages.metadata import MetadataServiceClient
from afdp.messages.signer import SignerServiceClient
from afdp.messages.transparency import TransparencyServiceClient
from afdp.notary.keys import KeyDirectory
from afdp.notary.trust import TrustOffice
from afdp.rpc import GrpcCaller, open_channel
from afdp.trust.metadata import sha256_hex
from afdp.trust.offline import read_offline
from afdp.trust.online import read_online
from afdp.verify.folder import load_trust
from tests.conftest import open_folder
from tests.e2e.answers import get, problem, sign
from tests.e2e.conftest import free_offset
from tests.local_authority import LocalAuthority
from tests.local_notary import LocalNotary
from tests.trust_mirror import Mirror, Thief, copied

Refused = Callable[[Path, dict[str, bytes]], Awaitable[str]]

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Place:
    """A running stack and the folder of the ceremony that began its repository."""

    stack: Stack
    rest: httpx.AsyncClient
    folder: Path

    @property
    def ceremony(self) -> Path:
        return self.folder / "ceremony"

    @property
    def thief(self) -> Thief:
        return Thief.of(self.stack.data_dir / "signer")

    async def afdp(self, *arguments: object, url: str = "") -> Result:
        """Runs a command as a person would."""
        words = ["--url", url or self.stack.url, *map(str, arguments)]
        return await asyncio.to_thread(CliRunner().invoke, cli, words, prog_name="afdp")

    async def good(self, *arguments: object, url: str = "") -> str:
        """The output of a command that must succeed."""
        result = await self.afdp(*arguments, url=url)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def trust_sign(self, *arguments: object) -> str:
        """`afdp trust sign`, with nobody asked."""
        passphrase = ("--passphrase-file", self.folder / "passphrase")
        return await self.good("trust", "sign", self.ceremony, "--yes", *passphrase, *arguments)

    async def timestamp(self) -> Timestamp:
        """What is served now."""
        answer = await self.rest.get("/trust/timestamp.json")
        metadata: Metadata[Timestamp] = Metadata.from_bytes(answer.content)
        return metadata.signed

    async def published(self, is_there: Callable[[dict[str, bytes]], bool]) -> dict[str, bytes]:
        """The repository, once it has something."""
        async with asyncio.timeout(20):
            while True:
                files = await copied(self.rest)
                if is_there(files):
                    return files
                await asyncio.sleep(0.05)

    async def rotate(self) -> str:
        """A new version of the evidence key; returns once it is published."""
        key_id = (await self.rest.post("/api/v1/keys:rotate", json={})).raise_for_status().json()["key"]["key_id"]
        await self.published(lambda files: any(name.endswith(f".{key_id}.pem") for name in files))
        return str(key_id)

    async def receipt(self, folder: Path) -> Path:
        """A receipt of the current key, in a file."""
        path = folder / "receipt.json"
        path.write_text(json.dumps((await sign(self.rest))["receipt"]))
        return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place() -> AsyncIterator[Place]:
    """A stack whose repository takes two keys of two for each offline role."""
    with open_folder() as folder:
        async with (
            running_stack(StackOptions(folder / "data", free_offset())) as stack,
            httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest,
        ):
            found = Place(stack, rest, folder)
            (folder / "passphrase").write_text("correct horse battery staple")
            (folder / "passphrase").chmod(0o600)
            assert (await rest.get("/trust/timestamp.json")).status_code == 404
            assert "root.json" not in {file["name"] for file in (await get(rest, "/api/v1/trust-root"))["files"]}
            two = ("keys", "threshold")
            await found.good(
                "trust", "init", found.ceremony, "--passphrase-file", folder / "passphrase",
                *(word for role in ("root", "targets") for what in two for word in (f"--{role}-{what}", 2)),
            )  # fmt: skip
            yield found


@pytest_asyncio.fixture(loop_scope="session")
async def trust(place: Place, tmp_path: Path) -> Path:
    """A verifier's folder that follows the repository as it is now."""
    await place.good("trust", "export", "-o", tmp_path / "trust")
    await place.good("trust", "update", "--trust", tmp_path / "trust")
    return tmp_path / "trust"


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the ordinary way -------------------------------------------------------------------------------------------------


async def test_a_rotation_is_followed_at_once(place: Place, trust: Path, tmp_path: Path) -> None:
    before = await place.receipt(tmp_path)
    old = json.loads(before.read_text())["key_id"]
    fresh = await place.rotate()

    told = json.loads(await place.good("trust", "update", "--trust", trust, "--json"))

    assert told["new_keys"] == [fresh]
    assert told["new_revocations"] == []
    assert {old, fresh} <= {key.key_id for key in load_trust(trust).keys}
    assert (await place.afdp("verify", before, "--trust", trust)).exit_code == 0
    after = await place.receipt(tmp_path)
    assert json.loads(after.read_text())["key_id"] == fresh
    assert (await place.afdp("verify", after, "--trust", trust)).exit_code == 0


async def test_a_revocation_that_is_signed_offline_binds_verifiers_and_stops_the_signer(
    place: Place, trust: Path, tmp_path: Path
) -> None:
    receipt = await place.receipt(tmp_path)
    stolen = json.loads(receipt.read_text())["key_id"]
    await place.good("verify", receipt, "--trust", trust)

    await place.trust_sign("--revoke", stolen, "--reason", "a laptop is gone", "--compromised-since", "2026-01-01")

    keys = {key["key_id"]: key for key in (await get(place.rest, "/api/v1/keys"))["keys"]}
    assert keys[stolen]["revoked"]["reason"] == "a laptop is gone"
    await place.rotate()
    told = json.loads(await place.good("trust", "update", "--trust", trust, "--json"))
    assert told["new_revocations"] == [stolen]
    refused = await place.afdp("verify", receipt, "--trust", trust)
    assert refused.exit_code == 1
    assert "a laptop is gone" in refused.stdout


async def test_what_the_signer_revokes_is_shown_at_once_and_binds_once_it_is_signed(place: Place, trust: Path) -> None:
    retired = await place.rotate()
    await place.rotate()
    await place.good("keys", "revoke", retired, "--reason", "retired", "--yes")
    exported = trust.with_name("exported")

    await place.good("trust", "export", "-o", exported)
    assert revocation(exported, retired) is not None
    await place.good("trust", "update", "--trust", trust)
    assert revocation(trust, retired) is None
    kept = json.loads(await place.good("trust", "update", "--trust", exported, "--json"))
    assert kept["unsigned_revocations"] == [retired]
    assert revocation(exported, retired) is not None

    await place.trust_sign()
    for folder in (trust, exported):
        told = json.loads(await place.good("trust", "update", "--trust", folder, "--json"))
        assert told["unsigned_revocations"] == []
        assert revocation(folder, retired) == revocation(exported, retired)


def revocation(folder: Path, key_id: str) -> Revocation | None:
    return next(key.revoked for key in load_trust(folder).keys if key.key_id == key_id)


async def test_a_verifier_can_begin_with_a_root_from_elsewhere(place: Place, tmp_path: Path) -> None:
    root = place.ceremony / "signed" / "1.root.json"

    await place.good("trust", "update", "--trust", tmp_path / "fresh", "--root", root)

    exported = tmp_path / "exported"
    await place.good("trust", "export", "-o", exported)
    assert load_trust(tmp_path / "fresh") == load_trust(exported)
    other = tmp_path / "other.json"
    other.write_bytes(root.read_bytes() + b"\n")
    refused = await place.afdp("trust", "update", "--trust", tmp_path / "fresh", "--root", other)
    assert (refused.exit_code, "follows another root" in refused.stderr) == (1, True)


async def test_without_a_root_nothing_is_followed(place: Place, tmp_path: Path) -> None:
    refused = await place.afdp("trust", "update", "--trust", tmp_path / "trust")

    assert refused.exit_code == 2
    assert "afdp trust export" in refused.stderr
    assert not (tmp_path / "trust").exists()


async def test_files_are_served_for_caches_and_for_nobody_to_list(place: Place) -> None:
    stamp = await place.rest.get("/trust/timestamp.json")
    root = await place.rest.get("/trust/1.root.json")
    missing = await place.rest.get("/trust/999.root.json")
    again = await place.rest.get("/trust/1.root.json", headers={"if-none-match": root.headers["etag"]})
    head = await place.rest.head("/trust/1.root.json")

    assert (stamp.headers["cache-control"], stamp.headers["content-type"]) == ("public, no-cache", "application/json")
    assert "immutable" in root.headers["cache-control"]
    assert sha256_hex(root.content) in root.headers["etag"]
    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.content) == (200, b"")
    problem(missing, 404, "NOT_FOUND")
    assert missing.headers["cache-control"] == "no-store"
    for path in ("", "targets/", "root.json", "%2e%2e/openapi.json", "1.root.json%00", "trust_file"):
        assert (await place.rest.get(f"/trust/{path}")).status_code == 404, path
    assert (await place.rest.post("/trust/1.root.json")).status_code == 405


async def test_a_client_of_sigstore_can_follow_too(place: Place, tool: Callable[[str], Path], tmp_path: Path) -> None:
    root = place.ceremony / "signed" / "1.root.json"
    process = await asyncio.create_subprocess_exec(
        tool("cosign"), "initialize", "--mirror", f"{place.stack.url}/trust", "--root", root,
        env={"HOME": str(tmp_path), "TUF_ROOT": str(tmp_path / "sigstore")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    [found] = (tmp_path / "sigstore").rglob("trusted_root.json")
    files = {file["name"]: file["content"] for file in (await get(place.rest, "/api/v1/trust-root"))["files"]}
    assert json.loads(found.read_text()) == json.loads(files[TRUSTED_ROOT])


# --- signing together -------------------------------------------------------------------------------------------------


async def test_a_draft_goes_from_holder_to_holder_until_it_has_its_signatures(place: Place, tmp_path: Path) -> None:
    before = await place.timestamp()
    away = tmp_path / "safe"
    away.mkdir()
    first, second = sorted((place.ceremony / "keys").glob("targets-*.pem"))[:2]
    shutil.move(second, away / second.name)

    draft = json.loads(await place.trust_sign("--json"))
    assert (draft["complete"], draft["published"]) == (False, False)
    assert (await place.timestamp()).version == before.version
    refused = await place.afdp("trust", "sign", place.ceremony, "--yes", "--rotate", "root")
    assert (refused.exit_code, "--discard" in refused.stderr) == (1, True)

    done = json.loads(await place.trust_sign("--key", away / second.name, "--json"))
    assert (done["complete"], done["published"]) == (True, True)
    assert (await place.timestamp()).version > before.version
    assert first.exists()
    shutil.move(away / second.name, second)


async def test_what_was_signed_without_a_network_is_published_later(place: Place, trust: Path) -> None:
    before = await place.timestamp()

    signed = json.loads(await place.trust_sign("--offline", "--targets-days", 30, "--json"))
    assert (signed["complete"], signed["published"]) == (True, False)
    assert (await place.timestamp()).version == before.version
    published = json.loads(await place.good("trust", "publish", place.ceremony, "--json"))

    assert published["targets_version"] == signed["targets_version"]
    told = json.loads(await place.good("trust", "update", "--trust", trust, "--json"))
    assert told["targets_version"] == signed["targets_version"]


async def test_a_folder_that_was_left_behind_catches_up(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place.ceremony, copy)
    await place.trust_sign("--root-days", 300)
    await place.trust_sign()

    passphrase = ("--passphrase-file", place.folder / "passphrase")
    signed = json.loads(await place.good("trust", "sign", copy, "--yes", *passphrase, "--json"))
    again = json.loads(await place.trust_sign("--json"))

    assert again["targets_version"] == signed["targets_version"] + 1
    assert again["root_sha256"] == signed["root_sha256"]


async def test_what_too_few_have_signed_is_not_published(place: Place) -> None:
    signed = place.ceremony / "signed"
    [name] = [path.name for path in signed.glob("*.targets.json")]
    metadata = json.loads((signed / name).read_text())
    metadata["signatures"].pop()
    files = [{"name": name, "content": json.dumps(metadata)}]

    answer = await place.rest.post("/api/v1/trust-root:publish", json={"files": files})

    why = f"{name} has 1 of the 2 signatures that targets needs"
    assert problem(answer, 400, "INVALID_ARGUMENT") == {"files[0].content": why}


@pytest.mark.parametrize(
    "name", ["timestamp.json", "9.snapshot.json", "targets/keys.json", f"targets/{'ab' * 32}.keys.json", "../x", ""]
)
async def test_nothing_but_what_is_signed_offline_can_be_published(place: Place, name: str) -> None:
    body = {"files": [{"name": name, "content": "{}"}]}

    answer = await place.rest.post("/api/v1/trust-root:publish", json=body)

    assert list(problem(answer, 400, "INVALID_ARGUMENT")) == ["files[0].name"]


async def test_an_older_publication_is_refused_and_the_same_again_is_good(place: Place) -> None:
    signed = place.ceremony / "signed"
    old = {path.relative_to(signed).as_posix(): path.read_text() for path in signed.rglob("*.json")}
    await place.trust_sign()
    new = {path.relative_to(signed).as_posix(): path.read_text() for path in signed.rglob("*.json")}
    before = await place.timestamp()

    refused = await place.rest.post("/api/v1/trust-root:publish", json={"files": listed(old)})
    again = await place.rest.post("/api/v1/trust-root:publish", json={"files": listed(new)})

    problem(refused, 400, "FAILED_PRECONDITION")
    assert "already" in refused.json()["detail"]
    assert again.status_code == 200
    assert again.json()["timestamp_version"] == before.version == (await place.timestamp()).version


def listed(files: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "content": content} for name, content in files.items()]


async def test_offline_keys_are_replaced_and_verifiers_follow(place: Place, trust: Path) -> None:
    old = set((place.ceremony / "keys").glob("*.pem"))

    await place.trust_sign("--rotate", "root", "--rotate", "targets")

    fresh = set((place.ceremony / "keys").glob("*.pem")) - old
    assert sorted(path.name.split("-")[0] for path in fresh) == ["root", "root", "targets", "targets"]
    told = json.loads(await place.good("trust", "update", "--trust", trust, "--json"))
    assert told["root_version"] > 1
    for path in old:
        path.unlink()
    await place.trust_sign()
    await place.good("trust", "update", "--trust", trust)


async def test_a_new_trust_key_of_the_signer_waits_for_the_offline_roles(place: Place, trust: Path) -> None:
    rotated = await place.rest.post("/api/v1/keys:rotate", json={"purpose": "trust"})
    assert rotated.json()["key"]["key_id"] == "afdp-file-trust-key:2"
    refused = await place.afdp("trust", "sign", place.ceremony, "--yes")
    assert (refused.exit_code, "--online-key" in refused.stderr) == (1, True)
    await place.good("trust", "update", "--trust", trust)  # what was published is good until it expires

    await place.trust_sign("--online-key")

    fresh = await place.rotate()
    told = json.loads(await place.good("trust", "update", "--trust", trust, "--json"))
    assert told["new_keys"] == [fresh]
    thief = Mirror(place.thief.publish(await copied(place.rest)))  # has the key of before
    with thief.running():
        refused = await place.afdp("trust", "update", "--trust", trust, url=thief.url)
    assert (refused.exit_code, "not signed as it must be" in refused.stderr) == (1, True)


# --- somebody in between ----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(place: Place) -> Refused:
    """Why a folder is not updated from these files; it must stay as it is."""

    async def update(folder: Path, files: dict[str, bytes]) -> str:
        before = content_of(folder)
        with Mirror(files).running() as mirror:
            result = await place.afdp("trust", "update", "--trust", folder, url=mirror.url)
        assert result.exit_code == 1, result.output
        assert content_of(folder) == before
        return result.stderr

    return update


async def revoked_now(place: Place) -> tuple[dict[str, bytes], dict[str, bytes], str]:
    """The repository before and after a revocation, and whose."""
    key_id = await place.rotate()
    before = await copied(place.rest)
    await place.trust_sign("--revoke", key_id, "--reason", "stolen")
    await place.rotate()
    return before, await copied(place.rest), key_id


@pytest_asyncio.fixture(loop_scope="session")
async def thief(place: Place) -> Thief:
    """Who has the trust key that signs now."""
    [current] = [
        key["key_id"]
        for key in (await get(place.rest, "/api/v1/keys"))["keys"]
        if key["purpose"] == "trust" and key["current"]
    ]
    return Thief.of(place.stack.data_dir / "signer", current)


async def test_an_older_state_is_refused_by_who_has_seen_the_newer(place: Place, trust: Path, refused: Refused) -> None:
    before, _, _ = await revoked_now(place)
    await place.good("trust", "update", "--trust", trust)

    assert "older than what was seen here before" in await refused(trust, before)


async def test_not_even_the_online_keys_thief_rolls_a_revocation_back(
    place: Place, trust: Path, thief: Thief, refused: Refused
) -> None:
    before, after, key_id = await revoked_now(place)
    await place.good("trust", "update", "--trust", trust)
    unrevoked = repository_contents(changed(after, key_id, revoked=None))

    for files in (
        thief.publish(after, targets=before),
        thief.publish(after, unrevoked, targets=before),
        thief.publish(before, ahead=100),
        thief.publish(before, unrevoked, ahead=100),
    ):
        assert "older than what was seen here before" in await refused(trust, files)
    assert "does not have the revocation" in await refused(trust, thief.publish(after, unrevoked))
    assert revocation(trust, key_id) is not None


async def test_nor_for_a_verifier_who_is_new(place: Place, thief: Thief, tmp_path: Path) -> None:
    _, after, key_id = await revoked_now(place)
    root = tmp_path / "root.json"
    root.write_bytes(after[max(name for name in after if name.endswith(".root.json"))])

    with Mirror(thief.publish(after, repository_contents(changed(after, key_id, revoked=None)))).running() as mirror:
        result = await place.afdp("trust", "update", "--trust", tmp_path / "new", "--root", root, url=mirror.url)

    assert (result.exit_code, "does not have the revocation" in result.stderr) == (1, True)
    assert not (tmp_path / "new").exists()


async def test_what_has_expired_is_refused(place: Place, trust: Path, thief: Thief, refused: Refused) -> None:
    old = thief.publish(await copied(place.rest), lifetime=timedelta(minutes=-1))

    assert "has expired" in await refused(trust, old)


async def test_files_that_do_not_belong_together_are_refused(
    place: Place, trust: Path, thief: Thief, refused: Refused
) -> None:
    files = thief.publish(await copied(place.rest))
    other = thief.publish(files)
    keys, snapshot = newest(files, "online-keys"), newest(files, "snapshot")

    for altered in (
        {snapshot: other[newest(other, "snapshot")]},
        {keys: other[newest(other, "online-keys")]},
        {keys: files[keys] + b" "},
        {keys: files[keys][:-1] + b" "},
    ):
        assert "does not belong together" in await refused(trust, {**files, **altered})
    assert "not all of it" in await refused(trust, {name: data for name, data in files.items() if name != snapshot})


def newest(files: dict[str, bytes], role: str) -> str:
    versions = [int(name.split(".")[0]) for name in files if name.endswith(f".{role}.json")]
    return f"{max(versions)}.{role}.json"


async def test_what_another_key_has_signed_is_refused(place: Place, trust: Path, refused: Refused) -> None:
    stranger = Thief(Ed25519PrivateKey.generate())

    assert "not signed as it must be" in await refused(trust, stranger.publish(await copied(place.rest)))


def root_of(files: dict[str, bytes]) -> TrustRoot:
    """The trust root that a copy of the repository has."""
    online = read_online(files)
    assert online is not None
    return read_trust_files({**online.contents, **read_offline(files).contents})


def changed(files: dict[str, bytes], whose: str, **changes: object) -> TrustRoot:
    """The trust root with another word on one key."""
    root = root_of(files)

    def change(key: EvidenceKey) -> EvidenceKey:
        return replace(key, **changes) if key.key_id == whose else key  # type: ignore[arg-type]

    return replace(root, keys=tuple(map(change, root.keys)))


def forgeries(files: dict[str, bytes]) -> Iterator[tuple[TrustRoot, str]]:
    """What the online role must not say, and why it is refused."""
    root = root_of(files)
    good = [key for key in root.keys if key.revoked is None]
    ended = next(key for key in good if key.valid_until is not None)
    rogue = LocalNotary(key_id="rogue:1")
    yield replace(root, keys=root.keys[1:]), f"takes back the key {root.keys[0].key_id}"
    yield changed(files, good[-1].key_id, valid_from=NOW - timedelta(days=400)), "takes back since when the key"
    yield changed(files, ended.key_id, valid_until=NOW + timedelta(days=400)), "takes back until when the key"
    yield changed(files, good[-1].key_id, tenants=("acme",)), "takes back tenants of the key"
    yield changed(files, good[-1].key_id, key_id="another:1"), "takes back the name of the key"
    yield changed(files, good[-1].key_id, revoked=Revocation(NOW, None, "not theirs to say")), "was not signed offline"
    yield replace(root, logs=(*root.logs, replace(rogue.log.log, origin="rogue.example"))), "log.vkey"
    yield replace(root, logs=(replace(root.logs[0], valid_from=NOW - timedelta(days=400)),)), "since when the log"
    clocks = root.timestamp_authorities
    yield replace(root, timestamp_authorities=()), "takes back a certificate of the authority"
    independent = LocalAuthority("https://rogue.example/stamp").trusted
    yield replace(root, timestamp_authorities=(*clocks, independent)), "names https://rogue.example/stamp"
    early = replace(clocks[0], valid_from=NOW - timedelta(days=400))
    yield replace(root, timestamp_authorities=(early, *clocks[1:])), "since when a certificate"


async def test_the_online_role_adds_and_does_nothing_else(
    place: Place, trust: Path, thief: Thief, refused: Refused
) -> None:
    await place.good("trust", "update", "--trust", trust)
    files = await copied(place.rest)
    root = root_of(files)

    for forged, why in forgeries(files):
        removed = dict.fromkeys(set(repository_contents(root)) - set(repository_contents(forged)))
        assert why in await refused(trust, thief.publish(files, {**removed, **repository_contents(forged)})), why

    more = replace(root, keys=(*root.keys, LocalNotary(key_id="afdp-file-key:99").evidence_key))
    copy = trust.with_name("copy")
    shutil.copytree(trust, copy)
    with Mirror(thief.publish(files, repository_contents(more))).running() as mirror:
        await place.good("trust", "update", "--trust", copy, url=mirror.url)
    assert load_trust(copy).keys[-1].key_id == "afdp-file-key:99"


async def test_what_a_thief_of_the_online_key_added_is_undone_by_the_offline_keys(
    place: Place, trust: Path, thief: Thief
) -> None:
    files = await copied(place.rest)
    root = root_of(files)
    rogue = LocalNotary(key_id="afdp-file-key:99").evidence_key
    added = repository_contents(replace(root, keys=(*root.keys, rogue)))
    with Mirror(thief.publish(files, added, ahead=1000)).running() as mirror:
        await place.good("trust", "update", "--trust", trust, url=mirror.url)
    assert (await place.afdp("trust", "update", "--trust", trust)).exit_code == 1

    (await place.rest.post("/api/v1/keys:rotate", json={"purpose": "trust"})).raise_for_status()
    since = ("--compromised-since", "2000-01-01")
    await place.trust_sign("--online-key", "--revoke", rogue.hint, "--reason", "never ours", *since)

    await place.good("trust", "update", "--trust", trust)
    assert load_trust(trust) == root_of(await copied(place.rest))
    assert rogue.hint not in load_trust(trust).key_of_hint


async def test_who_does_not_answer_is_said_to_be_unreachable(place: Place, trust: Path) -> None:
    with Mirror({}).running() as mirror:
        empty = await place.afdp("trust", "update", "--trust", trust, url=mirror.url)
    gone = await place.afdp("trust", "update", "--trust", trust, url=mirror.url)

    assert (empty.exit_code, "has no repository" in empty.stderr) == (1, True)
    assert (gone.exit_code, "cannot be reached" in gone.stderr) == (3, True)


# --- many notaries ----------------------------------------------------------------------------------------------------


async def test_notaries_that_publish_at_once_agree(place: Place, trust: Path) -> None:
    async with AsyncExitStack() as stack:
        offices = [await open_office(place, stack) for _ in range(4)]
        await place.good("trust", "update", "--trust", trust)
        await place.good(
            "trust", "sign", place.ceremony, "--yes", "--no-publish", "--passphrase-file", place.folder / "passphrase"
        )
        signed = place.ceremony / "signed"
        files = {path.relative_to(signed).as_posix(): path.read_bytes() for path in signed.rglob("*") if path.is_file()}
        key_id = (await place.rest.post("/api/v1/keys:rotate", json={})).json()["key"]["key_id"]

        versions = await asyncio.gather(*(office.publish(files) for office in offices))

        assert len({(each.root, each.targets) for each in versions}) == 1
        await place.published(lambda found: any(name.endswith(f".{key_id}.pem") for name in found))
        roots = [await office.root() for office in offices]
        assert all(root == roots[0] for root in roots)
        told = json.loads(await place.good("trust", "update", "--trust", trust, "--json"))
        assert told["new_keys"] == [key_id]
        assert told["targets_version"] == versions[0].targets


async def open_office(place: Place, stack: AsyncExitStack, *, lifetime: timedelta = timedelta(days=1)) -> TrustOffice:
    """A further notary's trust office, on the stack's own peers."""

    async def caller(service: str) -> GrpcCaller:
        return GrpcCaller(await stack.enter_async_context(open_channel(f"127.0.0.1:{place.stack.port(service)}")))

    signer, metadata = SignerServiceClient(await caller("signer")), MetadataServiceClient(await caller("metadata"))
    keys = KeyDirectory(signer, TransparencyServiceClient(await caller("transparency")))
    return TrustOffice(keys, signer, metadata, lifetime, 5.0)


async def test_an_expiry_that_comes_near_is_put_off(place: Place) -> None:
    before = await place.timestamp()
    async with AsyncExitStack() as stack:
        office = await open_office(place, stack, lifetime=timedelta(days=3))
        running = asyncio.create_task(office.run())  # to it, less than half of three days are left
        try:
            await place.published(lambda files: version_of(files) > before.version)
        finally:
            running.cancel()

    after = await place.timestamp()
    assert after.version > before.version
    assert after.expires - before.expires > timedelta(days=1)


def version_of(files: dict[str, bytes]) -> int:
    stamp: Metadata[Timestamp] = Metadata.from_bytes(files["timestamp.json"])
    return stamp.signed.version
