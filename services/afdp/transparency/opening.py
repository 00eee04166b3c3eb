"""What must hold before the first append: it is the log of these settings, and it goes on from what was signed."""

from __future__ import annotations

from afdp.errors import DataLoss, Unavailable
from afdp.formats.note import Note, NoteError
from afdp.transparency.proofs import Prover
from afdp.transparency.service import CheckpointSigner, Store
from afdp.transparency.values import BrokenLog, LogIdentity, SignedCheckpoint, WrongLog


async def identify(store: Store, signer: CheckpointSigner, origin: str) -> LogIdentity:
    """The log that is kept; the first time it is created, with the signer's key pinned to it.

    Raises:
        WrongLog: another log is kept there.
        Unavailable: the database, or before creation the signer, cannot be reached.
    """
    known = await store.identity()
    if known is None:
        await store.create(LogIdentity(origin, await signer.public_key(origin)))
        known = await store.identity()
    if known is None:
        raise Unavailable("the log was created and cannot be read", retry_after=1.0)
    if known.origin != origin:
        raise WrongLog(
            f"AFDP_LOG_ORIGIN is {origin}, and the database holds the log {known.origin}: "
            "an origin is fixed when its log is created; set it back, or use another database"
        )
    return known


async def require_key(signer: CheckpointSigner, identity: LogIdentity) -> None:
    """Checks that the signer still signs with the log's key.

    Raises:
        WrongLog: it has another one.
    """
    if await signer.public_key(identity.origin) != identity.public_key:
        raise WrongLog(
            f"the signer's log key is not the one that the log {identity.origin} was created with and keeps for ever: "
            "give the signer its old keys back, or use another database and origin"
        )


async def require_continuity(store: Store, signer: CheckpointSigner, identity: LogIdentity) -> int:
    """Checks that the tree goes on from what was signed and published last; gives the largest size that was signed.

    Raises:
        BrokenLog: it does not: it is smaller, as after restoring an old backup, or has another root.
    """
    # In this order: meanwhile another replica may append, and the tree is always ahead of what is signed.
    last = await signer.last(identity.origin)
    published = await store.published()
    edge = (await store.tree()).verified()
    if published:
        _require_signed(published, identity)
    for what, size, root in (
        *((("signed", last.size, last.root),) if last else ()),
        *((("published", published.size, published.root),) if published else ()),
    ):
        if size > edge.size:
            raise shrunken(edge.size, size, what)
        try:
            found = edge.root() if size == edge.size else await Prover(store).root(size)
        except DataLoss as error:
            raise BrokenLog(f"the tree at the {what} size {size} cannot be recomputed: {error.message}") from None
        if found != root:
            raise BrokenLog(
                f"the stored tree has another root at size {size} than was {what}: it is not the same log any more; "
                "run fsck and restore the database; nothing is appended until then"
            )
    return last.size if last else 0


def shrunken(size: int, expected: int, what: str = "signed") -> BrokenLog:
    """The error of a tree that has lost entries."""
    return BrokenLog(
        f"the database holds {size} entries, and {expected} were {what}: was an old backup restored? "
        "Nothing is appended until the missing entries are back"
    )


def _require_signed(published: SignedCheckpoint, identity: LogIdentity) -> None:
    try:
        SignedCheckpoint.verified(Note.parse(published.note), identity)
    except NoteError as error:
        raise BrokenLog(f"the published checkpoint of size {published.size} does not verify: {error}") from None
