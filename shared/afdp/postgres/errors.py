"""PostgreSQL's errors in our words.

Its texts may quote values, and values may hold personal data: they are neither raised nor logged. What is kept of an
error is its SQLSTATE and the name of its class.
"""

from __future__ import annotations

import logging

import asyncpg

from afdp.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotaryError,
    Unavailable,
)

logger = logging.getLogger(__name__)

# What comes out of asyncpg and the sockets below it.
FOREIGN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

# A concurrent transaction was in the way: the same again, and it will pass.
CONTENDED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

# The data is at fault and not the database: another item may pass.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)

RETRY_AFTER = 1.0  # seconds
_REPAIR_AFTER = 5.0

_LOST = (
    OSError,
    asyncpg.InternalClientError,  # a connection that was used while its end arrived
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
# Somebody who runs the database must act: no disk, no memory, no connection left, no right, no such database, standby.
_UNFIT = (
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
)
_NOT_MIGRATED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
)
_DAMAGED = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, and perhaps the server with it."""
    return isinstance(error, _LOST) or (isinstance(error, asyncpg.InterfaceError) and not is_refused(error))


def is_refused(error: BaseException) -> bool:
    """Whether the data is at fault, by PostgreSQL's judgement or, before it was sent, by asyncpg's."""
    return isinstance(error, REFUSED) or (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError))


def translated(error: BaseException) -> NotaryError:
    """The error for the caller; the log gets its class and SQLSTATE."""
    sqlstate = getattr(error, "sqlstate", None)
    found = _translated(error)
    logger.warning(
        "PostgreSQL failed",
        extra={"fields": {"error": type(error).__name__, "sqlstate": sqlstate, "answer": found.code}},
    )
    return found


def refusal(error: BaseException) -> NotaryError:
    """The error of one item that the database refuses."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return AlreadyExists("something else is on record under this key")
    return InvalidArgument("the database refuses a value of this item: too long, out of range or not storable")


def _translated(error: BaseException) -> NotaryError:
    if is_refused(error):
        return refusal(error)
    if isinstance(error, CONTENDED):
        return Aborted("concurrent changes kept getting in the way: try again", retry_after=RETRY_AFTER)
    if isinstance(error, _UNFIT):
        return Unavailable("PostgreSQL does not accept this work at present", retry_after=_REPAIR_AFTER)
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Aborted("a lock was not to be had in time: try again", retry_after=RETRY_AFTER)
    # TimeoutError is an OSError: asked for first.
    if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
        return DeadlineExceeded("PostgreSQL did not answer in time")
    if is_lost(error):
        return Unavailable("PostgreSQL cannot be reached", retry_after=RETRY_AFTER)
    if isinstance(error, _NOT_MIGRATED):
        return FailedPrecondition(
            "the database schema is not what this release needs: run its migrations as its owner, who may make roles"
        )
    if isinstance(error, _DAMAGED):
        return DataLoss("PostgreSQL found its files damaged: restore the database from a backup")
    return Internal("the database failed in a way that was not foreseen")
