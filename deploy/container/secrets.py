"""Makes the secrets that the containers of compose.yaml share, each once, from the system's random numbers.

    python secrets.py DATABASE_FOLDER METADATA_FOLDER VAULT_FOLDER REDIS_FOLDER REDIS_CLIENTS_FOLDER

DATABASE_FOLDER gets `password` for PostgreSQL and `settings.yaml` for who logs in with it, and `metadata-setup.yaml`
for who makes the role of the metadata service. METADATA_FOLDER gets that role's `password` and `settings.yaml`. Their
group may read them. VAULT_FOLDER gets `seal-key`, 32 bytes that open Vault's storage, for the owner alone. REDIS_FOLDER
gets `users.conf` for Redis: the administrator, the notary and the metadata service, each with no more rights than its
work needs. REDIS_CLIENTS_FOLDER gets the notary's `url`, METADATA_FOLDER its service's `redis-url` and `cache-secret`,
which copies of records are sealed under. What is there stays.
"""

import os
import sys
import tempfile
from pathlib import Path

DATABASE_URL = "postgresql://{role}:{password}@postgres:5432/afdp?sslmode=verify-full&sslrootcert=/run/tls/ca.pem"
REDIS_URL = "rediss://{user}:{password}@redis:6379/0"
REDIS_RIGHTS = {
    "default": "~* &* +@all",
    "notary": "~afdp:rate:* +eval +evalsha +script|load +time +get +set",
    "metadata": "~afdp:record:* +getrange +set +unlink",
}


def make_secrets(database: Path, metadata: Path, vault: Path, redis: Path, redis_clients: Path) -> None:
    """Makes what is missing."""
    owner, service = login(database, "afdp"), login(metadata, "afdp_metadata")
    both = f"database_url: {service}\ndatabase_owner_url: {owner}\n"
    write_once(database / "metadata-setup.yaml", both.encode(), 0o640)
    write_once(vault / "seal-key", os.urandom(32), 0o600)
    passwords = redis_users(redis / "users.conf")
    write_once(redis_clients / "url", redis_url("notary", passwords), 0o640)
    write_once(metadata / "redis-url", redis_url("metadata", passwords), 0o640)
    write_once(metadata / "cache-secret", os.urandom(32).hex().encode(), 0o640)


def redis_users(file: Path) -> dict[str, str]:
    """The passwords of Redis's users."""
    users = [f"user {user} on >{os.urandom(24).hex()} {rights}\n" for user, rights in REDIS_RIGHTS.items()]
    write_once(file, "".join(users).encode(), 0o640)
    words = [line.split() for line in file.read_text().splitlines()]
    return {user: password.removeprefix(">") for _, user, _, password, *_ in words}


def redis_url(user: str, passwords: dict[str, str]) -> bytes:
    """How a service reaches Redis."""
    return REDIS_URL.format(user=user, password=passwords[user]).encode()


def login(folder: Path, role: str) -> str:
    """The URL for a role, whose password and settings are in a folder of its own."""
    password = folder / "password"
    write_once(password, os.urandom(24).hex().encode(), 0o640)
    url = DATABASE_URL.format(role=role, password=password.read_text())
    write_once(folder / "settings.yaml", f"database_url: {url}\n".encode(), 0o640)
    return url


def write_once(path: Path, content: bytes, mode: int) -> None:
    """A new file, whole or not at all; one that is there is left alone."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if not path.exists():
            os.link(file.name, path)


if __name__ == "__main__":
    make_secrets(*map(Path, sys.argv[1:]))
