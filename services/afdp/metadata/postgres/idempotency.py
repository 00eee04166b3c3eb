"""Idempotency keys: who asked for what under which key, and what answered it.

One space of keys per principal serves single packages and batches alike. A key past its retention counts as new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

from afdp.metadata.values import Idempotency, Principal
from afdp.postgres import Connection

# Takes over a key that is past its retention ($1); a key that is still good is left alone and not returned. PostgreSQL
# makes a concurrent writer of the same key wait until the first one is through. To be completed by a list of rows
# (digest, fingerprint, target, is_batch), in the order of their digests, so that two writers never wait crosswise.
CLAIM = """
    INSERT INTO idempotency_key AS k (digest, fingerprint, target, is_batch)
    {rows}
    ON CONFLICT (digest) DO UPDATE
        SET fingerprint = excluded.fingerprint, target = excluded.target, is_batch = excluded.is_batch,
            created_at = excluded.created_at
        WHERE k.created_at < statement_timestamp() - $1::interval
    RETURNING k.digest
"""

_LOOK_UP = """
    SELECT digest, fingerprint, target, is_batch
    FROM idempotency_key
    WHERE digest = ANY($1::bytea[]) AND created_at >= statement_timestamp() - $2::interval
"""

_FORGET = """
    DELETE FROM idempotency_key
    WHERE digest = ANY(ARRAY(
        SELECT digest FROM idempotency_key WHERE created_at < statement_timestamp() - $1::interval
        LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
"""
_FORGET_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that is taken: by a request with this fingerprint, answered by this receipt or batch."""

    fingerprint: bytes
    target: UUID
    is_batch: bool


def digest(principal: Principal, idempotency: Idempotency) -> bytes:
    """What a key is stored as: SHA-256 over the principal and the key, each part led by its length."""
    hashed = sha256(b"afdp idempotency key")
    for part in (principal.tenant, principal.issuer, principal.subject, principal.method, idempotency.key):
        data = part.encode()
        hashed.update(len(data).to_bytes(4, "big") + data)
    return hashed.digest()


async def look_up(connection: Connection, digests: Iterable[bytes], retention: timedelta) -> dict[bytes, Claim]:
    """Those of the keys that are taken."""
    rows = await connection.fetch(_LOOK_UP, list(digests), retention)
    return {row["digest"]: Claim(row["fingerprint"], row["target"], row["is_batch"]) for row in rows}


async def forget_expired(connection: Connection, retention: timedelta) -> int:
    """Delete some of the keys past their retention; gives how many, 0 at the end."""
    return len(await connection.fetch(_FORGET, retention, _FORGET_AT_ONCE))
