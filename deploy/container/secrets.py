"""Makes the secrets that the containers of compose.yaml share, each once, from the system's random numbers.

    python secrets.py DATABASE_FOLDER VAULT_FOLDER

DATABASE_FOLDER gets `password` for PostgreSQL and `settings.yaml` for the services that log in with it; their group may
read both. VAULT_FOLDER gets `seal-key`, 32 bytes that open Vault's storage, for the owner alone. What is there stays.
"""

import os
import sys
import tempfile
from pathlib import Path

DATABASE_URL = "postgresql://afdp:{password}@postgres:5432/afdp"


def make_secrets(database: Path, vault: Path) -> None:
    """Makes what is missing."""
    password = database / "password"
    write_once(password, os.urandom(24).hex().encode(), 0o640)
    url = DATABASE_URL.format(password=password.read_text())
    write_once(database / "settings.yaml", f"database_url: {url}\n".encode(), 0o640)
    write_once(vault / "seal-key", os.urandom(32), 0o600)


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
