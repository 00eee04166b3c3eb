"""The service as a process, beside the signer as a process."""

import asyncio
import itertools
import json
import os
import random
import signal as signals
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_der_public_key
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afdp.cli.__main__ import cli
from afdp.errors import Cancelled, DataLoss, DeadlineExceeded, InvalidArgument, NotFound, OutOfRange, Unavailable
from afdp.formats.merkle import leaf_hash, verify_inclusion
from afdp.formats.note import Checkpoint, Note, VerifierKey, key_digest, verify
from afdp.items import from_item
from afdp.messages.transparency import (
    AppendRequest,
    FindLeavesRequest,
    GetCheckpointRequest,
    GetConsistencyProofRequest,
    GetInclusionProofRequest,
    GetLogRequest,
    TransparencyServiceClient,
)
from afdp.postgres import packaged
from afdp.rpc import GrpcCaller, open_channel
from tests.lasting_ports import lasting_port

ACME = ("acme.example.org", "--tenant", "acme")


class Process:
    """`python -m MODULE [COMMAND]` with its settings in the environment."""

    def __init__(self, module: str, environment: dict[str, str], *command: str) -> None:
        self._arguments = [sys.executable, "-m", module, *command]
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self.child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.child = await asyncio.create_subprocess_exec(
            *self._arguments, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    async def ended(self, timeout: float = 20.0) -> tuple[int, str, str]:
        """Runs it to its end: exit code, standard output, standard error."""
        child = await asyncio.create_subprocess_exec(
            *self._arguments, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(timeout):
            out, error = await child.communicate()
        return child.returncode or 0, out.decode(), error.decode()

    async def kill(self) -> None:
        assert self.child
        self.child.kill()
        await self.child.wait()

    async def stop(self) -> int:
        assert self.child
        if self.child.returncode is None:
            self.child.send_signal(signals.SIGTERM)
        async with asyncio.timeout(15):
            return await self.child.wait()


class Stack:
    def __init__(self, environment: dict[str, str], signer: Process, log: Process, client, channel) -> None:
        self.environment, self.signer, self.log, self.client, self.channel = environment, signer, log, client, channel
        self.read_url = f"http://127.0.0.1:{environment['AFDP_HTTP_PORT']}"

    async def until_serving(self) -> None:
        health = health_pb2_grpc.HealthStub(self.channel)
        async with asyncio.timeout(20):
            while True:
                answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                await asyncio.sleep(0.05)


def free_port() -> str:
    return str(lasting_port())


def is_whole(mirror: Path) -> bool:
    """Whether what readers of a mirror find now is a log: every tile that its checkpoint speaks of is there."""
    if not (mirror / "checkpoint").exists():
        return True
    return CliRunner().invoke(cli, ["log", "fsck", str(mirror), "--jobs", "1"]).exit_code == 0


@asynccontextmanager
async def running_stack(database: str, folder: Path) -> AsyncIterator[Stack]:
    signer_port = free_port()
    signer = Process(
        "afdp.signer",
        {
            "AFDP_PORT": signer_port,
            "AFDP_TLS": "off",
            "AFDP_METRICS_PORT": "0",
            "AFDP_DATA_DIR": str(folder / "signer"),
            "AFDP_LOG_ORIGINS": "notary.localhost,acme.example.org",
        },
    )
    environment = {
        "AFDP_PORT": free_port(),
        "AFDP_TLS": "off",
        "AFDP_HTTP_PORT": free_port(),
        "AFDP_METRICS_PORT": "0",
        "AFDP_DATABASE_URL": database,
        "AFDP_SIGNER_ADDRESS": f"127.0.0.1:{signer_port}",
        "AFDP_LOG_BASE_URL": "https://notary.example/log/",
        "AFDP_LOG_AUDIT_INTERVAL_SECONDS": "0.2",
        "AFDP_LOG_MIRROR": str(folder / "mirror"),
        "AFDP_LOG_MIRROR_INTERVAL_SECONDS": "0.2",
    }
    log = Process("afdp.transparency", environment)
    await asyncio.gather(signer.start(), log.start())
    try:
        async with open_channel(f"127.0.0.1:{environment['AFDP_PORT']}") as channel:
            stack = Stack(environment, signer, log, TransparencyServiceClient(GrpcCaller(channel)), channel)
            await stack.until_serving()
            yield stack
    finally:
        await asyncio.gather(signer.stop(), log.stop())


@pytest.fixture
async def stack(database: str, data_folder: Path) -> AsyncIterator[Stack]:
    async with running_stack(database, data_folder) as running:
        yield running


async def test_every_call_is_answered_over_grpc(stack: Stack) -> None:
    entries = [os.urandom(490) for _ in range(5)]
    log = await stack.client.get_log(GetLogRequest())
    answer = await stack.client.append(AppendRequest([*entries[:4], b"", entries[4]]))
    checkpoint = answer.checkpoint
    found = await stack.client.find_leaves(FindLeavesRequest([leaf_hash(entries[2]), bytes(32)]))
    proof = await stack.client.get_inclusion_proof(GetInclusionProofRequest(leaf_index=1, tree_size=3))
    growth = await stack.client.get_consistency_proof(GetConsistencyProofRequest(old_size=2))
    latest = await stack.client.get_checkpoint(GetCheckpointRequest())

    key = VerifierKey.parse(log.vkey)
    raw = load_der_public_key(log.spki).public_bytes_raw()
    assert (log.origin, log.base_url, key.public_key) == ("notary.localhost", "https://notary.example/log", raw)
    assert log.log_id == key_digest("notary.localhost", raw)
    note = Note.parse(checkpoint.note)
    assert verify(note, [key])
    assert Checkpoint.parse(note.text) == Checkpoint(log.origin, checkpoint.size, checkpoint.root)
    placed = [result.inclusion for result in answer.results if result.inclusion]
    assert [each.leaf_index for each in placed] == [0, 1, 2, 3, 4]
    for entry, each in zip(entries, placed, strict=True):
        path = [each.proof[at : at + 32] for at in range(0, len(each.proof), 32)]
        verify_inclusion(each.leaf_index, 5, leaf_hash(entry), path, checkpoint.root)
    refused = from_item(answer.results[4].error)
    assert isinstance(refused, InvalidArgument)
    assert refused.fields[0].field == "entries[4]"
    assert (found.checkpoint, found.results[0].inclusion.leaf_index, found.results[1].inclusion) == (
        checkpoint,
        2,
        None,
    )
    assert (proof.tree_size, proof.inclusion.leaf_hash) == (3, leaf_hash(entries[1]))
    assert (growth.new_size, len(growth.proof)) == (5, 2)
    assert latest.checkpoint == checkpoint
    with pytest.raises(OutOfRange) as beyond:
        await stack.client.get_inclusion_proof(GetInclusionProofRequest(leaf_index=5))
    assert beyond.value.fields[0].field == "leaf_index"


async def until_acknowledged(client: TransparencyServiceClient, entry: bytes) -> int:
    """Sends the same entry again until it is in the log, as the notary does; gives its index."""
    while True:
        try:
            answer = await client.append(AppendRequest([entry]), timeout=5.0)
        except (Unavailable, DeadlineExceeded, Cancelled):
            await asyncio.sleep(0.02)
        else:
            return answer.results[0].inclusion.leaf_index


async def test_a_log_that_is_not_there_is_named_over_grpc(stack: Stack) -> None:
    for origin, error in (("other.example.org", NotFound), ("https://other.example.org", InvalidArgument)):
        for call in (
            stack.client.append(AppendRequest([b"a"], origin=origin)),
            stack.client.find_leaves(FindLeavesRequest([bytes(32)], origin=origin)),
            stack.client.get_checkpoint(GetCheckpointRequest(origin)),
            stack.client.get_log(GetLogRequest(origin)),
        ):
            with pytest.raises(error) as raised:
                await call
            assert [each.field for each in raised.value.fields] == ["origin"]


async def test_killed_at_any_moment_it_loses_nothing_and_doubles_nothing(
    stack: Stack, stored_leaves, root_of, data_folder: Path, tmp_path: Path
) -> None:
    chance = random.Random(7)
    acknowledged: dict[bytes, int] = {}
    enough = 200
    reached, over = asyncio.Event(), asyncio.Event()

    async def caller(number: int) -> None:
        nonlocal enough
        for count in itertools.count():
            entry = b"%d of %d" % (count, number)
            acknowledged[entry] = await until_acknowledged(stack.client, entry)
            if len(acknowledged) >= enough:
                reached.set()
            if over.is_set():
                return

    async with asyncio.TaskGroup() as tasks:
        for number in range(16):
            tasks.create_task(caller(number))
        for victim in (stack.log, stack.signer, stack.log, stack.signer, stack.log):
            enough = len(acknowledged) + 200
            reached.clear()
            async with asyncio.timeout(20):
                await reached.wait()
            await asyncio.sleep(chance.random() / 50)
            await victim.kill()
            if victim is stack.log:
                assert await asyncio.to_thread(is_whole, data_folder / "mirror")
            await victim.start()
        over.set()

    leaves = await stored_leaves()
    latest = (await stack.client.get_checkpoint(GetCheckpointRequest())).checkpoint
    assert len(leaves) == len(set(leaves))
    for entry, index in acknowledged.items():
        assert leaves[index] == leaf_hash(entry)
    assert latest.root == root_of(leaves[: latest.size])
    code, said, _ = await Process("afdp.transparency", stack.environment, "fsck").ended()
    assert (code, "the log is whole" in said) == (0, True)
    state = ("--json", "--state", str(tmp_path / "fsck.json"))
    first = await Process("afdp.transparency", stack.environment, "fsck", *state).ended()
    second = await Process("afdp.transparency", stack.environment, "fsck", *state).ended()
    (once,), (again,) = json.loads(first[1])["logs"], json.loads(second[1])["logs"]
    assert (once["sound"], once["entries_read"], again["entries_before"]) == (True, len(leaves), len(leaves))


async def test_sigterm_ends_it_and_what_it_said_stands(stack: Stack) -> None:
    answer = await stack.client.append(AppendRequest([b"a"]))
    assert await stack.log.stop() == 0
    with pytest.raises(Unavailable):
        await stack.client.get_checkpoint(GetCheckpointRequest())
    await stack.log.start()
    await stack.until_serving()

    assert (await stack.client.get_checkpoint(GetCheckpointRequest())).checkpoint == answer.checkpoint


async def test_its_mirror_follows_it_and_each_further_log(stack: Stack, data_folder: Path, eventually) -> None:
    opened, _, said = await Process("afdp.transparency", stack.environment, "open-log", *ACME).ended()
    assert opened == 0, said
    answers = {
        place: await stack.client.append(AppendRequest([b"a", place.encode()], origin=origin))
        for place, origin in (("mirror", ""), ("mirror/logs/acme.example.org", "acme.example.org"))
    }

    async def follows() -> bool:
        notes = {place: data_folder / place / "checkpoint" for place in answers}
        return all(
            notes[place].exists() and notes[place].read_text() == answer.checkpoint.note
            for place, answer in answers.items()
        )

    await eventually(follows)
    for place in answers:
        entries = (data_folder / place / "tile/entries/000.p/2").read_bytes()
        assert entries == b"\0\1a" + len(place).to_bytes(2, "big") + place.encode()
        assert await asyncio.to_thread(is_whole, data_folder / place)


async def test_another_origin_ends_the_process_with_a_sentence(stack: Stack) -> None:
    ports = {"AFDP_PORT": free_port(), "AFDP_HTTP_PORT": free_port()}
    other = {**stack.environment, **ports, "AFDP_LOG_ORIGIN": "other.example"}

    code, _, said = await Process("afdp.transparency", other).ended()

    assert code == 2
    assert "AFDP_LOG_ORIGIN is other.example, and the database holds the log notary.localhost" in said


async def test_a_flipped_bit_stops_writing_until_fsck_finds_the_log_repaired_and_the_service_starts_anew(
    stack: Stack, sql, eventually
) -> None:
    await stack.client.append(AppendRequest([b"a", b"b", b"c"]))
    health = health_pb2_grpc.HealthStub(stack.channel)
    await sql.execute("UPDATE entry SET body = 'forged' WHERE leaf_index = 1")

    async with httpx.AsyncClient() as client:

        async def named() -> bool:
            told = (await client.get(f"{stack.read_url}/health")).json()
            return told["reads"] == "ok" and "entry 1 and its stored leaf hash" in told["appends"]

        await eventually(named)
        assert (await client.get(f"{stack.read_url}/checkpoint")).status_code == 200
    with pytest.raises(DataLoss, match="entry 1 "):
        await stack.client.append(AppendRequest([b"d"]))

    async def not_serving() -> bool:
        answer = await health.Check(health_pb2.HealthCheckRequest())
        return answer.status == health_pb2.HealthCheckResponse.NOT_SERVING

    await eventually(not_serving)
    code, _, said = await Process("afdp.transparency", stack.environment, "fsck").ended()
    assert (code, "entry 1 is not what was logged" in said) == (1, True)

    await sql.execute("UPDATE entry SET body = 'b' WHERE leaf_index = 1")
    code, said, _ = await Process("afdp.transparency", stack.environment, "fsck").ended()
    assert (code, "start the service anew" in said) == (0, True)
    await stack.log.stop()
    await stack.log.start()
    await stack.until_serving()
    assert (await stack.client.append(AppendRequest([b"d"]))).checkpoint.size == 4


async def test_commands_say_when_the_database_cannot_be_reached(database: str) -> None:
    away = {"AFDP_DATABASE_URL": "postgresql://afdp:hunter2@127.0.0.1:1/afdp"}
    checked, migrated = await asyncio.gather(
        Process("afdp.transparency", away, "fsck").ended(), Process("afdp.transparency", away, "migrate").ended()
    )

    assert (checked[0], migrated[0]) == (3, 1)
    for _, out, error in (checked, migrated):
        assert "PostgreSQL cannot be reached" in error
        assert "hunter2" not in out + error


async def test_migrate_says_what_it_did_and_may_be_repeated(database: str) -> None:
    migrate = Process("afdp.transparency", {"AFDP_DATABASE_URL": database}, "migrate")

    applied = "".join(f"applied {each.version:04d}_{each.name}\n" for each in packaged("afdp.transparency"))

    assert (await migrate.ended())[:2] == (0, applied)
    assert (await migrate.ended())[:2] == (0, "nothing to do\n")


async def test_everything_listens_on_loopback(stack: Stack, listening_addresses) -> None:
    assert stack.log.child
    # gRPC listens through the IPv6 form of the same address.
    assert listening_addresses(stack.log.child.pid) == {"127.0.0.1", "::ffff:127.0.0.1"}


async def test_the_read_path_serves_beside_grpc(stack: Stack) -> None:
    answer = await stack.client.append(AppendRequest([b"a"]))
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{stack.read_url}/checkpoint")).text == answer.checkpoint.note
        assert (await client.get(f"{stack.read_url}/tile/entries/000.p/1")).content == b"\0\1a"
