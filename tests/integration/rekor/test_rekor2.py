"""Entries of ours in a real Rekor 2, and what its client makes of one that fails, lies or is replaced."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from afdp.formats.encoding import b64
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Checkpoint, Note, NoteSignature
from afdp.formats.spki import from_pem
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import TRUSTED_ROOT_MEDIA_TYPE, Log
from afdp.transparency.external.commands import readmit_external, show_evidence
from afdp.transparency.external.config import ExternalLogSettings
from afdp.transparency.external.values import RefusedLog, Submission, UnreadableAnswer, WrongProof
from tests.integration.rekor.conftest import Open, of_rekor2, submission, submissions
from tests.local_log import FOUNDED, LocalLog
from tests.rekor_front import Reply
from tests.rekor_servers import Rekor2, running_rekor2

Tool = Callable[[str], Path]
Forge = Callable[[dict[str, Any]], dict[str, Any]]


async def test_an_entry_comes_back_with_its_place_and_a_proof_that_holds(rekor2: Rekor2, open_client: Open) -> None:
    mine = submission()
    async with open_client(of_rekor2(rekor2)) as client:
        entry = await client.logs.log("rekor", mine)
        listed = [known.shard.log.log_id for known, current in await client.logs.listed() if current]

    assert entry.body == mine.body
    assert entry.checkpoint.startswith("rekor.example\n")
    assert listed == [entry.log_id]


async def test_many_at_once_are_all_logged_once(rekor2: Rekor2, open_client: Open) -> None:
    several = submissions(24)
    async with open_client(of_rekor2(rekor2)) as client:
        entries = await asyncio.gather(*(client.logs.log("rekor", each) for each in several))

    assert len({entry.log_index for entry in entries}) == len(several)


async def test_an_entry_that_is_there_already_is_found_with_its_proof(rekor2: Rekor2, open_client: Open) -> None:
    mine = submission()
    async with open_client(of_rekor2(rekor2)) as client:
        first = await client.logs.log("rekor", mine)
        await client.logs.log("rekor", submission())
        again = await client.logs.log("rekor", mine)

    assert again.log_index == first.log_index
    assert again.tree_size > first.tree_size


async def test_an_answer_that_is_lost_after_the_log_took_the_entry_costs_nothing(
    rekor2: Rekor2, open_client: Open
) -> None:
    mine = submission()
    async with open_client(of_rekor2(rekor2)) as client:
        rekor2.front.next(lost=True)
        with pytest.raises(Unavailable):
            await client.logs.log("rekor", mine)
        entry = await client.logs.log("rekor", mine)

    assert entry.body == mine.body


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(502), Unavailable),
        (Reply(503, b"{}", (("Retry-After", "7"),)), Unavailable),
        (Reply(429), Unavailable),
        (Reply(404), UnreadableAnswer),
        (Reply(400), InvalidArgument),
        (Reply(201, b"{}"), UnreadableAnswer),
        (Reply(201, b"no JSON"), UnreadableAnswer),
        (Reply(201, b" " * 600_000), UnreadableAnswer),
        (Reply(409, b'{"code": 6}'), UnreadableAnswer),
    ],
)
async def test_what_is_no_success_says_what_it_means(
    rekor2: Rekor2, open_client: Open, reply: Reply, error: type[Exception]
) -> None:
    async with open_client(of_rekor2(rekor2)) as client:
        rekor2.front.next(reply)
        with pytest.raises(error) as raised:
            await client.logs.log("rekor", submission())

    if reply.headers:
        assert raised.value.retry_after == 7  # type: ignore[attr-defined]


async def test_a_log_that_the_settings_do_not_have_is_not_found(open_client: Open) -> None:
    async with open_client() as client:
        with pytest.raises(NotFound, match="no log named rekor"):
            await client.logs.log("rekor", submission())


async def test_a_log_that_is_slow_is_not_waited_for_longer_than_its_time(rekor2: Rekor2, open_client: Open) -> None:
    slow = of_rekor2(rekor2).model_copy(update={"timeout_seconds": 0.3})
    async with open_client(slow) as client:
        rekor2.front.next(delay=1.0)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.3 seconds"):
            await client.logs.log("rekor", submission())


async def test_a_log_of_ecdsa_that_was_killed_goes_on_where_it_was(
    tool: Tool, data_folder: Path, open_client: Open
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with (
        running_rekor2(tool, data_folder, origin="p256.example", key=key) as rekor,
        open_client(of_rekor2(rekor)) as client,
    ):
        before = await client.logs.log("rekor", submission())
        await rekor.kill()
        with pytest.raises(Unavailable):
            await client.logs.log("rekor", submission())
        await rekor.start()
        after = await client.logs.log("rekor", submission())

    assert after.log_index == before.log_index + 1


async def test_a_frozen_shard_hands_over_to_the_next_one_of_the_signing_config(
    tool: Tool, data_folder: Path, tmp_path: Path, open_client: Open
) -> None:
    async with (
        running_rekor2(tool, data_folder / "one", origin="localhost") as frozen,
        running_rekor2(tool, data_folder / "two", origin="localhost") as after,
        open_client(_of_signing_config(tmp_path, frozen, after)) as client,
    ):
        first = await client.logs.log("rekor", submission())
        frozen.front.next(Reply(405))
        second, third = [await client.logs.log("rekor", submission()) for _ in range(2)]
        listed = {known.shard.log.log_id: current for known, current in await client.logs.listed()}

    assert first.log_id != second.log_id == third.log_id
    assert (listed[first.log_id], listed[second.log_id]) == (False, True)


def _of_signing_config(folder: Path, *shards: Rekor2) -> ExternalLogSettings:
    """Settings with a signing config in which the first shard is the newest."""
    services, tlogs = [], []
    for age, shard in enumerate(shards, 1):
        url = shard.url.replace("127.0.0.1", "localhost")
        began = {"start": format_timestamp(FOUNDED - timedelta(days=age))}
        log = Log.of("localhost", from_pem(shard.public_key), FOUNDED)
        services.append({"url": url, "majorApiVersion": 2, "validFor": began, "operator": "tests"})
        key = {"rawBytes": b64(log.spki), "keyDetails": "PKIX_ED25519", "validFor": began}
        log_id = {"keyId": b64(log.log_id)}
        tlogs.append({"baseUrl": url, "hashAlgorithm": "SHA2_256", "publicKey": key, "logId": log_id})
    config = {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogUrls": services}
    root = {"mediaType": TRUSTED_ROOT_MEDIA_TYPE, "tlogs": tlogs, "certificateAuthorities": [], "ctlogs": []}
    for name, document in (("signing_config", config), ("trusted_root", root)):
        (folder / name).write_text(json.dumps(document))
    files = {name: folder / name for name in ("signing_config", "trusted_root")}
    return ExternalLogSettings.model_validate({"name": "rekor", **files})


def _wrong_root(entry: dict[str, Any]) -> dict[str, Any]:
    entry["inclusionProof"]["rootHash"] = base64.b64encode(bytes(32)).decode()
    return entry


def _wrong_index(entry: dict[str, Any]) -> dict[str, Any]:
    entry["logIndex"] = str(int(entry["logIndex"]) + 1)
    return entry


def _other_body(entry: dict[str, Any]) -> dict[str, Any]:
    entry["canonicalizedBody"] = base64.b64encode(submission().body).decode()
    return entry


def _no_path(entry: dict[str, Any]) -> dict[str, Any]:
    entry["inclusionProof"]["hashes"] = [base64.b64encode(bytes(32)).decode()]
    return entry


async def test_a_proof_that_does_not_hold_counts_for_nothing_and_the_log_for_as_much_as_before(
    rekor2: Rekor2, open_client: Open
) -> None:
    forged = [submission() for _ in range(4)]
    async with open_client(of_rekor2(rekor2)) as client:
        for mine, forge in zip(forged, (_wrong_root, _wrong_index, _other_body, _no_path), strict=True):
            rekor2.front.rewrite = forge
            with pytest.raises(WrongProof):
                await client.logs.log("rekor", mine)
        rekor2.front.well()
        entries = [await client.logs.log("rekor", mine) for mine in forged]

    assert [entry.body for entry in entries] == [mine.body for mine in forged]


class Liar:
    """A log with a key that can sign whatever it likes, in place of the answers of a real one."""

    def __init__(self, rekor: Rekor2) -> None:
        assert isinstance(rekor.key, Ed25519PrivateKey)
        self.key = rekor.key
        self.log = Log(rekor.origin, rekor.key.public_key().public_bytes_raw(), FOUNDED)
        self.rekor = rekor

    def note(self, size: int, root: bytes, key: Ed25519PrivateKey | None = None) -> str:
        text = Checkpoint(self.rekor.origin, size, root).body()
        return str(Note(text, (NoteSignature.by(self.log.vkey, (key or self.key).sign(text.encode())),)))

    def alone(self, mine: Submission, key: Ed25519PrivateKey | None = None) -> Forge:
        """Answers as if the entry were the only one in the log: a tree that proves it, and is another history."""

        def forged(entry: dict[str, Any]) -> dict[str, Any]:
            root = leaf_hash(mine.body)
            proof = {
                "logIndex": "0",
                "rootHash": base64.b64encode(root).decode(),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": self.note(1, root, key)},
            }
            return {**entry, "logIndex": "0", "inclusionProof": proof}

        return forged

    def grown(self, mine: Submission, folder: Path) -> Forge:
        """Answers with a tree that is larger than the real one and does not go on from it, and serves its tiles."""

        def forged(entry: dict[str, Any]) -> dict[str, Any]:
            size = int(entry["inclusionProof"]["treeSize"])
            other = LocalLog(self.rekor.origin, self.key)
            other.append([*(b"entry %d of another history" % n for n in range(size)), mine.body])
            proven = other.proven(size)
            self.rekor.front.folder = other.write(folder)
            proof = {
                "logIndex": str(size),
                "rootHash": base64.b64encode(proven.root_hash).decode(),
                "treeSize": str(size + 1),
                "hashes": [base64.b64encode(each).decode() for each in proven.hashes],
                "checkpoint": {"envelope": proven.checkpoint},
            }
            return {**entry, "logIndex": str(size), "inclusionProof": proof}

        return forged


async def test_a_log_that_lies_is_refused_by_all_replicas_with_the_evidence_until_an_operator_lets_it_in(
    tool: Tool, data_folder: Path, tmp_path: Path, open_client: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    async with (
        running_rekor2(tool, data_folder, origin="liar.example") as rekor,
        open_client(of_rekor2(rekor)) as one,
    ):
        liar, stranger = Liar(rekor), Ed25519PrivateKey.generate()
        for each in submissions(2):
            await one.logs.log("rekor", each)
        for lie in (liar.alone, partial(liar.grown, folder=tmp_path), partial(liar.alone, key=stranger)):
            mine = submission()
            rekor.front.rewrite = lie(mine)
            with pytest.raises(RefusedLog):
                await one.logs.log("rekor", mine)
            rekor.front.well()
            rekor.front.folder = rekor.storage
            async with open_client(of_rekor2(rekor)) as other:
                for client in (one, other):
                    with pytest.raises(RefusedLog, match="until an operator says so"):
                        await client.logs.log("rekor", submission())
            assert await show_evidence(one.settings, []) == 1
            assert await readmit_external(one.settings, [rekor.origin]) == 0
            assert await readmit_external(one.settings, [rekor.origin]) == 1
            await one.logs.log("rekor", submission())
        capfd.readouterr()
        await show_evidence(one.settings, [])
        found = [each for each in json.loads(capfd.readouterr().out)["evidence"] if each["origin"] == "liar.example"]

    reasons = [each["reason"] for each in found]
    assert "has gone back from 2 to 1" in reasons[0]
    assert "does not go on from" in reasons[1]
    assert "not signed by a known key" in reasons[2] or "is wrong" in reasons[2]
    assert all(each["refused_note"].startswith("liar.example\n") for each in found)
    assert [bool(each["known_note"]) for each in found] == [True, True, False]


async def test_tiles_that_do_not_match_the_signed_trees_are_no_proof_of_growth(
    tool: Tool, data_folder: Path, open_client: Open
) -> None:
    origin = "tiles.example"
    async with running_rekor2(tool, data_folder, origin=origin) as rekor, open_client(of_rekor2(rekor)) as client:
        await client.logs.log("rekor", submission())
        rekor.front.rewrite_reads = lambda path, data: bytes(len(data)) if path.startswith("tile/") else data
        with pytest.raises(RefusedLog, match="does not go on from"):
            await client.logs.log("rekor", submission())
