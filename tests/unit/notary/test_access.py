"""The way in: who is let through, what is said to whom, and what is on record of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from afdp.errors import NotaryError, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable
from afdp.formats.evidence import canonical_evidence
from afdp.formats.statement import Submitter
from afdp.notary.access import admitted
from afdp.notary.access.audit import AuditEvent
from afdp.notary.access.checking import policies as check_policies
from afdp.notary.access.gate import Gate
from afdp.notary.access.given import Listed
from afdp.notary.access.key_rights import KeyRights
from afdp.notary.access.labels import UNKNOWN, Labels
from afdp.notary.access.log_trail import LogTrail
from afdp.notary.access.open import OnThisMachine
from afdp.notary.access.policies import LivePolicies
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.config import NotarySettings
from afdp.notary.lifecycle import ITSELF
from afdp.notary.model import Attributes, CheckedEvidence, Principal
from afdp.notary.service import Notary
from afdp.policy.facts import Deployment, EvidenceFacts
from afdp.policy.sources import PolicyError
from afdp.rpc import answer
from afdp.rpc.caller import Caller, caller
from afdp.rpc.descriptors import Method, service_methods
from afdp.tls.peers import PeerRefused
from tests.local_notary import MODEL, evidence_of

LEVELS = ("public", "internal", "secret")
METHODS = {each.name: each for each in service_methods("afdp.notary.v1.NotaryService")}
ENGINEER = Principal("acme", Submitter("https://issuer", "alice", "oidc"), frozenset({"ai_engineer"}))
CLEARANCE = """
@id("clearance")
forbid (principal, action, resource is Evidence) when { resource.classification > principal.clearance };
"""


@dataclass
class Believing:
    """An authenticator that knows one credential."""

    principal: Principal = ENGINEER

    async def authenticate(self, caller: Caller) -> Principal:
        if caller.authorization == "Bearer away":
            raise Unavailable("the issuer cannot be asked", retry_after=1.0)
        if caller.authorization != "Bearer good":
            raise CredentialRefused("its signature is wrong")
        return self.principal


class Once:
    """A limiter that is at its bound."""

    async def admit(self, principal: Principal, method: Method) -> None:
        raise ResourceExhausted("10 calls a second are allowed", retry_after=1.0)


@dataclass
class Kept:
    """A trail that can be looked at."""

    events: list[AuditEvent] = field(default_factory=list)

    def record(self, event: AuditEvent) -> None:
        self.events.append(event)


@pytest.fixture
def trail() -> Kept:
    return Kept()


def policies(*folders: Path) -> LivePolicies:
    names = [str(folder) for folder in folders]
    return LivePolicies(["builtin", *names], Deployment(LEVELS, frozenset({"default"})), 60.0)


def gate(trail: Kept, *folders: Path, principal: Principal = ENGINEER, limiter: Once | None = None) -> Gate:
    labels = Labels(LEVELS, ["metadata.classification", "metadata.more.level"], ["metadata.residency"])
    return Gate(Believing(principal), limiter, policies(*folders), labels, trail)


@contextmanager
def calling(authorization: str = "Bearer good") -> Iterator[None]:
    """A call with this credential; nobody is admitted yet."""
    answer.begin()
    tokens = caller.set(Caller(authorization, address="10.0.0.7")), admitted.principal.set(admitted.ANYBODY)
    try:
        yield
    finally:
        caller.reset(tokens[0])
        admitted.principal.reset(tokens[1])


def checked(**metadata: object) -> CheckedEvidence:
    package = evidence_of({"model.bin": MODEL}, **metadata)
    canonical = canonical_evidence(package)
    return CheckedEvidence(package, canonical, sha256(canonical).digest())


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_a_caller_with_the_permission_is_let_in_and_that_is_on_record(trail: Kept) -> None:
    with calling():
        await gate(trail).admit(METHODS["SignEvidence"])
        assert admitted.principal.get() is ENGINEER
    (event,) = trail.events
    assert (event.step, event.result, event.rpc, event.permission) == (
        "authorization",
        "allow",
        "SignEvidence",
        "evidence.create",
    )
    assert (event.issuer, event.subject, event.tenant, event.method) == ("https://issuer", "alice", "acme", "oidc")
    assert (event.policies, event.address) == (("role-ai-engineer",), "10.0.0.7")
    assert event.policy_hash == policies().hash


async def test_whoever_is_somebody_may_ask_who_that_is_and_hears_what_it_may_do(trail: Kept) -> None:
    access = gate(trail)
    with calling():
        await access.admit(METHODS["WhoAmI"])
        held, policy_hash = access.held(admitted.principal.get())
    with calling("Bearer bad"), pytest.raises(Unauthenticated):
        await access.admit(METHODS["WhoAmI"])

    assert {each.permission for each in held if each.allowed} == {"evidence.create", "evidence.read"}
    assert next(each for each in held if each.permission == "evidence.read").policies == ("role-ai-engineer",)
    assert policy_hash == policies().hash
    assert [(each.step, each.result, each.permission) for each in trail.events] == [
        ("authorization", "allow", "authenticated"),
        ("authentication", "deny", "authenticated"),
    ]


async def test_a_caller_without_the_permission_hears_which_one_it_lacks_and_no_policy(trail: Kept) -> None:
    with calling(), pytest.raises(PermissionDenied) as refused:
        await gate(trail).admit(METHODS["ListAuditEvents"])
    assert str(refused.value) == "you are not permitted to do this: it takes audit.read"
    (event,) = trail.events
    assert (event.result, event.subject, event.reason) == ("deny", "alice", "no policy permits it")


@pytest.mark.parametrize("authorization", ["", "Bearer bad", "Basic good"])
async def test_whoever_is_not_believed_hears_the_same_and_the_operator_hears_why(
    trail: Kept, authorization: str
) -> None:
    with calling(authorization), pytest.raises(Unauthenticated) as refused:
        await gate(trail).admit(METHODS["SignEvidence"])
    assert str(refused.value) == "the credentials are missing or not valid"
    assert answer.told() == (("www-authenticate", "Bearer"),)
    (event,) = trail.events
    assert (event.step, event.result, event.subject, event.reason) == (
        "authentication",
        "deny",
        "",
        "its signature is wrong",
    )


async def test_nobody_is_let_in_while_the_issuer_is_away(trail: Kept) -> None:
    with calling("Bearer away"), pytest.raises(Unavailable):
        await gate(trail).admit(METHODS["SignEvidence"])
    assert [(event.step, event.result) for event in trail.events] == [("authentication", "error")]


async def test_a_call_that_its_certificate_has_refused_is_on_record_whatever_it_asks_for(trail: Kept) -> None:
    refused = Unauthenticated("the credentials are missing or not valid")
    refused.__cause__ = PeerRefused("the certificate is revoked", "4711")
    with calling():
        for name in ("SignEvidence", "HealthCheck"):
            await gate(trail).admit(METHODS[name], refused)
        assert admitted.principal.get() is admitted.ANYBODY
    assert {(each.step, each.result, each.reason) for each in trail.events} == {
        ("authentication", "deny", "the certificate is revoked")
    }
    assert [each.rpc for each in trail.events] == ["SignEvidence", "HealthCheck"]


async def test_nobody_can_say_to_be_the_notary_itself(trail: Kept) -> None:
    with calling(), pytest.raises(Unauthenticated):
        await gate(trail, principal=ITSELF).admit(METHODS["SignEvidence"])


async def test_a_call_over_a_limit_is_on_record(trail: Kept) -> None:
    with calling(), pytest.raises(ResourceExhausted):
        await gate(trail, limiter=Once()).admit(METHODS["SignEvidence"])
    assert [(event.step, event.result, event.subject) for event in trail.events] == [("limit", "deny", "alice")]


@pytest.mark.parametrize("name", ["GetTrustRoot", "GetTrustFile", "HealthCheck"])
async def test_what_needs_no_permission_is_open_and_no_credential_is_looked_at(trail: Kept, name: str) -> None:
    with calling("Bearer bad"):
        await gate(trail).admit(METHODS[name])
    assert trail.events == []


async def test_nothing_is_let_in_that_cannot_be_recorded() -> None:
    class Full:
        def record(self, event: AuditEvent) -> None:
            raise Unavailable("the audit trail takes no events", retry_after=1.0)

    labels = Labels(LEVELS, [], [])
    with calling():
        with pytest.raises(Unavailable):
            await Gate(Believing(), None, policies(), labels, Full()).admit(METHODS["SignEvidence"])
        assert admitted.principal.get() is admitted.ANYBODY


async def test_with_access_off_only_this_machine_is_let_in_also_through_a_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admit = OnThisMachine(Kept()).admit
    for address in ("127.0.0.1", "::1"):
        caller.set(Caller(address=address))
        await admit(METHODS["SignEvidence"], None)
    for address in ("192.0.2.7", ""):  # an ingress may tell none
        caller.set(Caller(address=address))
        await admit(METHODS["HealthCheck"], None)
        with pytest.raises(PermissionDenied, match="nobody but its own machine"):
            await admit(METHODS["SignEvidence"], None)
    assert [each.message for each in caplog.records if "AFDP_AUTH is off" in each.message] == [caplog.messages[-1]]


# --- evidence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "allowed"),
    [
        ({}, True),
        ({"classification": "internal"}, True),
        ({"classification": "Secret"}, False),
        ({"classification": ["internal"]}, False),
        ({"classification": "of our own making"}, False),
        ({"classification": "internal", "more": {"level": "secret"}}, False),
        ({"more": "secret"}, True),
    ],
)
def test_the_classification_of_evidence_decides_who_notarises_and_who_sees_it(
    trail: Kept, tmp_path: Path, metadata: dict[str, object], allowed: bool
) -> None:
    (tmp_path / "clearance.cedar").write_text(CLEARANCE)
    way_in = gate(trail, tmp_path)
    cleared = replace(ENGINEER, attributes=Attributes(clearance="Internal"))
    evidence = checked(**metadata)
    if allowed:
        way_in.require_create(cleared, evidence)
    else:
        with pytest.raises(PermissionDenied, match=r"^you are not permitted to notarise this evidence$"):
            way_in.require_create(cleared, evidence)
    assert way_in.may_read(cleared, evidence.hash, evidence.canonical) is allowed
    assert [event.result for event in trail.events] == ["allow" if allowed else "deny"] * 2
    assert {event.resource for event in trail.events} == {f"evidence:{evidence.hash.hex()}"}
    assert way_in.may_list(cleared, [Listed("r-1", "ai.x", evidence.canonical)]) == [allowed]
    assert [(event.result, event.more) for event in trail.events[2:]] == (
        [] if allowed else [("deny", {"listed": 1, "first": "r-1", "last": "r-1"})]
    )
    assert all(event.policies for event in trail.events[2:])


def test_labels_that_nobody_knows_are_one_so_that_what_is_remembered_of_them_is_bounded() -> None:
    labels = Labels(LEVELS, ["metadata.classification"], ["metadata.residency"])
    assert labels.of("ai.x", {"classification": "SECRET", "residency": "e" * 64}) == EvidenceFacts(
        "ai.x", "secret", "e" * 64
    )
    assert labels.of("ai.x", {"classification": "x" * 1000, "residency": "e" * 65}) == EvidenceFacts(
        "ai.x", UNKNOWN, UNKNOWN
    )
    assert labels.of("ai.x", {}) == EvidenceFacts("ai.x")


def test_a_stream_ends_to_be_believed_when_its_credential_does(trail: Kept) -> None:
    way_in = gate(trail)
    now = datetime.now(UTC)
    way_in.require_create(replace(ENGINEER, attributes=Attributes(expires_at=now - timedelta(minutes=4))), checked())
    with pytest.raises(Unauthenticated):
        way_in.require_create(replace(ENGINEER, attributes=Attributes(expires_at=now - timedelta(hours=1))), checked())
    assert [(each.step, each.result) for each in trail.events] == [
        ("authorization", "allow"),
        ("authentication", "deny"),
    ]


def test_erased_evidence_ranks_above_all(trail: Kept, tmp_path: Path) -> None:
    (tmp_path / "clearance.cedar").write_text(CLEARANCE)
    cleared = replace(ENGINEER, attributes=Attributes(clearance="secret"))
    assert not gate(trail, tmp_path).may_read(cleared, b"\0" * 32, b"")


def test_the_notary_itself_is_not_asked(trail: Kept) -> None:
    way_in = gate(trail)
    way_in.require_create(ITSELF, checked())
    assert way_in.may_list(ITSELF, [Listed("r-1", "afdp.key.version.created")]) == [True]
    assert trail.events == []


def test_what_is_refused_for_being_the_operators_is_on_record(trail: Kept) -> None:
    no: Any = None
    rights = KeyRights(frozenset({"default"}))
    notary = Notary(no, no, no, no, no, no, 1.0, access=gate(trail), key_rights=rights, allowances=no)
    with pytest.raises(PermissionDenied):
        notary.require_operator(ENGINEER)
    (event,) = trail.events
    assert (event.result, event.subject, event.permission, event.resource) == (
        "deny",
        "alice",
        "keys.admin",
        "deployment:trust-root",
    )


# --- policies --------------------------------------------------------------------------------------------------------


async def test_changed_policies_are_taken_and_what_was_decided_before_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text('@id("a") permit (principal == Principal::"x|y", action, resource);')
    live = policies(tmp_path)
    before = live.decide(ENGINEER, "evidence.read", "GetReceipt", "")
    (tmp_path / "a.cedar").write_text('@id("a") forbid (principal, action, resource);')
    await live.reload()
    after = live.decide(ENGINEER, "evidence.read", "GetReceipt", "")
    assert (before.allowed, after.allowed, after.policies) == (True, False, ("a",))
    assert before.policy_hash != after.policy_hash == live.hash


async def test_wrong_policies_change_nothing_and_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.cedar").write_text('@id("a") permit (principal == Principal::"x|y", action, resource);')
    live = policies(tmp_path)
    before = live.hash
    (tmp_path / "a.cedar").write_text("\n\npermit everything;")
    await live.reload()
    await live.reload()
    assert live.hash == before
    assert live.decide(ENGINEER, "evidence.read", "GetReceipt", "").allowed
    (part,) = await live.status()
    assert not part.good
    (told,) = [each for each in caplog.records if each.name == "afdp.notary.access.policies"]
    assert told.levelname == "ERROR"
    assert told.__dict__["fields"]["faults"] == [f"{tmp_path}/a.cedar:3: unexpected token `everything`"]


async def test_the_check_of_a_service_tells_what_is_wrong_with_its_policies(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text("permit all;")
    (wrong,) = await check_policies(NotarySettings(auth="required", policies=("builtin", str(tmp_path))))
    assert (wrong.good, f"{tmp_path}/a.cedar:1: unexpected token `all`" in wrong.detail) == (False, True)
    (good,) = await check_policies(NotarySettings(auth="required"))
    assert (good.good, good.detail.startswith("6 policies")) == (True, True)
    assert list(await check_policies(NotarySettings())) == []


def test_policies_that_are_wrong_at_the_start_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"has no \*\.cedar file"):
        policies(tmp_path)


def test_a_decision_that_stands_on_the_time_is_made_anew_as_it_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.cedar").write_text('@id("late") forbid (principal, action, resource) when { context.hour >= 18 };')
    live = policies(tmp_path)

    class Clock(datetime):
        hours = 17

        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls(2026, 11, 24, cls.hours, 0, tzinfo=UTC)

    monkeypatch.setattr("afdp.notary.access.policies.datetime", Clock)
    assert live.decide(ENGINEER, "evidence.read", "GetReceipt", "").allowed
    Clock.hours = 18
    assert not live.decide(ENGINEER, "evidence.read", "GetReceipt", "").allowed


# --- the trail in the log --------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """Where the trail writes; `full` while it cannot."""

    written: bytes = b""
    full: bool = False
    refused: threading.Event = field(default_factory=threading.Event)
    wrote: threading.Event = field(default_factory=threading.Event)

    def write(self, lines: bytes) -> None:
        if self.full:
            self.refused.set()
            raise OSError("no space left")
        self.written += lines
        self.wrote.set()

    def lines(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.written.splitlines()]


def event(subject: str = "alice", **changes: object) -> AuditEvent:
    facts: dict[str, object] = {"request_id": "r-1", "subject": subject, **changes}
    return AuditEvent("authorization", "allow", "SignEvidence", "evidence.create", **facts)  # type: ignore[arg-type]


@asynccontextmanager
async def running(trail: LogTrail) -> AsyncIterator[None]:
    """The trail while it runs; it ends as its process does."""
    task = asyncio.create_task(trail.run())
    await asyncio.sleep(0)
    yield
    task.cancel()
    await asyncio.wait([task])


async def happens(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 20)


async def test_events_are_lines_of_json_in_their_order() -> None:
    disk = Disk()
    trail = LogTrail(100, 60.0, disk.write)
    async with running(trail):
        for number in range(3):
            trail.record(event(request_id=f"r-{number}", policies=("a",)))
        await happens(disk.wrote)
    assert [line["request_id"] for line in disk.lines()] == ["r-0", "r-1", "r-2"]
    line = disk.lines()[0]
    assert {"logger": "afdp.audit", "service": "notary", "message": "access", "policies": ["a"]}.items() <= line.items()
    assert {"step", "result", "rpc", "permission", "subject", "time"} <= line.keys()


async def test_what_is_left_is_written_at_the_end() -> None:
    disk = Disk()
    trail = LogTrail(100, 60.0, disk.write)
    async with running(trail):
        trail.record(event())
    assert len(disk.lines()) == 1


async def test_a_flood_of_strangers_is_one_line_for_each_reason() -> None:
    disk = Disk()
    trail = LogTrail(100, 60.0, disk.write)
    for number in range(5000):
        reason = "its signature is wrong" if number % 2 else "it has expired"
        trail.record(
            AuditEvent("authentication", "deny", "GetReceipt", "evidence.read", reason, request_id=f"r-{number}")
        )
    async with running(trail):
        pass
    told = {line["reason"]: (line["count"], line["last_request_id"]) for line in disk.lines()}
    assert told == {"its signature is wrong": (2500, "r-4999"), "it has expired": (2500, "r-4998")}


async def test_a_flood_of_reasons_is_bounded_too() -> None:
    disk = Disk()
    trail = LogTrail(100, 60.0, disk.write)
    for number in range(5000):
        trail.record(AuditEvent("authentication", "deny", "GetReceipt", "evidence.read", f"reason {number}"))
    async with running(trail):
        pass
    assert len(disk.lines()) == 257
    assert sum(int(str(line["count"])) for line in disk.lines()) == 5000


async def test_no_event_is_taken_while_none_can_be_written_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afdp.notary.access.log_trail._RETRY", 0.01)
    disk = Disk(full=True)
    trail = LogTrail(100, 60.0, disk.write)
    trail.record(event(request_id="first"))
    async with running(trail):
        await happens(disk.refused)
        disk.refused.clear()
        await happens(disk.refused)  # the second time: what the first one said is known by now
        with pytest.raises(Unavailable):
            trail.record(event(request_id="refused"))
        disk.full = False
        await happens(disk.wrote)
    trail.record(event(request_id="later"))
    async with running(trail):
        pass
    assert [line["request_id"] for line in disk.lines()] == ["first", "later"]


def test_a_full_queue_lets_nobody_in() -> None:
    trail = LogTrail(100, 60.0, Disk().write)
    for _ in range(100):
        trail.record(event())
    with pytest.raises(NotaryError, match="the audit trail takes no events"):
        trail.record(event())
