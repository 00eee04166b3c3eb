"""Somebody between a notary and its verifiers: serves a copy of the trust root's repository, older or altered.

    mirror = Mirror(await copied(rest))
    with mirror.running():
        … mirror.url …

A `Thief` has the signer's trust key besides, and signs for the online roles what he likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from afdp.formats.repository import ONLINE_KEYS, SNAPSHOT, TIMESTAMP, metadata_name, target_name
from afdp.trust import online
from afdp.trust.metadata import payload, sealed
from afdp.trust.offline import Offline, read_offline
from afdp.trust.online import read_online, served_files

SOON = timedelta(hours=1)


async def copied(rest: httpx.AsyncClient) -> dict[str, bytes]:
    """Every file that a client of the repository would fetch now."""
    files: dict[str, bytes] = {}

    async def fetch(name: str) -> bytes:
        answer = await rest.get(f"/trust/{name}")
        assert answer.status_code == 200, name
        files[name] = answer.content
        return answer.content

    version = 1
    while (answer := await rest.get(f"/trust/{version}.root.json")).status_code == 200:
        files[f"{version}.root.json"] = answer.content
        version += 1
    stamp: Metadata[Timestamp] = Metadata.from_bytes(await fetch("timestamp.json"))
    shot: Metadata[Snapshot] = Metadata.from_bytes(
        await fetch(metadata_name(SNAPSHOT, stamp.signed.snapshot_meta.version))
    )
    for name, meta in shot.signed.meta.items():
        role: Metadata[Targets] = Metadata.from_bytes(
            await fetch(metadata_name(name.removesuffix(".json"), meta.version))
        )
        for path, target in role.signed.targets.items():
            await fetch(target_name(path, target.hashes["sha256"]))
    return files


@dataclass
class Mirror:
    """Serves files under /trust/, and counts what it was asked for."""

    files: Mapping[str, bytes]
    asked: list[str] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[Mirror]:
        """Serves while the context is open."""
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/trust/")
                mirror.asked.append(name)
                data = mirror.files.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header("content-length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, format: str, *arguments: object) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@dataclass
class Thief:
    """Has the trust key, and a copy of the repository."""

    key: Ed25519PrivateKey

    @classmethod
    def of(cls, signer: Path, key_id: str = "afdp-file-trust-key:1") -> Thief:
        """Who copied a signer's folder."""
        passphrase = (signer / "passphrase").read_bytes().strip()
        pem = (signer / "keys" / f"{key_id.replace(':', '.')}.pem").read_bytes()
        private = load_pem_private_key(pem, passphrase)
        assert isinstance(private, Ed25519PrivateKey)
        return cls(private)

    def publish(
        self,
        files: Mapping[str, bytes],
        changes: Mapping[str, bytes | None] | None = None,
        *,
        targets: Mapping[str, bytes] | None = None,
        lifetime: timedelta = SOON,
        ahead: int = 1,
    ) -> dict[str, bytes]:
        """The repository with other files of the online role, or an older `targets`, all signed anew.

        Args:
            files: the repository.
            changes: other contents by path; None takes a file away.
            targets: a repository whose offline files are served instead.
            ahead: how far the versions go beyond those of `files`.
        """
        offline = read_offline(targets or files)
        signed = read_online(files)
        assert signed is not None
        contents = {path: data for path, data in {**signed.contents, **(changes or {})}.items() if data is not None}
        expires = datetime.now(UTC).replace(microsecond=0) + lifetime
        versions = {role: version + ahead for role, version in signed.versions.items()}
        keys = online.online_keys(contents, versions[ONLINE_KEYS], expires)
        keys_bytes = self.sealed(keys)
        shot = online.snapshot(offline, keys_bytes, keys.version, versions[SNAPSHOT], expires)
        shot_bytes = self.sealed(shot)
        stamp = online.timestamp(shot_bytes, shot.version, versions[TIMESTAMP], expires)
        return {
            **files,
            **offline.files,
            **served_files(contents),
            metadata_name(ONLINE_KEYS, keys.version): keys_bytes,
            metadata_name(SNAPSHOT, shot.version): shot_bytes,
            metadata_name(TIMESTAMP, stamp.version): self.sealed(stamp),
        }

    def begin(self, offline: Offline) -> dict[str, bytes]:
        """A repository with nothing of the online role in it, but for what belongs together."""
        expires = datetime.now(UTC).replace(microsecond=0) + SOON
        keys = self.sealed(online.online_keys({}, 1, expires))
        shot = self.sealed(online.snapshot(offline, keys, 1, 1, expires))
        stamp = self.sealed(online.timestamp(shot, 1, 1, expires))
        return {**offline.files, "1.online-keys.json": keys, "1.snapshot.json": shot, "timestamp.json": stamp}

    def sealed(self, signed: online.Signable) -> bytes:
        """Metadata with the stolen key's signature."""
        return sealed(signed, self.key.public_key().public_bytes_raw(), self.key.sign(payload(signed)))
