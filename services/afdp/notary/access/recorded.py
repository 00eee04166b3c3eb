"""Calls as the audit trail sees them: whoever is let in has an act, with an intent and an outcome."""

from __future__ import annotations

from afdp.errors import NotaryError
from afdp.notary.access import acts, admitted
from afdp.notary.access.acts import PIPELINED, Act
from afdp.notary.access.durable_trail import DurableTrail
from afdp.rpc.caller import caller
from afdp.rpc.descriptors import Method
from afdp.rpc.handlers import Admit
from afdp.telemetry.context import request_id

_READS = ".read"  # what permissions to read end with


class RecordedCalls:
    """As `Admit` of the server."""

    def __init__(self, admit: Admit | None, trail: DurableTrail) -> None:
        """`admit` decides who is let in; None: everybody."""
        self._admit = admit
        self._trail = trail

    async def admit(self, method: Method, refused: NotaryError | None = None) -> Act | None:
        """Lets a call in as `admit` does, and gives its act, whose intent is on record by then.

        Where the act only reads, its intent is on record before its answer leaves. Where it notarises, it is with the
        record.

        Who is refused is told so once that is durable, but for what is counted and told together.

        Raises:
            Unavailable: the trail takes nothing.
        """
        acts.current.set(None)
        if refused is not None or not method.permission:
            if self._admit is not None:
                await self._admit(method, refused)
            return None
        self._trail.require_open()
        act = Act(self._trail, request_id.get())
        acts.current.set(act)
        if self._admit is not None:
            try:
                await self._admit(method, None)
            except NotaryError:
                await act.answering()
                raise
        principal = admitted.principal.get()
        who = principal.submitter
        act.admitted(
            {
                "rpc": method.name,
                "permission": method.permission,
                "issuer": who.issuer,
                "subject": who.subject,
                "tenant": principal.tenant,
                "method": who.method,
                "address": caller.get().address,
            }
        )
        if method.name not in PIPELINED:
            only_reads = method.permission.endswith(_READS) and not method.server_streaming
            await act.begin(before=not only_reads)
        return act
