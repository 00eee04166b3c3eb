"""Another replica of the signer, as far as a token sees it: a process that makes versions of a key in the token.

python -m tests.token_replica MODULE LABEL PIN NAME COUNT      prints the key ID of each version that it made
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from afdp.errors import Unavailable
from afdp.signer.keys import P256, KeySpec, KeyVersion, Purpose
from afdp.signer.pkcs11.keyring import Pkcs11Keyring
from afdp.signer.pkcs11.sessions import SessionPool, TokenAccess


async def main(module: str, label: str, pin: str, name: str, count: str) -> None:
    """Rotates, one time after the other."""
    pool = SessionPool(TokenAccess(Path(module), lambda: pin, label, sessions=1))
    keyring = Pkcs11Keyring(pool, [KeySpec(name, Purpose.EVIDENCE, P256)])
    for _ in range(int(count)):
        made = await rotated(keyring, name)
        print(made.key_id, made.spki.hex(), flush=True)
    await pool.close()


async def rotated(keyring: Pkcs11Keyring, name: str) -> KeyVersion:
    """A new version, asked for again where others were always faster, as the error says."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await keyring.rotate(name)
            except Unavailable as busy:
                await asyncio.sleep(busy.retry_after or 1.0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
