"""What each image holds, as a CycloneDX 1.6 document, from the lock file that it is built from.

    python tools/sbom.py [FOLDER]      (default: dist/sbom)

cyclonedx-py reads the lock file; who needs whom, which it does not see there, is taken from the comments that uv
leaves. The same commit gives the same bytes; the time in them is that of SOURCE_DATE_EPOCH, or there is none. The
packages of the base image's Debian are not in it: a lock file knows nothing of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import Marker

ROOT = Path(__file__).parent.parent
VERSION = "1.6"
# The lock file of everything that leaves this repository: five images (the command line's is the notary's), `afdp dev`.
LOCKS = ("gateway", "notary", "signer", "transparency", "metadata", "run")
# Images are Linux with CPython; a package for one processor only is listed for all.
IMAGE = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "python_version": "3.11",
    "python_full_version": "3.11.99",  # the newest patch, which the base image has
}

Document = dict[str, Any]


def main() -> None:
    """Writes one document per lock file and says where."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for lock in LOCKS:
        document = describe(lock)
        validate(document)
        path = folder / f"{document['metadata']['component']['name']}-{lock}-{project()['version']}.cdx.json"
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
        print(f"{path}: {len(document['components'])} packages")


def describe(lock: str) -> Document:
    """The document of `requirements/LOCK.txt`."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = [entry for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE) if _is_installed(entry)]
    document = _read_by_cyclonedx("".join(entries))
    root = document["metadata"]["component"]
    root |= {
        "bom-ref": f"afdp-notary/{lock}",
        "properties": [{"name": "afdp:lock", "value": f"requirements/{lock}.txt"}],
    }
    for component in document["components"]:
        component["bom-ref"] = component["purl"]
        del component["description"]  # the line of the lock file
    document["components"].sort(key=lambda component: str(component["bom-ref"]))
    document["dependencies"] = _dependencies(entries, root["bom-ref"], document["components"])
    return document


def validate(document: Document) -> None:
    """Holds a document against CycloneDX's own schema (which takes a second or two).

    Raises:
        ValueError: it does not fit.
    """
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    if problem is not None:
        raise ValueError(f"{document['metadata']['component']['bom-ref']} is not valid CycloneDX: {problem}")


def project() -> Document:
    """The project's own table in pyproject.toml."""
    table: Document = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def _is_installed(entry: str) -> bool:
    """Whether an image gets this entry of a lock file."""
    found = re.match(r"\S+==\S+ ; ([^\\\n]+)", entry)
    if found is None:
        return True
    return any(Marker(found[1]).evaluate({**IMAGE, "platform_machine": machine}) for machine in ("x86_64", "aarch64"))


def _read_by_cyclonedx(requirements: str) -> Document:
    words = ["--output-reproducible", "--no-validate", "--sv", VERSION, "--pyproject", ROOT / "pyproject.toml"]
    command = [Path(sys.executable).parent / "cyclonedx-py", "requirements", *words, "--output-file", "-", "-"]
    # A package index of the environment is where this was installed from, not where a component is to be had.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        command, input=requirements, text=True, env=environment, capture_output=True, check=False, timeout=120
    )
    if done.returncode:
        raise ValueError(f"cyclonedx-py ended with {done.returncode}: {done.stderr.strip()}")
    document: Document = json.loads(done.stdout)
    return document


def _dependencies(entries: list[str], root: str, components: list[Document]) -> list[Document]:
    """The graph: whom each entry stands "via", turned round."""
    refs = {component["name"]: component["bom-ref"] for component in components}
    needs: dict[str, set[str]] = {ref: set() for ref in (root, *refs.values())}
    for entry in entries:
        name = entry.partition("==")[0]
        for needing in re.findall(r"^    # +(?:via +)?([A-Za-z0-9._-]+)(?: \(\S+\))?$", entry, re.MULTILINE):
            if needing == "afdp-notary":
                needs[root].add(refs[name])
            elif needing in refs:
                needs[refs[needing]].add(refs[name])
    return [{"ref": ref, "dependsOn": sorted(needed)} for ref, needed in sorted(needs.items())]


if __name__ == "__main__":
    main()
