"""Evidence packages for tests."""

from __future__ import annotations

import itertools
from hashlib import sha256
from typing import Any

_numbers = itertools.count()


def package(**changes: Any) -> dict[str, Any]:
    """A package that no other call gives, as the REST API takes it."""
    number = next(_numbers)
    return {
        "spec_version": "1.0.0",
        "timestamp_utc": "2026-11-01T12:00:00.25Z",
        "event_type": "ai.model.trained",
        "actor": {"actor_type": "workload", "id": "ci@acme.example", "auth_provider": ""},
        "artifacts": [{"name": "model.bin", "uri": "", "hash_sha256": sha256(str(number).encode()).hexdigest()}],
        "metadata": {"number": number, "loss": 0.5, "tags": ["a", None, True], "größe": "ü"},
        **changes,
    }
