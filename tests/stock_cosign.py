"""Stock cosign, as its users call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs" / "sigstore.md"


class Cosign:
    """Stock cosign in a folder with a key of its own, told what docs/sigstore.md tells; `url` is where it writes."""

    def __init__(self, programs: Sequence[Path], folder: Path, trusted: str, url: str) -> None:
        self._programs, self._folder, self._trusted, self._url = programs, folder, trusted, url
        (folder / "model.bin").write_text("the weights of a model")
        (folder / "evaluation.json").write_text('{"accuracy": 0.93}')

    def sign_and_verify(self) -> None:
        """A blob and an attestation over it."""
        [commands] = re.findall(r"## cosign\n\n```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        commands = "cosign generate-key-pair\n" + commands.replace("http://127.0.0.1:3030", self._url)
        path = os.pathsep.join([*(os.fspath(program.parent) for program in self._programs), os.environ["PATH"]])
        told = {"PATH": path, "HOME": os.fspath(self._folder), "COSIGN_PASSWORD": "", "AFDP_URL": self._trusted}
        ran = subprocess.run(
            ("bash", "-exc", commands),
            cwd=self._folder, env={**os.environ, **told}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("Verified OK") == 2, ran.stderr

    def entries(self) -> list[dict[str, Any]]:
        """What it keeps of the log."""
        return [
            json.loads((self._folder / name).read_text())["verificationMaterial"]["tlogEntries"][0]
            for name in ("blob.json", "evaluation.bundle.json")
        ]
