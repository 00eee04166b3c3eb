"""Several logs in one deployment: tenants with logs of their own, and shards in time, under load and after restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest_asyncio

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import NotaryError
from afdp.formats.encoding import from_b64
from afdp.formats.evidence import canonical_evidence, evidence_from_json
from afdp.formats.merkle import leaf_hash
from afdp.formats.statement import Submitter
from afdp.formats.tiles import TileRef, decode_bundle, tiles_at
from afdp.messages.metadata import ListPendingRequest, MetadataServiceClient, RecordState
from afdp.messages.signer import SignerServiceClient
from afdp.messages.transparency import AppendRequest, TransparencyServiceClient
from afdp.notary.keys import KeyDirectory
from afdp.notary.model import CheckedEvidence, Order, Outcome, Principal, Submission
from afdp.notary.pipeline import Limits, Pipeline, Prepared, Stages
from afdp.notary.queue import FairQueue
from afdp.notary.recovery import Recovery
from afdp.rpc import GrpcCaller, open_channel
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.foreign_verifiers import Verifiers

FIRST = "notary.localhost"
SIGN = "/api/v1/evidence/sign"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shards() -> AsyncIterator[Stack]:
    """A stack whose signer signs for every log under its own origin."""
    settings = {"signer": {"AFDP_LOG_ORIGINS": f"{FIRST},*.{FIRST}"}, "notary": NO_KEY_RECORDS}
    with open_folder() as folder:
        async with running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as running:
            yield running


AFDP_LOG = ("afdp.cli", "log")
OPEN, FREEZE = (("afdp.transparency", command) for command in ("open-log", "freeze-log"))


async def operate(stack: Stack, *arguments: str, code: int = 0) -> str:
    """What `afdp log …` runs, or that itself, on the machine of the log service."""
    environment = {
        **os.environ,
        **stack.settings("transparency"),
        "AFDP_DATABASE_URL": stack.database_url,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == code, error.decode()
    return (out + error).decode()


def log_of(receipt: dict[str, Any]) -> str:
    """The origin of the log that holds a receipt's entry, as its checkpoint says."""
    [entry] = receipt["bundle"]["verificationMaterial"]["tlogEntries"]
    return str(entry["inclusionProof"]["checkpoint"]["envelope"].split("\n")[0])


async def entries_of(rest: httpx.AsyncClient, origin: str) -> list[bytes]:
    """What a log serves to anyone, through the gateway."""
    checkpoint = (await rest.get(f"/log/logs/{origin}/checkpoint")).raise_for_status().text.split("\n")
    assert checkpoint[0] == origin
    found: list[bytes] = []
    for ref in tiles_at(int(checkpoint[1]), None):
        found += await _bundle(rest, origin, ref)
    return found


async def _bundle(rest: httpx.AsyncClient, origin: str, ref: TileRef) -> list[bytes]:
    answer = (await rest.get(f"/log/logs/{origin}/{ref.path()}")).raise_for_status()
    return list(decode_bundle(answer.content, ref.width))


async def test_logs_are_opened_and_frozen_under_load_without_one_failed_request(
    shards: Stack, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")
    artifact = {"name": "model.bin", "uri": "", "hash_sha256": sha256(b"weights").hexdigest()}
    receipts: list[dict[str, Any]] = []
    grown, ended = asyncio.Event(), asyncio.Event()

    async with httpx.AsyncClient(base_url=shards.url, trust_env=False, timeout=60) as rest:

        async def write() -> None:
            while not ended.is_set():
                answer = await rest.post(SIGN, json={"evidence_package": package(artifacts=[artifact])})
                assert answer.status_code == 200, answer.text
                receipts.append(answer.json()["receipt"])
                grown.set()

        async def until_in(origin: str) -> dict[str, Any]:
            async with asyncio.timeout(60):
                while True:
                    grown.clear()
                    await grown.wait()
                    if log_of(receipts[-1]) == origin:
                        return receipts[-1]

        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(write())
            kept = [await until_in(FIRST)]
            own, following = f"2026.{FIRST}", f"2027.{FIRST}"
            opened = await operate(shards, *AFDP_LOG, "open", own, "--tenant", "default")
            kept.append(await until_in(own))
            await operate(shards, *AFDP_LOG, "open", following, "--successor-of", own)
            listed = json.loads(await operate(shards, *AFDP_LOG, "list", "--json"))["logs"]
            frozen = await operate(shards, *AFDP_LOG, "freeze", own)
            kept.append(await until_in(following))
            ended.set()

        # Each record once, in the log that its receipt names; and a log of a tenant's own holds nothing else.
        for origin in (FIRST, own, following):
            named = {_leaf(each) for each in receipts if log_of(each) == origin}
            assert named == {leaf_hash(entry) for entry in await entries_of(rest, origin)}
        places = Counter((log_of(each), _index(each)) for each in receipts)
        assert max(places.values()) == 1
        trust = (await rest.get("/api/v1/trust-root")).raise_for_status().json()["files"]

    assert f"{own} is open, for default" in opened
    assert f"{following} goes on" in frozen
    assert [(each["origin"], each["state"]) for each in listed] == [
        (FIRST, "open"),
        (own, "open"),
        (following, "standby"),
    ]
    for file in trust:
        (tmp_path / "trust" / file["name"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trust" / file["name"]).write_text(file["content"])
    verifiers = Verifiers(tool, tmp_path)
    for receipt, origin in zip(kept, (FIRST, own, following), strict=True):
        verifiers.write(receipt)
        assert verifiers.afdp()
        assert verifiers.cosign(key="afdp-file-key:1")
        base = f"{shards.url}/log" + ("" if origin == FIRST else f"/logs/{origin}")
        assert receipt["rekor_server_url"] == base
    # The proof of one log under the name of another is none.
    forged = json.loads(json.dumps(kept[1]))
    theirs = kept[2]["bundle"]["verificationMaterial"]["tlogEntries"][0]
    forged["bundle"]["verificationMaterial"]["tlogEntries"][0]["logId"] = theirs["logId"]
    verifiers.write(forged)
    assert not verifiers.afdp()
    assert not verifiers.cosign(key="afdp-file-key:1")


def _index(receipt: dict[str, Any]) -> str:
    return str(receipt["bundle"]["verificationMaterial"]["tlogEntries"][0]["logIndex"])


def _leaf(receipt: dict[str, Any]) -> bytes:
    return leaf_hash(from_b64(receipt["bundle"]["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"]))


async def test_after_a_restart_every_log_is_served_and_the_frozen_one_takes_nothing(shards: Stack) -> None:
    os.kill(shards.server("transparency").pid, signal.SIGKILL)
    async with httpx.AsyncClient(base_url=shards.url, trust_env=False, timeout=60) as rest:
        async with asyncio.timeout(60):
            for path in (f"/log/logs/2026.{FIRST}/checkpoint", "/ready?writes=1"):  # reads are there before writes
                while (await rest.get(path)).status_code != 200:  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(0.1)
        size = len(await entries_of(rest, f"2026.{FIRST}"))
        receipt = (await rest.post(SIGN, json={"evidence_package": package()})).raise_for_status().json()["receipt"]

        assert log_of(receipt) == f"2027.{FIRST}"
        assert len(await entries_of(rest, f"2026.{FIRST}")) == size
        assert (await rest.get("/log/logs/2028.notary.localhost/checkpoint")).status_code == 404
    assert "must be the origin of a log" in await operate(shards, *FREEZE, f"2028.{FIRST}", code=2)
    assert "notary.localhost: " in await operate(shards, *AFDP_LOG, "fsck", "database")


# --- many tenants -----------------------------------------------------------------------------------------------------


class NoStamps:
    """No receipt is stamped outside."""

    def asks_for(self, tenant: str, event_type: str) -> bool:
        return False

    def ask(self) -> None:
        return None


class NoExternalLogs:
    """No record goes to a log of others."""

    main = ""
    more = ()

    def wait(self, waiting: Sequence[Prepared]) -> None:
        assert not waiting

    def ask(self) -> None:
        return None


class Peers:
    """A notary's pipeline beside the stack's own, which may act for any tenant."""

    def __init__(self, signer: Any, transparency: Any, metadata: Any) -> None:
        self.keys = KeyDirectory(SignerServiceClient(signer), TransparencyServiceClient(transparency))
        self.metadata = MetadataServiceClient(metadata)
        self.stages = Stages(SignerServiceClient(signer), self.metadata, self.keys, NoStamps(), NoExternalLogs(), 10.0)
        self.recovery = Recovery(self.metadata, self.stages, 0.5, 10.0)
        self.pipeline = Pipeline(
            FairQueue[Submission](4096, 2**26), self.stages, Limits(64, 2**24), on_unfinished=lambda: None
        )

    async def notarise(self, tenant: str) -> Outcome:
        evidence = evidence_from_json(package())
        canonical = canonical_evidence(evidence)
        checked = CheckedEvidence(evidence, canonical, sha256(canonical).digest())
        return await self.pipeline.notarise(Order(checked, Principal(tenant, Submitter("test", tenant, "none"))))

    async def pending(self) -> int:
        return len((await self.metadata.list_pending(ListPendingRequest(page_size=100))).records)


class Heard:
    """The way to the log service, and each append that went there."""

    def __init__(self, inner: GrpcCaller) -> None:
        self._inner = inner
        self.appends: list[AppendRequest] = []

    async def unary_unary(self, method: str, request: Any, timeout: float | None) -> Any:
        if isinstance(request, AppendRequest):
            self.appends.append(request)
        return await self._inner.unary_unary(method, request, timeout)


async def test_the_log_is_told_since_when_what_is_new_can_be_in_it_and_of_what_is_recovered_it_is_not(
    shards: Stack,
) -> None:
    async with AsyncExitStack() as opened:
        signer, log, metadata = [
            GrpcCaller(await opened.enter_async_context(open_channel(f"{LOOPBACK}:{shards.port(name)}")))
            for name in ("signer", "transparency", "metadata")
        ]
        peers = Peers(signer, heard := Heard(log), metadata)
        running = asyncio.create_task(peers.pipeline.run())
        logged = [(await peers.notarise("somebody")).record for _ in range(3)]
        await peers.stages.log(logged)
        running.cancel()

    sizes = [record.log.tree_size for record in logged if record.log]
    assert [append.made_after_size for append in heard.appends] == [0, sizes[0], sizes[1], 0]
    for append, record in zip(heard.appends, logged, strict=False):
        assert record.log
        assert append.made_after_size <= record.log.log_index


@asynccontextmanager
async def peers_of(stack: Stack) -> AsyncIterator[Peers]:
    async with AsyncExitStack() as opened:
        channels = [
            await opened.enter_async_context(open_channel(f"{LOOPBACK}:{stack.port(name)}"))
            for name in ("signer", "transparency", "metadata")
        ]
        peers = Peers(*map(GrpcCaller, channels))
        running = asyncio.create_task(peers.pipeline.run())
        yield peers
        running.cancel()


async def test_each_tenants_records_are_in_its_own_log_and_the_failure_of_one_log_is_its_tenants_alone(
    shards: Stack,
) -> None:
    acme, bank = f"acme.{FIRST}", f"bank.{FIRST}"
    await operate(shards, *OPEN, acme, "--tenant", "acme")
    await operate(shards, *OPEN, bank, "--tenant", "bank", "--tenant", "bank-labs")
    async with (
        peers_of(shards) as peers,
        httpx.AsyncClient(base_url=shards.url, trust_env=False, timeout=60) as rest,
    ):
        tenants = ("acme", "bank", "bank-labs", "somebody")
        outcomes = await asyncio.gather(*(peers.notarise(tenant) for tenant in tenants * 8))
        logs = {"acme": acme, "bank": bank, "bank-labs": bank, "somebody": FIRST}
        leaves: dict[str, set[bytes]] = {}
        for tenant, outcome in zip(tenants * 8, outcomes, strict=True):
            assert outcome.record.log
            assert outcome.record.draft
            assert (outcome.record.state, outcome.record.log.origin) == (RecordState.LOGGED, logs[tenant])
            leaves.setdefault(logs[tenant], set()).add(outcome.record.draft.leaf_hash)
        assert {leaf_hash(entry) for entry in await entries_of(rest, acme)} == leaves[acme]
        assert {leaf_hash(entry) for entry in await entries_of(rest, bank)} == leaves[bank]

        database = await asyncpg.connect(shards.database_url, server_settings={"search_path": "afdp_log"})
        [number, root] = await database.fetchrow("SELECT log_id, root FROM tree WHERE origin = $1", acme)
        await database.execute("UPDATE tree SET root = sha256(root) WHERE log_id = $1", number)
        mixed = await asyncio.gather(
            *(peers.notarise(tenant) for tenant in tenants * 4), return_exceptions=True
        )  # in one batch, or in a few
        for tenant, each in zip(tenants * 4, mixed, strict=True):
            assert isinstance(each, NotaryError if tenant == "acme" else Outcome), (tenant, each)
        assert await peers.pending() == 4

        # The log is repaired and frozen before anybody has finished what waits: it goes on in the successor, once.
        await database.execute("UPDATE tree SET root = $2 WHERE log_id = $1", number, root)
        await database.close()
        await operate(shards, *OPEN, f"acme-2027.{FIRST}", "--successor-of", acme)
        await operate(shards, *FREEZE, acme)
        os.kill(shards.server("transparency").pid, signal.SIGKILL)
        recovering = asyncio.create_task(peers.recovery.run())
        async with asyncio.timeout(60):
            while await peers.pending():  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.1)
        recovering.cancel()
        assert len(await entries_of(rest, acme)) == 8
        assert len(await entries_of(rest, f"acme-2027.{FIRST}")) == 4


async def test_where_a_tenants_log_is_frozen_without_a_successor_its_evidence_is_refused_and_nobody_elses(
    shards: Stack,
) -> None:
    await operate(shards, *OPEN, f"gone.{FIRST}", "--tenant", "gone")
    said = await operate(shards, *FREEZE, f"gone.{FIRST}")

    async with peers_of(shards) as peers:
        refused, taken = await asyncio.gather(
            peers.notarise("gone"), peers.notarise("somebody"), return_exceptions=True
        )
        await operate(shards, *OPEN, f"back.{FIRST}", "--successor-of", f"gone.{FIRST}")
        peers.keys.logs.forget()
        back = await peers.notarise("gone")

    assert "nothing goes on from it" in said
    assert isinstance(refused, NotaryError)
    assert refused.message.startswith(f"the log gone.{FIRST} is frozen, and no log goes on from it")
    assert isinstance(taken, Outcome)
    assert back.record.log
    assert back.record.log.origin == f"back.{FIRST}"
