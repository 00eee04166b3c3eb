"""Makes the secrets that the containers of compose.yaml share, each once, from the system's random numbers.

    python secrets.py DATABASE_FOLDER METADATA_FOLDER VAULT_FOLDER REDIS_FOLDER REDIS_CLIENTS_FOLDER

DATABASE_FOLDER gets `password` for PostgreSQL and `settings.yaml` for who logs in with it, and `metadata-setup.yaml`
for who makes the role of the metadata service. METADATA_FOLDER gets that role's `password` and `settings.yaml`. Their
group may read them. VAULT_FOLDER gets `seal-key`, 32 bytes that open Vault's storage, for the owner alone. REDIS_FOLDER
gets `password.conf` for Redis, REDIS_CLIENTS_FOLDER its `url`. What is there stays.
"""

import os
import sys
import tempfile
from pathlib import Path

DATABASE_URL = "postgresql://{role}:{password}@postgres:5432/afdp?sslmode=verify-full&sslrootcert=/run/tls/ca.pem"
REDIS_URL = "rediss://:{password}@redis:6379/0"


def make_secrets(database: Path, metadata: Path, vault: Path, redis: Path, redis_clients: Path) -> None:
    """Makes what is missing."""
    owner, service = login(database, "afdp"), login(metadata, "afdp_metadata")
    both = f"database_url: {service}\ndatabase_owner_url: {owner}\n"
    write_once(database / "metadata-setup.yaml", both.encode(), 0o640)
    write_once(vault / "seal-key", os.urandom(32), 0o600)
    write_once(redis / "password.conf", f"requirepass {os.urandom(24).hex()}\n".encode(), 0o640)
    password = (redis / "password.conf").read_text().split()[1]
    write_once(redis_clients / "url", f"{REDIS_URL.format(password=password)}\n".encode(), 0o640)


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
