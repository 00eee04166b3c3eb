"""Verifiers that we did not write, beside ours: each offline, over the same files in one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afdp.formats.statement import EVIDENCE_PREDICATE_TYPE

_SIGSTORE_JS = Path(__file__).with_name("sigstore_verify.cjs")


@dataclass(frozen=True)
class Verifiers:
    """The programs, and the folder that has the receipt, the trust root in `trust` and the artifact `model.bin`."""

    tool: Callable[[str], Path]
    folder: Path

    def write(self, receipt: dict[str, Any]) -> None:
        """The receipt, and what the others read of it: the bundle, the timestamp, the signature that it is over."""
        (self.folder / "receipt.json").write_text(json.dumps(receipt))
        (self.folder / "bundle.json").write_text(json.dumps(receipt["bundle"]))
        (self.folder / "signature").write_bytes(b64decode(receipt["bundle"]["dsseEnvelope"]["signatures"][0]["sig"]))
        material = receipt["bundle"]["verificationMaterial"]
        for stamp in material["timestampVerificationData"]["rfc3161Timestamps"]:
            (self.folder / "stamp.tsr").write_bytes(b64decode(stamp["signedTimestamp"]))

    def cosign(self, *arguments: str, key: str = "afdp-notary-key:3", trust: str = "trust") -> bool:
        """Whether cosign verifies the bundle for the artifact; it looks at the timestamp only where it is told to."""
        return self._run(
            os.fspath(self.tool("cosign")),
            "verify-blob-attestation",
            "--key", f"{trust}/keys/{key}.pem",
            "--trusted-root", f"{trust}/trusted_root.json",
            "--bundle", "bundle.json",
            "--type", EVIDENCE_PREDICATE_TYPE,
            *(arguments or ("model.bin",)),
        )  # fmt: skip

    def cosign_with_timestamps(self, *arguments: str, key: str = "afdp-notary-key:3", trust: str = "trust") -> bool:
        """The same, and the timestamp must hold."""
        return self.cosign("--use-signed-timestamps", *arguments, "model.bin", key=key, trust=trust)

    def sigstore_js(self, *, key: str = "afdp-notary-key:3", trust: str = "trust") -> bool:
        """Whether @sigstore/verify verifies the bundle, its log entry and its timestamp."""
        modules = {"NODE_PATH": os.fspath(self.tool("sigstore-js") / "node_modules")}
        files = ("bundle.json", f"{trust}/trusted_root.json", f"{trust}/keys/{key}.pem")
        return self._run(os.fspath(self.tool("node")), os.fspath(_SIGSTORE_JS), *files, **modules)

    def openssl(self, *, trust: str = "trust") -> bool:
        """Whether `openssl ts` verifies the timestamp over the signature."""
        stamp = ("-in", "stamp.tsr", "-data", "signature")
        chain = ("-CAfile", f"{trust}/tsa.pem", "-untrusted", f"{trust}/tsa.pem")
        return self._run(os.fspath(self.tool("openssl")), "ts", "-verify", *stamp, *chain)

    def afdp(self, *arguments: str, trust: str = "trust") -> bool:
        """Whether ours verifies the receipt for the artifact."""
        files = ("--trust", trust, "--artifact", "model.bin")
        return self._run(sys.executable, "-m", "afdp.cli", "verify", "receipt.json", *files, *arguments)

    def _run(self, *command: str, **more: str) -> bool:
        # No name resolves to a server here: a verifier that asked the network would fail.
        offline = {"https_proxy": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        environment = {**os.environ, **offline, "HOME": os.fspath(self.folder), **more}
        run = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode in (0, 1), run.stderr
        return run.returncode == 0
