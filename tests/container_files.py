"""What Dockerfile, compose.yaml and k8s/base say, in a form that tests can ask."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
SERVICES = ("gateway", "notary", "signer", "transparency", "metadata")
MANIFESTS = ROOT / "k8s" / "base"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Image:
    """One stage of the Dockerfile, with what it inherits from the stages before."""

    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    ports: frozenset[int] = frozenset()
    user: str = "root"
    stop_signal: str = "SIGTERM"
    copies: tuple[tuple[str, ...], ...] = ()  # the words of each COPY
    runs: tuple[str, ...] = ()


def read_images() -> dict[str, Image]:
    """Every stage by its name."""
    images: dict[str, Image] = {}
    name = ""
    for instruction, rest in _instructions((ROOT / "Dockerfile").read_text()):
        if instruction == "FROM":
            parent, _, name = rest.partition(" AS ")
            images[name] = images.get(parent, Image())
        else:
            images[name] = _with(images[name], instruction, rest)
    return images


def read_compose() -> dict[str, Any]:
    """compose.yaml, its anchors resolved."""
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return compose


def read_manifests() -> dict[tuple[str, str], Manifest]:
    """Every object of k8s/base by kind and name."""
    found = [manifest for file in manifest_files() for manifest in yaml.safe_load_all(file.read_text())]
    manifests = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in found}
    assert len(manifests) == len(found), "two objects have the same kind and name"
    return manifests


def manifest_files() -> list[Path]:
    """The files of k8s/base but for the kustomization."""
    return sorted(file for file in MANIFESTS.iterdir() if file.name != "kustomization.yaml")


def on_host(text: str, mounts: Mapping[str, Path]) -> str:
    """A container's path, alone or within a text, as the path on this machine where `mounts` has the folder."""
    for target in sorted(mounts, key=len, reverse=True):
        text = re.sub(rf"{re.escape(target)}(?=/|$)", str(mounts[target]), text)
    return text


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for instruction in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = instruction.strip().partition(" ")
        yield word, rest.strip()


def _with(image: Image, instruction: str, rest: str) -> Image:
    match instruction:
        case "ENV":
            named = dict(word.split("=", 1) for word in shlex.split(rest))
            return replace(image, environment={**image.environment, **named})
        case "ENTRYPOINT":
            return replace(image, entrypoint=_exec_form(rest))
        case "HEALTHCHECK":
            return replace(image, healthcheck=_exec_form(rest.split("CMD", 1)[1]))
        case "EXPOSE":
            return replace(image, ports=image.ports | {int(port) for port in rest.split()})
        case "USER":
            return replace(image, user=rest)
        case "STOPSIGNAL":
            return replace(image, stop_signal=rest)
        case "COPY":
            return replace(image, copies=(*image.copies, tuple(rest.split())))
        case "RUN":
            return replace(image, runs=(*image.runs, rest))
        case "ARG" | "LABEL" | "WORKDIR":
            return image
        case _:
            raise AssertionError(f"the Dockerfile has an instruction that these tests do not know: {instruction}")


def _exec_form(words: str) -> tuple[str, ...]:
    """The words of a command that no shell reads.

    Raises:
        ValueError: it is not in that form, which is a JSON array.
    """
    return tuple(json.loads(words))
