"""The files of the trust root: one publication after the other, whole, whoever writes them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from afdp.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from afdp.messages import metadata as messages
from afdp.metadata import requests
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.postgres.trust_files import RETIREMENT
from afdp.metadata.service import Metadata
from afdp.metadata.values import Publication, TrustFile, TrustFiles

ROOT = TrustFile("1.root.json", b"the first root")
OLD = TrustFile("timestamp.json", b"the first timestamp")
NEW = TrustFile("timestamp.json", b"the second timestamp")
SNAPSHOT = TrustFile("1.snapshot.json", b"the first snapshot")


@pytest.fixture
def service(own_store: PostgresStore) -> Metadata:
    return Metadata(own_store)


async def test_where_there_is_no_repository_there_is_no_file(service: Metadata) -> None:
    assert await service.get_trust_files(0) == TrustFiles(0, ())
    with pytest.raises(NotFound, match="no file of this name"):
        await service.get_trust_file("timestamp.json")


async def test_a_publication_is_read_as_it_was_written(service: Metadata) -> None:
    assert await service.put_trust_files(Publication(0, (ROOT, OLD), ())) == 1

    assert await service.get_trust_files(0) == TrustFiles(1, (ROOT, OLD))
    assert await service.get_trust_file("1.root.json") == ROOT.content


async def test_what_is_known_is_not_sent_again(service: Metadata) -> None:
    await service.put_trust_files(Publication(0, (ROOT,), ()))

    assert await service.get_trust_files(1) == TrustFiles(1, ())


async def test_a_file_that_is_not_in_the_next_publication_is_served_a_while_longer(
    service: Metadata, own_store: PostgresStore, database: str
) -> None:
    await service.put_trust_files(Publication(0, (ROOT, SNAPSHOT, OLD), ()))
    assert await service.put_trust_files(Publication(1, (NEW,), ("1.root.json",))) == 2

    assert await service.get_trust_files(1) == TrustFiles(2, (ROOT, NEW))
    assert await service.get_trust_file("1.snapshot.json") == SNAPSHOT.content

    connection = await asyncpg.connect(database)
    await connection.execute(
        "UPDATE afdp_metadata.trust_file SET retired_at = retired_at - $1::interval", RETIREMENT + timedelta(minutes=1)
    )
    await connection.close()
    await service.put_trust_files(Publication(2, (OLD,), ("1.root.json",)))
    with pytest.raises(NotFound):
        await service.get_trust_file("1.snapshot.json")


@pytest.mark.parametrize("base", [0, 2])
async def test_what_was_not_made_from_the_newest_publication_is_sent_back(service: Metadata, base: int) -> None:
    await service.put_trust_files(Publication(0, (ROOT, OLD), ()))

    with pytest.raises(Aborted, match="read it again"):
        await service.put_trust_files(Publication(base, (NEW,), ("1.root.json",)))
    assert await service.get_trust_files(0) == TrustFiles(1, (ROOT, OLD))


async def test_of_writers_at_once_one_is_through_and_nothing_is_mixed(service: Metadata) -> None:
    await service.put_trust_files(Publication(0, (ROOT, OLD), ()))

    publications = [
        Publication(
            1, (TrustFile("timestamp.json", b"%d" % n), TrustFile(f"{n}.snapshot.json", b"%d" % n)), (ROOT.name,)
        )
        for n in range(2, 10)
    ]
    outcomes = await asyncio.gather(*map(service.put_trust_files, publications), return_exceptions=True)

    assert outcomes.count(2) == 1
    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == len(publications) - 1
    won = publications[outcomes.index(2)]
    assert (await service.get_trust_files(0)).files == tuple(sorted((ROOT, *won.files), key=lambda file: file.name))


async def test_a_publication_cannot_keep_what_there_is_not(service: Metadata) -> None:
    await service.put_trust_files(Publication(0, (ROOT,), ()))

    with pytest.raises(FailedPrecondition, match="does not have"):
        await service.put_trust_files(Publication(1, (NEW,), ("1.root.json", "2.root.json")))
    assert (await service.get_trust_files(0)).revision == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (messages.PutTrustFilesRequest(0, [], []), "files"),
        (messages.PutTrustFilesRequest(0, [messages.TrustFile("", b"x")], []), "files[0].name"),
        (messages.PutTrustFilesRequest(0, [messages.TrustFile("a\0", b"x")], []), "files[0].name"),
        (messages.PutTrustFilesRequest(0, [messages.TrustFile("a", b"")], []), "files[0].content"),
        (
            messages.PutTrustFilesRequest(0, [messages.TrustFile("a", bytes(4 * 1024 * 1024 + 1))], []),
            "files[0].content",
        ),
        (messages.PutTrustFilesRequest(0, [messages.TrustFile("a", b"x")], ["a"]), "files"),
        (messages.PutTrustFilesRequest(2**63, [messages.TrustFile("a", b"x")], []), "base_revision"),
    ],
)
def test_a_publication_that_is_wrong_is_refused_by_its_field(
    request_: messages.PutTrustFilesRequest, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        requests.read_put_trust_files(request_)
    assert [fault.field for fault in refused.value.fields] == [field]
