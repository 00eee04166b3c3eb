"""The logs of the settings, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from afdp.errors import InvalidArgument, NotaryError
from afdp.postgres import Database
from afdp.transparency.external.config import ExternalLogSettings
from afdp.transparency.external.http import Calls, Connections
from afdp.transparency.external.postgres import PostgresExternalStore
from afdp.transparency.external.rekor1 import Rekor1Client
from afdp.transparency.external.rekor2 import Rekor2Client
from afdp.transparency.external.service import ExternalLogs, LogClient, Shards
from afdp.transparency.external.shards import NamedShard, SigningConfigShards, named_shard
from afdp.transparency.external.values import Shard


@asynccontextmanager
async def open_external_logs(
    known: Sequence[ExternalLogSettings], database: Database, most_in_flight: int
) -> AsyncIterator[ExternalLogs]:
    """The logs of others, with the connections to them.

    Raises:
        InvalidArgument: a key cannot be read; the log is named.
    """
    logs = {each.name: _shards(each) for each in known}
    timeouts = {each.name: each.timeout_seconds for each in known}
    connections = Connections(most_in_flight)

    def connect(shard: Shard) -> LogClient:
        calls = Calls(connections, timeouts[shard.name])
        return Rekor1Client(shard, calls) if shard.api_version == 1 else Rekor2Client(shard, calls)

    try:
        yield ExternalLogs(logs, PostgresExternalStore(database), connect)
    finally:
        await connections.close()


def _shards(known: ExternalLogSettings) -> Shards:
    if known.signing_config and known.trusted_root:
        return SigningConfigShards(known.name, known.api_version, known.signing_config, known.trusted_root)
    try:
        key = known.public_key.read_text() if known.public_key else ""
        read_url = str(known.read_url or "")
        shard = named_shard(known.name, known.api_version, str(known.url), key, origin=known.origin, read_url=read_url)
    except (OSError, NotaryError) as error:
        raise InvalidArgument(f"the external log {known.name} cannot be used: {error}") from None
    return NamedShard(shard)
