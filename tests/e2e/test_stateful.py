"""Sign, retry, dedupe, batch, crash and reconcile, in whatever order: the real stack does what a small model says.

Each request has a key and is tried until it is answered, as a patient client does; so the model knows every record.
`AFDP_TEST_STATEFUL_EXAMPLES` and `…_STEPS` make it longer, with other examples each time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any, ClassVar

import httpx
import pytest_asyncio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import Unavailable
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.notary.reconciling import Progress
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import BATCH, SIGN
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.e2e.reconciled import reconciled

EXAMPLES, STEPS = (
    int(os.environ.get(f"AFDP_TEST_STATEFUL_{name}", default)) for name, default in (("EXAMPLES", 5), ("STEPS", 20))
)
LONGER = "AFDP_TEST_STATEFUL_EXAMPLES" in os.environ
PATIENCE = 120.0  # seconds until a request is answered, whatever was killed meanwhile
VICTIMS = ("notary", "signer", "transparency", "metadata", "gateway", "postgres")
EVIDENCE = st.integers(0, 3)


@pytest_asyncio.fixture(loop_scope="session")
async def own_stack() -> AsyncIterator[Stack]:
    notary = {**NO_KEY_RECORDS, "AFDP_STAGE_TIMEOUT_SECONDS": "3"}
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), settings={"notary": notary})
        async with running_stack(options) as running:
            yield running


async def test_whatever_is_done_in_whatever_order_the_records_are_those_of_the_model(own_stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=own_stack.url, trust_env=False, timeout=30) as rest:
        trust = await fetch_trust(rest)

    class Machine(Notarising):
        stack, trust_root, loop = own_stack, trust, asyncio.get_running_loop()

    await asyncio.to_thread(
        run_state_machine_as_test,
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=not LONGER,
            database=None,
            deadline=None,
            # What fails here is not made smaller: each step takes a real server's time.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


class Notarising(RuleBasedStateMachine):
    """One client of a stack, and what it knows of it."""

    stack: ClassVar[Stack]
    trust_root: ClassVar[TrustRoot]
    loop: ClassVar[asyncio.AbstractEventLoop]  # which the stack lives on

    keys = Bundle("keys")  # (key, number of the evidence, receipt ID)
    batches = Bundle("batches")  # (key, numbers, whether deduped, answer)

    def __init__(self) -> None:
        super().__init__()
        self.rest = httpx.Client(base_url=self.stack.url, trust_env=False, timeout=10)
        self.run = uuid.uuid4().hex
        self.receipts: dict[str, dict[str, Any]] = {}
        self.of_evidence: dict[int, list[str]] = defaultdict(list)
        self.newest: dict[int, set[str]] = {}  # one of them is the newest
        self.asked = self.asked_before_crash = self.asked_before_reconciling = 0
        self.alone = itertools.count(100)
        self.killers: list[threading.Timer] = []

    # --- what a client does -------------------------------------------------------------------------------------------

    @initialize(target=keys)
    def begin(self) -> tuple[str, int, str]:
        return self.sign(0, "logged")

    @initialize(target=batches)
    def begin_a_batch(self) -> tuple[str, list[int], bool, Any]:
        return self.batch([0, 1, 1], dedupe=False)

    @rule(target=keys, number=EVIDENCE, wait_for=st.sampled_from(["signed", "logged"]))
    def sign(self, number: int, wait_for: str) -> tuple[str, int, str]:
        key = uuid.uuid4().hex
        receipt = self._signed(number, key, wait_for=wait_for)
        self._is_new(number, receipt)
        return key, number, receipt["receipt_id"]

    @rule()
    def sign_without_a_key(self) -> None:
        """Evidence of its own, once: where no answer comes nobody can tell what became of it."""
        number = next(self.alone)
        with suppress(httpx.TransportError):
            answer = self.rest.post(SIGN, json={"evidence_package": self._package(number)})
            assert answer.status_code in (200, 503, 504), answer.text
            if answer.status_code == 200:
                self._remember(answer.json()["receipt"])
                self._is_new(number, answer.json()["receipt"])

    @rule(known=keys)
    def retry(self, known: tuple[str, int, str]) -> None:
        key, number, receipt_id = known
        assert self._signed(number, key)["receipt_id"] == receipt_id

    @rule(known=keys, number=EVIDENCE)
    def use_a_key_for_other_evidence(self, known: tuple[str, int, str], number: int) -> None:
        key, before, receipt_id = known
        if number == before:
            return
        answer = self._answer(SIGN, {"evidence_package": self._package(number)}, key)
        assert answer.status_code == 409
        assert {fault["field"] for fault in answer.json()["errors"]} == {
            "evidence_package.artifacts[0].hash_sha256",
            "evidence_package.metadata.number",
        }
        assert self._signed(before, key)["receipt_id"] == receipt_id

    @rule(target=keys, number=EVIDENCE)
    def dedupe(self, number: int) -> tuple[str, int, str]:
        key = uuid.uuid4().hex
        receipt = self._signed(number, key, dedupe=True)
        if number in self.newest:
            assert receipt["receipt_id"] in self.newest[number]
        else:
            self._is_new(number, receipt)
        return key, number, receipt["receipt_id"]

    @rule(target=batches, numbers=st.lists(EVIDENCE, min_size=1, max_size=6), dedupe=st.booleans())
    def batch(self, numbers: list[int], dedupe: bool) -> tuple[str, list[int], bool, Any]:
        key = uuid.uuid4().hex
        ids, answer = self._batched(numbers, key, dedupe)
        made: dict[int, set[str]] = defaultdict(set)
        for number, receipt_id in zip(numbers, ids, strict=True):
            if dedupe and number in self.newest:
                assert receipt_id in self.newest[number]
            else:
                made[number].add(receipt_id)
        for number, new in made.items():
            assert len(new) == (1 if dedupe else numbers.count(number))
            self.of_evidence[number] += new
            self.newest[number] = new
        return key, numbers, dedupe, (ids, answer)

    @rule(known=batches)
    def retry_a_batch(self, known: tuple[str, list[int], bool, Any]) -> None:
        key, numbers, dedupe, before = known
        assert self._batched(numbers, key, dedupe) == before

    @rule(known=consumes(batches))
    def use_a_batchs_key_for_another(self, known: tuple[str, list[int], bool, Any]) -> None:
        key, numbers, _, _ = known
        others = [self._package(number) for number in [*numbers, 0]]
        answer = self._answer(BATCH, {"evidence_packages": others}, key)
        assert answer.status_code == 409
        assert {"field": "evidence_packages", "message": f"were {len(numbers)}"} in answer.json()["errors"]

    # --- what happens to it -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.asked - self.asked_before_crash >= 2)
    @rule(victim=st.sampled_from(VICTIMS), milliseconds=st.integers(0, 60))
    def crash(self, victim: str, milliseconds: int) -> None:
        """Some moment of what comes next."""
        self.asked_before_crash = self.asked
        killer = threading.Timer(milliseconds / 1000, self._kill, [victim])
        killer.start()
        self.killers.append(killer)

    @precondition(lambda self: self.receipts)
    @rule(chance=st.randoms(use_true_random=False))
    def read(self, chance: random.Random) -> None:
        receipt_id = chance.choice(sorted(self.receipts))
        answer = self._until_answered(lambda: self.rest.get(f"/api/v1/receipts/{receipt_id}"))
        assert answer.status_code == 200
        again, before = answer.json()["receipt"], self.receipts[receipt_id]
        assert again["signature_b64"] == before["signature_b64"]
        if before["state"] == "logged":
            assert again == before

    @precondition(lambda self: self.asked - self.asked_before_reconciling >= 5)
    @rule()
    def reconcile(self) -> None:
        self.asked_before_reconciling = self.asked
        self._wait_for_killers()
        closed = self._reconciled(close=True)
        assert closed.open == 0, closed.gaps
        assert self._reconciled(close=False).gaps == []

    @invariant()
    def no_receipt_stands_twice(self) -> None:
        everything = [receipt_id for ids in self.of_evidence.values() for receipt_id in ids]
        assert len(everything) == len(set(everything)) == len(self.receipts)

    def teardown(self) -> None:
        """Every record is there, is one of the model's, and its receipt verifies."""
        self.reconcile()
        for number, ids in self.of_evidence.items():
            evidence_hash = self.receipts[ids[0]]["evidence_package_hash"]
            found = self._until_answered(partial(self.rest.get, f"/api/v1/evidence/{evidence_hash}"))
            assert found.json()["receipt_count"] == len(ids), number
        for receipt_id in self.receipts:
            found = self._until_answered(partial(self.rest.get, f"/api/v1/receipts/{receipt_id}"))
            receipt = found.json()["receipt"]
            assert receipt["state"] == "logged"
            assert verify_receipt(Receipt.from_object(receipt), self.trust_root).verified
        self.rest.close()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _package(self, number: int) -> dict[str, Any]:
        artifact = {"name": "m", "uri": "", "hash_sha256": sha256(f"{self.run} {number}".encode()).hexdigest()}
        return package(artifacts=[artifact], metadata={"number": number, "run": self.run})

    def _signed(self, number: int, key: str, **more: object) -> dict[str, Any]:
        answer = self._answer(SIGN, {"evidence_package": self._package(number), **more}, key)
        assert answer.status_code == 200, answer.text
        receipt: dict[str, Any] = answer.json()["receipt"]
        self._remember(receipt)
        return receipt

    def _batched(self, numbers: list[int], key: str, dedupe: bool) -> tuple[list[str], str]:
        """The receipt IDs and the batch's ID, once every item has its receipt."""
        sent = {"evidence_packages": [self._package(number) for number in numbers], "dedupe": dedupe}

        def all_good(answer: httpx.Response) -> bool:
            return answer.status_code != 200 or all(item["error"] is None for item in answer.json()["results"])

        answer = self._answer(BATCH, sent, key, all_good)
        assert answer.status_code == 200, answer.text
        receipts = [item["receipt"] for item in answer.json()["results"]]
        for receipt in receipts:
            self._remember(receipt)
        return [receipt["receipt_id"] for receipt in receipts], answer.json()["batch_workflow_id"]

    def _remember(self, receipt: dict[str, Any]) -> None:
        before = self.receipts.get(receipt["receipt_id"])
        if before is None or before["state"] == "signed":
            self.receipts[receipt["receipt_id"]] = receipt
        elif receipt["state"] == "logged":
            assert receipt == before

    def _is_new(self, number: int, receipt: dict[str, Any]) -> None:
        self.of_evidence[number].append(receipt["receipt_id"])
        self.newest[number] = {receipt["receipt_id"]}

    def _answer(self, path: str, sent: dict[str, Any], key: str, good: Any = lambda answer: True) -> httpx.Response:
        self.asked += 1
        headers = {"Idempotency-Key": key}
        return self._until_answered(lambda: self.rest.post(path, json=sent, headers=headers), good)

    def _until_answered(self, ask: Any, good: Any = lambda answer: True) -> httpx.Response:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                answer: httpx.Response = ask()
                if answer.status_code not in (503, 504) and good(answer):
                    return answer
            time.sleep(0.05)
        raise AssertionError("nothing was answered")

    def _reconciled(self, *, close: bool) -> Progress:
        return asyncio.run_coroutine_threadsafe(reconciled(self.stack, close=close), self.loop).result(PATIENCE)

    def _kill(self, victim: str) -> None:
        with suppress(Unavailable, ProcessLookupError):  # it is being started just now
            os.kill(self.stack.server(victim).pid, signal.SIGKILL)

    def _wait_for_killers(self) -> None:
        """Nothing is killed any more, and all that was is back."""
        for killer in self.killers:
            killer.join()
        self.killers.clear()
        self._until_answered(lambda: self.rest.get("/ready", params={"writes": "true"}))
