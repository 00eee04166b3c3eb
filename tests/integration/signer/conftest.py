"""An OpenBao that tests may seal, spoil and fill."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conftest import open_folder
from tests.vault_servers import DevServer, dev_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vault() -> AsyncIterator[DevServer]:
    """One server over TLS for the run, with our keys, policies and AppRoles."""
    with open_folder() as folder:
        async with dev_server(folder, tls=True) as server:
            yield server


@pytest_asyncio.fixture(loop_scope="session")
async def own_vault() -> AsyncIterator[DevServer]:
    """A server for one test, without TLS so that a proxy can look into it."""
    with open_folder() as folder:
        async with dev_server(folder) as server:
            yield server
