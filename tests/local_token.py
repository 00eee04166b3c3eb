"""A token of SoftHSM2 in a folder: what a hardware security module is to the signer, in software."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)


@dataclass(frozen=True)
class LocalToken:
    """One token, in a store of its own."""

    folder: Path
    util: Path
    label: str = "afdp"
    pin: str = "271828"

    @classmethod
    def make(cls, folder: Path, util: Path) -> LocalToken:
        """An initialised token without a key."""
        token = cls(folder, util)
        token.store.mkdir(parents=True)
        token.configure()
        token.initialise(token.label)
        token.pin_file.write_text(token.pin + "\n")
        token.pin_file.chmod(0o600)
        return token

    @property
    def module(self) -> Path:
        """The PKCS #11 module."""
        return next(path for path in _MODULES if path.exists())

    @property
    def store(self) -> Path:
        """The folder with the tokens: away with it, away with them."""
        return self.folder / "tokens"

    @property
    def pin_file(self) -> Path:
        """A file with the user's PIN."""
        return self.folder / "pin"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the store."""
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    @property
    def signer_settings(self) -> dict[str, str]:
        """What tells the signer to keep every key in the token."""
        return {
            "AFDP_KEYS": "pkcs11",
            "AFDP_TIMESTAMP_KEYS": "pkcs11",
            "AFDP_TRUST_KEYS": "pkcs11",
            "AFDP_PKCS11_MODULE": str(self.module),
            "AFDP_PKCS11_TOKEN_LABEL": self.label,
            "AFDP_PKCS11_PIN_FILE": str(self.pin_file),
            **self.environment,
        }

    def configure(self, mechanisms: str = "ALL") -> None:
        """Writes SoftHSM2's configuration; it is read when a module is initialised."""
        (self.folder / "softhsm2.conf").write_text(
            f"directories.tokendir = {self.store}\nlog.level = ERROR\nslots.mechanisms = {mechanisms}\n"
        )

    def initialise(self, label: str) -> None:
        """Makes one more token in the store, with the same PIN."""
        subprocess.run(
            [self.util, "--init-token", "--free", "--label", label, "--so-pin", "31415926", "--pin", self.pin],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
        )

    def serials(self) -> list[str]:
        """The serial of each token that was initialised."""
        shown = subprocess.run(
            [self.util, "--show-slots"],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return re.findall(r"Serial number:\s+(\S+)", shown)
