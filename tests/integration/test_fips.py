"""`AFDP_FIPS=required`: what refuses to start where no FIPS provider is active, which is so wherever these tests run.

The wheel of `cryptography` has an OpenSSL of its own without that provider. What a process does that has one is told in
`docs/fips.md`, with what was run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from afdp.fips import FipsError, crypto_modules, described, require_fips

SERVICES = ("gateway", "notary", "signer", "transparency", "metadata")


def run(service: str, folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A service's process, to its end."""
    environment = {"PATH": os.environ["PATH"], "AFDP_DATA_DIR": str(folder / "data"), "AFDP_PORT": "0", **settings}
    return subprocess.run(
        [sys.executable, "-m", f"afdp.{service}", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_refuses_to_start_without_the_provider_with_one_clear_sentence(service: str, tmp_path: Path) -> None:
    refused = run(service, tmp_path, AFDP_FIPS="required")

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert re.fullmatch(
        rf"{service}: AFDP_FIPS=required, but cryptography's OpenSSL \S+ .* has no active FIPS provider and "
        r"Python's OpenSSL \S+ .* has no active FIPS provider: "
        r"run an image that is built as docs/fips\.md says, or set AFDP_FIPS=off\n",
        refused.stderr,
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("service", "command"), [("signer", "create-keys"), ("metadata", "migrate")])
def test_commands_that_do_something_refuse_too(service: str, command: str, tmp_path: Path) -> None:
    refused = run(service, tmp_path, command, AFDP_FIPS="required")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "has no active FIPS provider" in refused.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_the_settings_are_shown_in_any_mode(service: str, tmp_path: Path) -> None:
    shown = run(service, tmp_path, "config", AFDP_FIPS="required")

    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["fips"] == "required"
    assert json.loads(run(service, tmp_path, "config").stdout)["fips"] == "off"


def test_another_mode_is_an_error(tmp_path: Path) -> None:
    refused = run("gateway", tmp_path, AFDP_FIPS="yes")

    assert refused.returncode == 2
    assert "AFDP_FIPS: " in refused.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_an_openssl_that_only_asks_for_the_provider_does_not_pass_for_one_that_has_it(
    service: str, tmp_path: Path
) -> None:
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        "openssl_conf = begin\n[begin]\nalg_section = algorithms\n[algorithms]\ndefault_properties = fips=yes\n"
    )

    refused = run(service, tmp_path, AFDP_FIPS="required", OPENSSL_CONF=str(configuration))

    assert refused.returncode == 2
    assert "cryptography's OpenSSL" in refused.stderr
    assert "nothing works with it" in refused.stderr


def test_what_runs_is_told_in_a_sentence() -> None:
    cryptography, python = crypto_modules()

    assert described("off") == f"FIPS mode is off; {cryptography.version} (cryptography), {python.version} (Python)"
    with pytest.raises(FipsError, match=r"docs/fips\.md"):
        require_fips()
