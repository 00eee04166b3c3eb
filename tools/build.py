"""Builds the tools of tools/versions.toml into a cache folder, once per version: `$AFDP_TOOLS/bin/NAME`.

A tool of Go is a program, or, where it has `programs`, a folder of several that are built at once from one module: they
have most of their code in common; where it has `source`, it is that one file of ours. One of npm or pip is the folder
that it is installed in, one of Maven the folder that an archive holds.

Standard library only. A missing toolchain or a failed build is reported; it is an error only where CI=true, because
there every test must run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

VERSIONS = Path(__file__).with_name("versions.toml")
ROOT = Path(__file__).resolve().parents[1]
BUILD_LIMIT = 30 * 60.0


def cache_folder() -> Path:
    """`AFDP_TOOLS`, or a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("AFDP_TOOLS") or cache / "afdp-notary" / "tools")


def build(name: str, tool: dict[str, Any], folder: Path) -> str | None:
    """Build one tool unless this version is there. Why it is missing, or None."""
    version = tool.get("version") or _version_of_parts(tool)
    target = folder / f"{name}-{version}"
    if not target.exists():
        make = _go_build_source if "source" in tool else _go_build
        toolchain, make = ("npm", _npm_install) if "npm" in tool else ("go", make)
        if "pip" in tool:
            toolchain, make = sys.executable, _pip_install
        if "maven" in tool:
            toolchain, make = "mvn", _maven_unpack
        program = shutil.which(toolchain)
        if program is None:
            return f"{toolchain} is not installed"
        print(f"Building {name} {version}, which takes {tool['takes']}", flush=True)
        started = time.monotonic()
        if reason := make(program, tool, target):
            return reason
        print(f"Built {name} in {time.monotonic() - started:.0f} s", flush=True)
    _link(folder / "bin" / name, target)
    for program in tool.get("programs", {}):
        _link(folder / "bin" / program, target / program)
    return None


def _version_of_parts(tool: dict[str, Any]) -> str:
    """Another one whenever a program or a file of the set, or the source, is another one."""
    source = [(ROOT / tool["source"]).read_text(), tool["needs"]] if "source" in tool else []
    named = json.dumps([tool.get("programs"), tool.get("files", {}), *source], sort_keys=True)
    return hashlib.sha256(named.encode()).hexdigest()[:12]


def _go_build(go: str, tool: dict[str, Any], target: Path) -> str | None:
    """Build from an empty module, so that the tool's own `replace` and `exclude` lines do not get in the way."""
    environment = {**os.environ, "GOFLAGS": "-mod=mod -p=2", "GOWORK": "off"}
    programs = tool.get("programs") or {target.name: f"{tool['go']}@{tool['version']}"}
    with tempfile.TemporaryDirectory(prefix="afdp-tools-") as module:
        built = Path(module) / "built"
        built.mkdir()
        packages = {name: package.partition("@")[0] for name, package in programs.items()}
        for arguments in (
            ["mod", "init", "tools"],
            ["get", *programs.values()],
            ["build", "-trimpath", "-o", str(built), *packages.values()],
        ):
            if reason := _run([go, *arguments], module, environment):
                return reason
        for name, package in packages.items():
            (built / _program(package)).rename(built / name)
        for name, file in tool.get("files", {}).items():
            if reason := _copy_from_module(go, file, built / name, module, environment):
                return reason
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        _copy(built if "programs" in tool else built / target.name, unfinished)
        unfinished.replace(target)
    return None


def _go_build_source(go: str, tool: dict[str, Any], target: Path) -> str | None:
    environment = {**os.environ, "GOFLAGS": "-mod=mod -p=2", "GOWORK": "off"}
    with tempfile.TemporaryDirectory(prefix="afdp-tools-") as module:
        shutil.copy2(ROOT / tool["source"], Path(module) / "main.go")
        steps = (["mod", "init", "tools"], ["get", *tool["needs"]], ["build", "-trimpath", "-o", "built", "."])
        for arguments in steps:
            if reason := _run([go, *arguments], module, environment):
                return reason
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        _copy(Path(module) / "built", unfinished)
        unfinished.replace(target)
    return None


def _program(package: str) -> str:
    """What Go names the program of a package."""
    *_, parent, last = package.split("/")
    return parent if re.fullmatch(r"v[0-9]+", last) else last


def _copy_from_module(go: str, file: str, target: Path, folder: str, environment: dict[str, str]) -> str | None:
    """Copy a file, named as MODULE//PATH, that a module of the build has beside its code."""
    module, _, path = file.partition("//")
    found = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", module],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60.0, check=False,
    )  # fmt: skip
    if found.returncode != 0:
        return f"`go list` failed: {found.stderr.strip()}"
    shutil.copyfile(Path(found.stdout.strip()) / path, target)
    return None


def _copy(built: Path, target: Path) -> None:
    if built.is_dir():
        shutil.copytree(built, target)
    else:
        shutil.copy2(built, target)


def _npm_install(npm: str, tool: dict[str, Any], target: Path) -> str | None:
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.mkdir()
    quiet = ("--no-audit", "--no-fund", "--no-save", "--no-package-lock", "--ignore-scripts")
    # `--force`: what a package says of Node's version is not an obstacle.
    install = [npm, "install", "--force", *quiet, "--prefix", str(unfinished), *tool["npm"]]
    if reason := _run(install, str(unfinished), dict(os.environ)):
        shutil.rmtree(unfinished)
        return reason
    unfinished.replace(target)
    return None


def _pip_install(python: str, tool: dict[str, Any], target: Path) -> str | None:
    """Beside our own packages, for it may need other versions of the same: `PYTHONPATH` is to name the folder."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(unfinished),
    ]
    if reason := _run([*install, *tool["pip"]], str(target.parent), dict(os.environ)):
        shutil.rmtree(unfinished, ignore_errors=True)
        return reason
    unfinished.replace(target)
    return None


def _maven_unpack(mvn: str, tool: dict[str, Any], target: Path) -> str | None:
    """The only folder inside of an archive, prepared by a command of its own."""
    with tempfile.TemporaryDirectory(prefix=".maven-", dir=target.parent) as folder:
        unpack = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
        where = [f"-Dartifact={tool['maven']}", f"-DoutputDirectory={folder}/out"]
        if reason := _run([mvn, "-q", "-B", unpack, *where], folder, dict(os.environ)):
            return reason
        (unpacked,) = (each for each in Path(folder, "out").iterdir() if each.is_dir())
        if reason := _run(tool["prepare"], str(unpacked), dict(os.environ)):
            return reason
        unpacked.replace(target)
    return None


def _run(step: list[str], folder: str, environment: dict[str, str]) -> str | None:
    """Why a step failed, or None."""
    name = f"`{Path(step[0]).name} {step[1]}`"
    try:
        done = subprocess.run(
            step, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{name} took longer than {BUILD_LIMIT:.0f} s"
    if done.returncode != 0:
        return f"{name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return None


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def main() -> int:
    """Build what is missing; 1 if something still is and nothing may be."""
    tools = tomllib.loads(VERSIONS.read_text())
    folder = cache_folder().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = {name: reason for name, tool in tools.items() if (reason := build(name, tool, folder))}
    for name, reason in missing.items():
        print(f"{name} is missing: {reason}", file=sys.stderr)
    if not missing:
        return 0
    if os.environ.get("CI") == "true":
        return 1
    print("Tests that need these are skipped.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
