"""What an image has under /opt/afdp, without building it: the packages of one requirements file and this distribution.

The packages are links to those that are installed here, so each version must be the one that is pinned. Whatever else
is installed here, for development or for another service, is out of reach.
"""

from __future__ import annotations

import re
import venv
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.markers import Marker

from tests.container_files import ROOT

OURS = "afdp-notary"


def make_environment(folder: Path, requirements: str, python: str = "") -> Path:
    """A virtual environment with the packages of `requirements/NAME.txt` and no other; gives its folder of programs.

    `python` is the version of the Python that will run there, where that is not this one's.
    """
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python3*/site-packages")
    for name, version in pinned(requirements, python).items():
        distribution = installed()[name]
        assert distribution.version == version, f"{name} {distribution.version} is installed, {version} is pinned"
        _link(distribution, site)
    _link(installed()[OURS], site)
    return folder / "bin"


def pinned(requirements: str, python: str = "") -> dict[str, str]:
    """The packages of a requirements file that this platform installs, with their versions."""
    text = (ROOT / "requirements" / f"{requirements}.txt").read_text()
    found = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; ([^\\\n]+))?", text, re.MULTILINE)
    here = {"python_full_version": python} if python else None
    return {normalised(name): version for name, version, marker in found if not marker or Marker(marker).evaluate(here)}


def normalised(name: str) -> str:
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed() -> dict[str, Distribution]:
    """Every distribution that is installed here."""
    return {normalised(distribution.metadata["Name"]): distribution for distribution in distributions()}


@cache
def _owners() -> Counter[str]:
    """How many distributions have a share in each folder or file at the top."""
    return Counter(top for distribution in installed().values() for top in _tops(_files(distribution)))


def _files(distribution: Distribution) -> list[Path]:
    return [Path(file) for file in distribution.files or [] if ".." not in file.parts]


def _tops(files: Iterable[Path]) -> set[str]:
    return {file.parts[0] for file in files}


def _link(distribution: Distribution, site: Path) -> None:
    files, source = _files(distribution), Path(str(distribution.locate_file("")))
    for top in _tops(files):
        if _owners()[top] == 1:
            (site / top).symlink_to(source / top)
        else:  # a namespace of several, as `google` is: file by file, and the bytecode beside them
            for file in (file for file in files if file.parts[0] == top):
                _link_file(source / file, site / file)


def _link_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for each, link in ((source, target), (source.parent / "__pycache__", target.parent / "__pycache__")):
        if each.exists() and not link.exists():
            link.symlink_to(each)
