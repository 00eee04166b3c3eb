"""A receiver of syslog that is not ours: syslog-ng, over TLS 1.3, which asks for a certificate and writes JSON."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from afdp.embedded.process import LOOPBACK
from tests.lasting_ports import lasting_port
from tests.local_tls import TlsAuthority

_CONFIG = """
@version: 3.35
options {{ keep-hostname(yes); use-dns(no); dns-cache(no); stats-freq(0); log-msg-size(262144); }};
source received {{
  syslog(ip("127.0.0.1") port({port}) transport("tls") tls(
    key-file("{key}") cert-file("{cert}") ca-file("{ca}") peer-verify(required-trusted)
    ssl-options(no-sslv2, no-sslv3, no-tlsv1, no-tlsv11, no-tlsv12)
  ));
}};
destination kept {{
  file("{folder}/received.json" template("$(format-json --scope rfc5424 --scope sdata --pair PRI=$PRI)\\n"));
}};
log {{ source(received); destination(kept); }};
"""


@dataclass
class SyslogServer:
    """One on a port that stays the same."""

    program: Path
    folder: Path
    authority: TlsAuthority
    port: int
    _process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Starts it and waits until it listens."""
        config = self.folder / "syslog-ng.conf"
        options = ["-F", "-f", config, "-R", self.folder / "persist", "-p", self.folder / "pid"]
        options += ["-c", self.folder / "control", "--no-caps", "--stderr"]
        with (self.folder / "syslog-ng.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(self.program, *options, stdout=log, stderr=log)
        async with asyncio.timeout(60):
            while not await self._listens():  # noqa: ASYNC110 - of another process there is no event
                await asyncio.sleep(0.02)

    def freeze(self) -> None:
        """It keeps its connections and says nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def messages(self) -> list[dict[str, Any]]:
        """What it has written down so far, the line that it may be in the midst of left out."""
        file = self.folder / "received.json"
        whole, _, _ = (file.read_bytes() if file.exists() else b"").rpartition(b"\n")
        return [orjson.loads(line) for line in whole.splitlines()]

    async def received(self, count: int) -> list[dict[str, Any]]:
        """All that it has, once that is so many."""
        async with asyncio.timeout(60):
            while len(found := self.messages()) < count:  # noqa: ASYNC110 - of another process there is no event
                await asyncio.sleep(0.02)
        return found

    async def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self.folder / "syslog-ng.log").read_text()
        with suppress(OSError):
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
            writer.close()
            return True
        return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@asynccontextmanager
async def running_syslog(program: Path, folder: Path, authority: TlsAuthority) -> AsyncIterator[SyslogServer]:
    """A receiver for the length of a block. Its own certificate, and those that it takes, are the authority's."""
    folder.mkdir()  # noqa: ASYNC240 - of a test
    cert, key = authority.issue("syslog-receiver")
    server = SyslogServer(program, folder, authority, lasting_port())
    text = _CONFIG.format(port=server.port, key=key, cert=cert, ca=authority.file, folder=folder)
    (folder / "syslog-ng.conf").write_text(text.lstrip())
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
