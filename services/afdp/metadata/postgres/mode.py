"""Whether the records are sealed or lie in plain: as it was with the first one, and never both.

What search finds is looked for in one form. With records of both kinds it would pass over some and say nothing.
"""

from __future__ import annotations

from typing import Literal

from afdp.errors import FailedPrecondition
from afdp.postgres import Connection

Mode = Literal["on", "off"]

_FIRST = "SELECT data_key IS NOT NULL FROM record ORDER BY receipt_id LIMIT 1"


async def require(connection: Connection, encryption: Mode) -> bool:
    """Whether there is a record.

    Raises:
        FailedPrecondition: the first one is not as `AFDP_ENCRYPTION` says.
    """
    sealed = await connection.fetchval(_FIRST)
    if sealed is not None and sealed != (encryption == "on"):
        was = "sealed" if sealed else "in plain"
        raise FailedPrecondition(
            f"the records of this database are {was} and AFDP_ENCRYPTION is {encryption}: set it as it was with the "
            "first record, or begin with an empty database"
        )
    return sealed is not None
