"""Whether an advisory is known for a package that is locked: pip-audit over requirements/*.txt, with their hashes.

    python tools/audit.py [--osv-url URL] [FILE…]      (default: requirements/*.txt)

Exit: 0 every package was looked up and nothing is known · 1 something is known · 3 it could not be found out. pip-audit
itself says "No known vulnerabilities found" of packages that the service did not know or answer for; here that is a 3.
It asks the package index's own JSON API, or, with --osv-url, a server that speaks OSV's API: a mirror, for instance.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3
PROBE = ROOT / "requirements" / "uv.txt"  # one package: enough to see whether anybody answers
PATIENCE = 300  # seconds for one lock file
SHORT = 60  # seconds for the probe: who swallows packets is not waited for


@dataclass(frozen=True, slots=True)
class Found:
    """What one lock file gave: packages that were looked up, advisories, and whatever was not answered."""

    audited: frozenset[str] = frozenset()
    advisories: frozenset[str] = frozenset()
    unanswered: frozenset[str] = frozenset()


def main() -> None:
    """Audits, prints one summary line at the end and exits."""
    parser = argparse.ArgumentParser(description="Looks up known vulnerabilities of what is locked.")
    parser.add_argument("--osv-url", help="a server that speaks OSV's query API, instead of the package index")
    parser.add_argument("files", nargs="*", type=Path, help="the lock files  [default: requirements/*.txt]")
    given = parser.parse_args()
    service = ["--vulnerability-service", "osv", "--osv-url", given.osv_url] if given.osv_url else []
    results = [audit(PROBE, service, SHORT)]
    if results[0].unanswered:
        _end(NOT_AUDITED, f"NOT AUDITED: the advisory service cannot be asked: {', '.join(results[0].unanswered)}")
    for lock in given.files or sorted((ROOT / "requirements").glob("*.txt")):
        print(f"  {lock.name}", flush=True)
        results.append(audit(lock, service))
    _conclude(results)


def audit(lock: Path, service: list[str], patience: float = PATIENCE) -> Found:
    """What pip-audit says of one lock file."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10", *service]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
        dependencies = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return Found(unanswered=frozenset({f"no answer for {lock.name} within {patience:g} s"}))
    except ValueError:  # it prints its report only where it got to the end
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        return Found(unanswered=frozenset({f"pip-audit ended with {done.returncode}: {last[0][:200]}"}))
    return Found(
        frozenset(_package(each) for each in dependencies if "skip_reason" not in each),
        frozenset(
            f"{_package(each)}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
            for each in dependencies
            for known in each.get("vulns", [])
        ),
        frozenset(each["skip_reason"] for each in dependencies if "skip_reason" in each),
    )


def _package(dependency: dict[str, Any]) -> str:
    return f"{dependency['name']} {dependency['version']}"


def _conclude(results: list[Found]) -> None:
    audited = frozenset().union(*(result.audited for result in results))
    advisories = sorted(frozenset().union(*(result.advisories for result in results)))
    unanswered = sorted(frozenset().union(*(result.unanswered for result in results)))
    for line in (*advisories, *unanswered):
        print(f"  {line}")
    if advisories:
        _end(VULNERABLE, f"VULNERABLE: {len(advisories)} advisories; {len(unanswered)} packages were not audited")
    if unanswered:
        _end(NOT_AUDITED, f"NOT AUDITED: {len(unanswered)} packages were not answered for, {len(audited)} were")
    _end(CLEAN, f"CLEAN: no advisory is known for {len(audited)} packages")


def _end(code: int, summary: str) -> None:
    print(summary)
    sys.exit(code)


if __name__ == "__main__":
    main()
