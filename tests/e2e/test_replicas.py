"""Two notaries, with a metadata service each, and two replicas of the log on one database: one history, one answer."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest_asyncio

from afdp.embedded.process import ServerProcess, free_port
from afdp.embedded.stack import Stack, StackOptions, Supervised, running_stack
from afdp.errors import AlreadyExists, Unavailable
from afdp.formats.merkle import Frontier, extend
from afdp.formats.note import Checkpoint, Note, VerifierKey, verify
from afdp.formats.receipt import Receipt
from afdp.messages.notary import NotarizationReceipt, NotaryServiceClient
from afdp.rpc import GrpcCaller, open_channel
from afdp.rpc.codec import decoder
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, message

KILLS = 20
CLIENTS = 8
BETWEEN = 8  # receipts that are acknowledged between two kills


@dataclass
class Deployment:
    """The stack with a second notary and a second replica of the log."""

    stack: Stack
    replicas: list[Supervised]
    read_urls: list[str]
    notaries: tuple[str, str]  # addresses
    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def notarise(self, rest: httpx.AsyncClient) -> None:
        """One package, tried under its key until it is acknowledged, as a patient client does."""
        body, key = {"evidence_package": package()}, str(uuid.uuid4())
        while True:
            with suppress(httpx.TransportError):
                answer = await rest.post("/api/v1/evidence/sign", json=body, headers={"Idempotency-Key": key})
                if answer.status_code == 200:
                    break
                assert answer.status_code in (503, 504), answer.text
            await asyncio.sleep(0.1)
        async with self.more:
            self.acknowledged.append(answer.json()["receipt"])
            self.more.notify_all()

    async def until_acknowledged(self, count: int) -> None:
        async with asyncio.timeout(60), self.more:
            await self.more.wait_for(lambda: len(self.acknowledged) >= count)

    def kill_one(self, chance: random.Random) -> None:
        """Kills one of the replicas that run just now."""
        for victim in chance.sample(self.replicas, len(self.replicas)):
            with suppress(Unavailable, ProcessLookupError):  # it is being started, or was killed just now
                os.kill(victim.pid, signal.SIGKILL)
                return


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def deployment() -> AsyncIterator[Deployment]:
    offset = free_offset()
    ports = Stack(StackOptions(Path(), offset))
    second = {"notary": free_port(), "transparency": free_port(), "metadata": free_port()}
    address = {name: f"127.0.0.1:{ports.port(name)},127.0.0.1:{port}" for name, port in second.items()}
    notary = {
        "AFDP_TRANSPARENCY_ADDRESS": address["transparency"],
        "AFDP_STAGE_TIMEOUT_SECONDS": "3",
        **NO_KEY_RECORDS,
    }
    settings = {"notary": notary, "gateway": {"AFDP_NOTARY_ADDRESS": address["notary"]}}
    async with AsyncExitStack() as parts:
        folder = parts.enter_context(open_folder())
        stack = await parts.enter_async_context(running_stack(StackOptions(folder / "data", offset, settings=settings)))
        http = free_port()
        own = {"AFDP_DATABASE_URL": stack.database_url, "AFDP_HTTP_PORT": str(http)}
        replica = await parts.enter_async_context(_second(stack, "transparency", second["transparency"], own))
        own = {"AFDP_DATABASE_URL": stack.database_url}
        await parts.enter_async_context(_second(stack, "metadata", second["metadata"], own))
        apart = {**notary, "AFDP_METADATA_ADDRESS": f"127.0.0.1:{second['metadata']}"}
        await parts.enter_async_context(_second(stack, "notary", second["notary"], apart))
        urls = [stack.log_url, f"http://127.0.0.1:{http}"]
        notaries = f"127.0.0.1:{ports.port('notary')}", f"127.0.0.1:{second['notary']}"
        yield Deployment(stack, [stack.server("transparency"), replica], urls, notaries)


@asynccontextmanager
async def _second(stack: Stack, service: str, port: int, settings: Mapping[str, str]) -> AsyncIterator[Supervised]:
    """One more process of a service, which is started again when it dies."""
    own = {**stack.settings(service), "AFDP_PORT": str(port), "AFDP_METRICS_PORT": "0", **settings}

    async def start() -> ServerProcess:
        return await ServerProcess.spawn(
            f"{service}-2",
            [sys.executable, "-m", f"afdp.{service}"],
            log=stack.data_dir / "logs" / f"{service}-2.log",
            environment={"PATH": os.environ["PATH"], **own},
        )

    server = Supervised(f"{service}-2", start)
    await server.begin()
    try:
        yield server
    finally:
        await server.end()


@pytest_asyncio.fixture(loop_scope="session")
async def both(deployment: Deployment) -> AsyncIterator[list[NotaryServiceClient]]:
    """The two notaries, each asked by itself."""
    async with AsyncExitStack() as channels:
        opened = [await channels.enter_async_context(open_channel(each)) for each in deployment.notaries]
        clients = [NotaryServiceClient(GrpcCaller(channel)) for channel in opened]
        async with asyncio.timeout(60):
            for client in clients:
                await _until_it_notarises(client)
        yield clients


async def _until_it_notarises(notary: NotaryServiceClient) -> None:
    while True:
        with suppress(Unavailable):
            await notary.sign_evidence(_request("SignEvidence", {"evidence_package": package()}), timeout=60)
            return
        await asyncio.sleep(0.1)


async def test_one_key_or_dedupe_at_two_notaries_at_once_makes_one_record(
    both: list[NotaryServiceClient], deployment: Deployment
) -> None:
    async def ask(notary: NotaryServiceClient, sent: dict[str, Any], how: dict[str, Any]) -> NotarizationReceipt:
        answer = await notary.sign_evidence(_request("SignEvidence", {"evidence_package": sent, **how}), timeout=60)
        assert answer.receipt is not None
        return answer.receipt

    for round_ in range(12):
        key = {"idempotency_key": f"both {uuid.uuid4()}"}
        ways = [key], [{"dedupe": True}], [{**key, "dedupe": True}], [key, {**key, "dedupe": True}]
        sent, how = package(), ways[round_ % len(ways)]
        calls = [ask(both[n % 2], sent, how[n // 2 % len(how)]) for n in range(16)]
        receipts = await asyncio.gather(*calls)

        assert all(each == receipts[0] for each in receipts), how
        assert await _records_of(deployment.stack.url, receipts[0].evidence_package_hash) == 1


async def test_one_batch_at_two_notaries_at_once_is_one_batch_and_of_two_one_is_refused(
    both: list[NotaryServiceClient],
) -> None:
    for _ in range(4):
        key, sent = str(uuid.uuid4()), [package() for _ in range(10)]
        request = _request("SignEvidenceBatch", {"evidence_packages": sent, "idempotency_key": key})
        answers = await asyncio.gather(*(both[n % 2].sign_evidence_batch(request, timeout=60) for n in range(6)))
        assert len({each.batch_workflow_id for each in answers}) == 1
        made = {tuple(item.receipt.receipt_id if item.receipt else "" for item in each.results) for each in answers}
        assert len(made) == 1
        assert all(made.pop())

    for _ in range(4):
        key = str(uuid.uuid4())
        requests = [_request("SignEvidence", {"evidence_package": package(), "idempotency_key": key}) for _ in both]
        calls = (notary.sign_evidence(each, timeout=60) for notary, each in zip(both, requests, strict=True))
        one, other = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(one, AlreadyExists) is not isinstance(other, AlreadyExists), (one, other)


def _request(method: str, body: dict[str, Any]) -> Any:
    return decoder(BUILT[method].request)(message(BUILT[method], body).SerializeToString())


async def _records_of(url: str, evidence_hash: str) -> int:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as rest:
        found = await rest.get("/api/v1/evidence", params={"evidence_package_hash": evidence_hash})
        return len(found.raise_for_status().json()["evidence"])


async def test_replicas_of_which_one_is_killed_twenty_times_under_load_make_one_history(
    deployment: Deployment,
) -> None:
    chance, over, seen = random.Random(11), asyncio.Event(), set[str]()
    async with httpx.AsyncClient(base_url=deployment.stack.url, trust_env=False, timeout=10) as rest:
        trust = await fetch_trust(rest)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(_load(deployment, rest, over))
            for url in deployment.read_urls:
                tasks.create_task(_watch(url, seen, over))
            for _ in range(KILLS):
                await deployment.until_acknowledged(len(deployment.acknowledged) + BETWEEN)
                await asyncio.sleep(chance.random() / 20)  # anywhere within a batch
                deployment.kill_one(chance)
            await deployment.until_acknowledged(len(deployment.acknowledged) + BETWEEN)
            over.set()

    leaves = await _leaves(deployment.stack.database_url)
    assert len(set(leaves)) == len(leaves)
    receipts = [Receipt.from_object(each) for each in deployment.acknowledged]
    assert len({receipt.log_index for receipt in receipts}) == len(receipts)
    for receipt in receipts:
        assert verify_receipt(receipt, trust).verified
        assert leaves[receipt.log_index].hex() == receipt.rekor_log_id
    seen.update(receipt.bundle.entry.checkpoint for receipt in receipts if receipt.bundle.entry)
    _assert_one_history(seen, trust.logs[0].vkey, leaves)


async def _load(deployment: Deployment, rest: httpx.AsyncClient, over: asyncio.Event) -> None:
    while not over.is_set():
        await deployment.notarise(rest)


async def _watch(url: str, seen: set[str], over: asyncio.Event) -> None:
    """Keeps every checkpoint that a replica serves; it only ever grows."""
    largest = 0
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=5) as client:
        while not over.is_set():
            with suppress(httpx.TransportError):
                answer = await client.get("/checkpoint")
                if answer.status_code == 200:
                    size = Checkpoint.parse(Note.parse(answer.text).text).size
                    assert size >= largest
                    largest = size
                    seen.add(answer.text)
            await asyncio.sleep(0.02)


async def _leaves(database: str) -> list[bytes]:
    """The leaf hashes, each computed from its entry, in their order."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT leaf_index, body FROM afdp_log.entry WHERE log_id = 1 ORDER BY leaf_index"
        )
    finally:
        await connection.close()
    assert [row["leaf_index"] for row in rows] == list(range(len(rows)))
    return [sha256(b"\x00" + row["body"]).digest() for row in rows]


def _assert_one_history(notes: set[str], vkey: VerifierKey, leaves: list[bytes]) -> None:
    """Every checkpoint that was ever seen is the root of the first so many entries of the one log there is."""
    roots, edge = [Frontier.empty().root()], Frontier.empty()
    for leaf in leaves:
        edge = extend(edge, [leaf]).new
        roots.append(edge.root())
    for each in notes:
        note = Note.parse(each)
        verify(note, [vkey])
        checkpoint = Checkpoint.parse(note.text)
        assert checkpoint.root == roots[checkpoint.size]
    assert len(notes) > KILLS
