"""Who is believed, and who may do what, stands in files: whatever of it comes into force is on record, by its hash.

Whoever changed a file is known to the machine, or to the pipeline, that it was changed by. Each notary says for itself
what it goes by: at its start, and at each change that it takes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from afdp.audit.rows import write_row
from afdp.errors import NotaryError

POLICIES, IDENTITY = "policies", "identity settings"

_RPC = {POLICIES: "UpdatePolicies", IDENTITY: "UpdateIdentity"}
_KINDS = {POLICIES: "policy", IDENTITY: "identity"}
_RETRY = 1.0  # seconds


class RuleEvents:
    """Puts on record what came into force."""

    def __init__(self, put: Callable[[bytes], object], tenant: str) -> None:
        """`put` takes rows, or raises NotaryError; `tenant` is whose they are: that of the operators."""
        self._put = put
        self._tenant = tenant
        self._in_force: dict[str, str] = {}
        self._waiting: deque[bytes] = deque()
        self._some = asyncio.Event()

    def hear(self, what: str, digest: str) -> None:
        """That something is in force now.

        Args:
            what: `POLICIES` or `IDENTITY`.
            digest: its SHA-256, in hex.
        """
        before = self._in_force.get(what)
        if before == digest:
            return
        self._in_force[what] = digest
        self._waiting.append(self._row(what, digest, f"changed from {before}" if before else "in force at the start"))
        self._some.set()

    async def run(self) -> None:
        """Puts it on record until cancelled; what the trail does not take now, it is given again."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                try:
                    self._put(self._waiting[0])
                    self._waiting.popleft()
                except NotaryError:
                    await asyncio.sleep(_RETRY)

    def _row(self, what: str, digest: str, how: str) -> bytes:
        return write_row(
            {
                "time": datetime.now(UTC),
                "step": "act",
                "result": "allow",
                "rpc": _RPC[what],
                "permission": "policy.admin",
                "issuer": "afdp-notary",
                "subject": "operator",
                "method": "service",
                "tenant": self._tenant,
                "resource": f"{_KINDS[what]}:{digest}",
                "reason": f"the {what}: {how}; by their files",
            }
        )
