"""What is told of an erasure, and to whom."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from afdp.errors import Erased, InvalidArgument, NotFound, Unavailable
from afdp.formats.statement import Submitter
from afdp.gateway.problems import problem
from afdp.messages import metadata as store
from afdp.notary.erasing import certificate_of
from afdp.notary.erasure_office import ErasureOffice
from afdp.notary.model import Held, Principal
from afdp.notary.receipts import unreadable
from afdp.rpc.status import from_details, to_status

ID = "ab" * 16
WHO = Principal("acme", Submitter("https://id.example.com", "dpo", "oidc"))
NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
HELD = store.Erasure("acme", ID, deferral=store.ErasureDeferral(cases=["4711"], waiting=2))


class Peers:
    """Metadata, the audit trail and who erases, as much of each as is asked."""

    def __init__(self, *, may_list_holds: bool = True, away: bool = False) -> None:
        self._may_list_holds = may_list_holds
        self._away = away
        self.heard: list[tuple[str, ...]] = []
        self.asked: list[store.RequestErasureRequest] = []

    async def request_erasure(self, request: store.RequestErasureRequest, **_: Any) -> store.RequestErasureResponse:
        self.asked.append(request)
        return store.RequestErasureResponse(store.Erasure("acme", ID))

    async def get_erasure(self, request: store.GetErasureRequest, **_: Any) -> store.GetErasureResponse:
        return store.GetErasureResponse(store.Erasure("acme", request.erasure_id))

    async def settle(self, erasure: store.Erasure) -> store.Erasure:
        if self._away:
            raise Unavailable("the signer is away")
        return HELD

    def about(self, principal: Principal, permission: str, kind: str, named: str, refused: str = "") -> None:
        self.heard.append((permission, kind, named))

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        return [Held("holds.admin", self._may_list_holds)], ""


def office_of(peers: Any) -> ErasureOffice:
    return ErasureOffice(peers, peers, peers)


@pytest.mark.parametrize(("may", "cases"), [(True, ["4711"]), (False, [])])
async def test_case_numbers_of_holds_are_for_who_may_list_holds(may: bool, cases: list[str]) -> None:
    told = await office_of(Peers(may_list_holds=may)).erase(WHO, "human:alice", "", "r")
    assert told.cases == cases
    assert told.erasure.deferral is not None  # that there is one is told


async def test_the_audit_trail_hears_the_blind_index_and_never_the_name() -> None:
    peers = Peers()
    await office_of(peers).erase(WHO, "human:alice", "", "request 17")
    assert peers.heard == [("erasure.admin", "subject", ID)]
    assert peers.asked == [
        store.RequestErasureRequest("acme", "human:alice", "", "https://id.example.com dpo", "request 17")
    ]


async def test_what_cannot_be_done_now_is_on_record_and_said_to_be_asked_for() -> None:
    told = await office_of(Peers(away=True)).erase(WHO, "", ID, "r")
    assert (told.erasure.erasure_id, told.erasure.erased_at, told.erasure.deferral) == (ID, None, None)


@pytest.mark.parametrize(
    ("subject", "erasure_id", "reason", "field"),
    [
        ("", "", "r", "subject"),
        ("zebedee", ID, "r", "subject"),
        ("", "AB" * 16, "r", "erasure_id"),
        ("a" * 1026, "", "r", "subject"),
        ("zebedee\0", "", "r", "subject"),
        ("zebedee", "", "", "reason"),
        ("zebedee", "", "r" * 4097, "reason"),
    ],
)
async def test_a_wrong_request_names_its_field(subject: str, erasure_id: str, reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await office_of(Peers()).erase(WHO, subject, erasure_id, reason)
    assert [each.field for each in refused.value.fields] == [field]
    assert "zebedee" not in str(refused.value)


def test_an_erased_record_is_a_kind_of_not_found_on_every_way() -> None:
    error = unreadable(store.Erased(NOW, "019ab5a4-5d7e-7a31-9a55-6c0d3d3c7f11"))
    code, message, trailing = to_status(error)
    assert code.name == "NOT_FOUND"
    [details] = [value for key, value in trailing if key == "grpc-status-details-bin"]
    again = from_details(details, NotFound, message)
    assert isinstance(again, Erased)
    said = problem(again, "request-1")
    assert (said["status"], said["type"]) == (410, "https://afdp.dev/problems/erased")
    assert said["erased_at"] == "2026-11-24T02:00:00Z"
    assert said["certificate"] == "019ab5a4-5d7e-7a31-9a55-6c0d3d3c7f11"
    assert problem(unreadable(store.Erased()), "r")["erased_at"] is None


def test_the_certificate_is_the_same_whoever_makes_it_and_another_for_any_other_fact() -> None:
    facts: dict[str, Any] = {"erased_at": NOW, "records": 3, "root": bytes(32), "first_receipt_id": "a"}
    one = certificate_of(store.Erasure("acme", ID, **facts))
    assert one.canonical == certificate_of(store.Erasure("acme", ID, "why", "who", NOW, **facts)).canonical
    for name, other in (
        ("erased_at", datetime(2026, 11, 24, 3, tzinfo=UTC)),
        ("records", 4),
        ("root", bytes([1]) * 32),
    ):
        assert certificate_of(store.Erasure("acme", ID, **{**facts, name: other})).hash != one.hash
