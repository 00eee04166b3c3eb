"""What the figures were measured on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, object]:
    """The machine and the release."""
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(cpu),
        "system": platform.platform(),
        "python": platform.python_version(),
        "afdp": version("afdp-notary"),
        "load_generator": "on the same cores",
    }


def resident_mib(pid: int) -> float:
    """A process's memory."""
    return _status_mib(pid, "VmRSS:")


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    return _status_mib(pid, "VmHWM:")


def _status_mib(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))
    return round(kib / 1024, 1)
