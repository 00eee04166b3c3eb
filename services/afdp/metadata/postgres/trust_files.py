"""The files of the trust root's TUF repository."""

from __future__ import annotations

from datetime import timedelta

from afdp.errors import Aborted, FailedPrecondition
from afdp.metadata.values import Publication, TrustFile, TrustFiles
from afdp.postgres import Connection

RETIREMENT = timedelta(days=1)

_REVISION = "SELECT revision FROM trust_repository"
_CURRENT = """
    SELECT r.revision, f.name, f.content FROM trust_repository AS r JOIN trust_file AS f ON f.retired_at IS NULL
    ORDER BY f.name
"""
_FILE = "SELECT content FROM trust_file WHERE name = $1"
_BEGIN = "INSERT INTO trust_repository (revision) VALUES (1) ON CONFLICT DO NOTHING RETURNING revision"
_ADVANCE = "UPDATE trust_repository SET revision = revision + 1 WHERE revision = $1 RETURNING revision"
_WRITE = """
    INSERT INTO trust_file (name, content) SELECT * FROM unnest($1::text[], $2::bytea[])
    ON CONFLICT (name) DO UPDATE SET content = excluded.content, retired_at = NULL
"""
_KEEP = "UPDATE trust_file SET retired_at = NULL WHERE name = ANY($1::text[]) RETURNING 1"
_RETIRE = """
    UPDATE trust_file SET retired_at = statement_timestamp()
    WHERE retired_at IS NULL AND name <> ALL($1::text[])
"""
_FORGET = "DELETE FROM trust_file WHERE retired_at < statement_timestamp() - $1::interval"


async def current(connection: Connection, known: int) -> TrustFiles:
    """The newest publication; without its files where its revision is `known`."""
    revision = await connection.fetchval(_REVISION)
    if revision is None or revision == known:
        return TrustFiles(revision or 0, ())
    rows = await connection.fetch(_CURRENT)
    return TrustFiles(rows[0]["revision"], tuple(TrustFile(row["name"], row["content"]) for row in rows))


async def one(connection: Connection, name: str) -> bytes | None:
    """One file, also one that was retired a short while ago."""
    content: bytes | None = await connection.fetchval(_FILE, name)
    return content


async def publish(connection: Connection, publication: Publication) -> int:
    """Writes a publication; gives its revision.

    Raises:
        Aborted: another one was written since its base.
        FailedPrecondition: it keeps a file that there is not.
    """
    fresh, kept = [file.name for file in publication.files], list(publication.kept)
    async with connection.transaction():
        base = publication.base_revision
        revision: int | None = await (connection.fetchval(_ADVANCE, base) if base else connection.fetchval(_BEGIN))
        if revision is None:
            raise Aborted("the trust root was published by another since: read it again")
        if len(await connection.fetch(_KEEP, kept)) != len(kept):
            raise FailedPrecondition("the publication keeps a file that the repository does not have")
        await connection.execute(_WRITE, fresh, [file.content for file in publication.files])
        await connection.execute(_RETIRE, [*fresh, *kept])
        await connection.execute(_FORGET, RETIREMENT)
    return revision
