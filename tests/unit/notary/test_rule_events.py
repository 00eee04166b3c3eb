"""What comes into force of policies and identity settings, as the trail is told of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import ENTITY_MANAGEMENT, activity_of, class_of
from afdp.errors import Unavailable
from afdp.notary.access.policies import LivePolicies
from afdp.notary.access.rule_events import IDENTITY, POLICIES, RuleEvents
from afdp.notary.identity.identity import Identity
from afdp.policy.facts import Deployment
from afdp.process import running
from tests.local_issuer import LocalIssuer, write_identity


class Trail:
    """Takes rows, unless it is said to be broken."""

    def __init__(self) -> None:
        self.broken = False
        self.rows: list[bytes] = []
        self.came = asyncio.Event()

    def put(self, row: bytes) -> None:
        self.came.set()
        if self.broken:
            raise Unavailable("the audit trail takes no events")
        self.rows.append(row)

    async def told(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(30):
            while len(self.rows) < count:
                self.came.clear()
                await self.came.wait()
        return [json.loads(row) for row in self.rows]


async def test_each_set_of_policies_that_comes_into_force_is_on_record_and_wrong_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "more.cedar"
    file.write_text('@id("more") permit (principal in Role::"auditor", action in Action::"read", resource);')
    live = LivePolicies(["builtin", str(tmp_path)], Deployment((), frozenset()), 60.0)
    first, trail = live.hash, Trail()
    rules = RuleEvents(trail.put, "default")
    live.tell(lambda digest: rules.hear(POLICIES, digest))
    async with running(rules.run()):
        await trail.told(1)
        file.write_text("permit (")
        await live.reload()
        file.write_text('@id("more") permit (principal in Role::"boss", action, resource);')
        await live.reload()
        await live.reload()
        rows = await trail.told(2)

    assert [(row["rpc"], row["resource"], row["tenant"]) for row in rows] == [
        ("UpdatePolicies", f"policy:{first}", "default"),
        ("UpdatePolicies", f"policy:{live.hash}", "default"),
    ]
    assert rows[0]["reason"] == "the policies: in force at the start; by their files"
    assert f"changed from {first}" in rows[1]["reason"]
    told = RecordedEvent.parse(trail.rows[1])
    assert (class_of(told), activity_of(told)[1]) == (ENTITY_MANAGEMENT, "Update")


async def test_the_identity_settings_that_are_taken_are_on_record(tmp_path: Path) -> None:
    issuer, trail = LocalIssuer(tmp_path), Trail()
    file = write_identity(tmp_path / "identity.yaml", {"issuers": [issuer.settings()]})
    identity, rules = Identity(file), RuleEvents(trail.put, "default")
    identity.tell(lambda digest: rules.hear(IDENTITY, digest))
    async with running(rules.run(), identity.run()):
        await trail.told(1)
        write_identity(file, {"issuers": [issuer.settings(audiences="another")]})
        rows = await trail.told(2)

    assert [row["rpc"] for row in rows] == ["UpdateIdentity", "UpdateIdentity"]
    assert rows[0]["resource"] != rows[1]["resource"]
    assert rows[0]["resource"].removeprefix("identity:") in rows[1]["reason"]


async def test_what_the_trail_does_not_take_is_on_record_once_it_does() -> None:
    trail = Trail()
    trail.broken = True
    rules = RuleEvents(trail.put, "default")
    rules.hear(POLICIES, "a")
    async with running(rules.run()):
        await trail.came.wait()
        rules.hear(POLICIES, "b")
        trail.broken = False
        rows = await trail.told(2)

    assert [row["resource"] for row in rows] == ["policy:a", "policy:b"]
