"""A release: wheel, source archive, SBOMs and checksums, notarised by the notary that is being released.

    python tools/release.py [--url URL] [--data-dir DIR] [--output DIR]

The commit that is checked out is built, twice, and the two must be the same to the byte. Every file gets a receipt
beside it, and all receipts are verified offline before the release counts as made. Without a URL the notary is one of
our own, started for the purpose; its keys and its log stay in DIR, which is worth a backup.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sbom import project

from afdp.embedded.stack import StackOptions, free_offset, running_stack
from afdp.errors import NotaryError

ROOT = Path(__file__).parent.parent
EVENT = "afdp.release.built"
SUMS = "SHA256SUMS"


class NotReleased(Exception):
    """Why there is no release; the message says what to do."""


def main() -> None:
    """Makes the release, or says why not and exits with 1."""
    parser = argparse.ArgumentParser(description="Builds, describes, notarises and verifies a release.")
    parser.add_argument("--url", default=os.environ.get("AFDP_URL"), help="the notary (AFDP_URL); else one of our own")
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".afdp" / "release", help="what our own notary keeps")
    parser.add_argument("--output", type=Path, help="default: dist/afdp-notary-VERSION")
    given = parser.parse_args()
    output = given.output or ROOT / "dist" / f"afdp-notary-{project()['version']}"
    try:
        release(output, given.url, given.data_dir.resolve())
    except (NotReleased, NotaryError) as problem:
        sys.exit(f"not released: {problem}")
    print(f"released: {output}")


def release(output: Path, url: str | None, data_dir: Path) -> None:
    """Makes a release in a folder that is not there yet; a release that failed leaves none.

    Raises:
        NotReleased: it could not be made.
        NotaryError: our own notary did not start.
    """
    if output.exists():
        raise NotReleased(f"{output} is there already; remove it first, or name another with --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=output.parent) as scratch:
        made = Path(scratch) / "made"
        if url:  # a notary that is not there is better met before the work than after it
            _afdp("--url", url, "trust", "export", "--output", Path(scratch) / "trust")
        _build(Path(scratch), made)
        _sum_up(made)
        if url:
            _notarise(made, url)
        else:
            data_dir.mkdir(parents=True, exist_ok=True)
            asyncio.run(_notarise_by_our_own(made, data_dir))
        _verify(made)
        made.rename(output)


def _build(scratch: Path, made: Path) -> None:
    source, commit, moment = _source(scratch / "source")
    environment = os.environ | {"SOURCE_DATE_EPOCH": moment}
    for folder in (made, scratch / "again"):
        _run([sys.executable, "-m", "hatchling", "build", "--directory", folder], cwd=source, environment=environment)
    for file in sorted(made.iterdir()):
        if file.read_bytes() != (scratch / "again" / file.name).read_bytes():
            raise NotReleased(f"{file.name} came out differently the second time: the build is not reproducible")
    _run([sys.executable, source / "tools" / "sbom.py", made], environment=environment)
    (made / "COMMIT").write_text(f"{commit}\n")
    print(f"built from {commit} at {moment}", flush=True)


def _source(folder: Path) -> tuple[Path, str, str]:
    """The tree to build from, the commit's name and its time in seconds; what is not committed is not in it."""
    if not (ROOT / ".git").exists():
        if "SOURCE_DATE_EPOCH" not in os.environ:
            raise NotReleased("this is no git checkout: set SOURCE_DATE_EPOCH to the release's time in seconds")
        return ROOT, "no commit", os.environ["SOURCE_DATE_EPOCH"]
    commit, moment = _run(["git", "show", "--no-patch", "--format=%H %ct", "HEAD"], cwd=ROOT).split()
    if _run(["git", "status", "--porcelain"], cwd=ROOT):
        print("what is not committed is not part of the release", file=sys.stderr)
    archive = folder.with_suffix(".tar")
    _run(["git", "archive", "--output", archive, commit], cwd=ROOT)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder, commit, moment


def _sum_up(made: Path) -> None:
    """SHA256SUMS as sha256sum(1) checks it; its own receipt stands for the release as a whole."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(made.iterdir())]
    (made / SUMS).write_text("".join(lines))


async def _notarise_by_our_own(made: Path, data_dir: Path) -> None:
    async with running_stack(StackOptions(data_dir, free_offset())) as stack:
        await asyncio.to_thread(_notarise, made, stack.url)


def _notarise(made: Path, url: str) -> None:
    version, commit = project()["version"], (made / "COMMIT").read_text().strip()
    for file in _files(made):
        about = ["--metadata", f"version={version}", "--metadata", f"commit={commit}", "--wait-for", "logged"]
        # Whoever runs it stands in the receipt as whom the notary authenticated; a login name is nobody's business.
        words = ["sign", file, "--event-type", EVENT, "--actor", "service:afdp-release", *about]
        _afdp("--url", url, *words, "--output", _receipt(file))
    _afdp("--url", url, "trust", "export", "--output", made / "trust")
    print(f"notarised {len(_files(made))} files at {url}", flush=True)


def _verify(made: Path) -> None:
    """As anybody will: without a network, from nothing but what is in the folder."""
    for file in _files(made):
        _afdp("verify", _receipt(file), "--artifact", file, "--trust", made / "trust")
    print(f"verified {len(_files(made))} receipts offline", flush=True)


def _files(made: Path) -> list[Path]:
    return sorted(file for file in made.iterdir() if file.is_file() and not file.name.endswith(".receipt.json"))


def _receipt(file: Path) -> Path:
    return file.with_name(f"{file.name}.receipt.json")


def _afdp(*words: str | Path) -> None:
    _run([sys.executable, "-m", "afdp.cli", *words])


def _run(words: list[str | Path], cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise NotReleased(f"{Path(command[0]).name} {' '.join(command[1:4])} ended with {done.returncode}: {said}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
