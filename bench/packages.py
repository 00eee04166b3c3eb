"""The evidence that is notarised: about 1.4 KB, three artifacts, metadata of twelve keys, none like the other."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from hashlib import sha256

_numbers = itertools.count()


def evidence() -> dict[str, object]:
    """A package as the REST API takes it."""
    number = next(_numbers)
    return {
        "spec_version": "1.0.0",
        "timestamp_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "event_type": "ai.model.deployment.completed",
        "actor": {"actor_type": "workload", "id": "ci@acme.example", "auth_provider": "https://idp.acme.example"},
        "artifacts": [
            {
                "name": f"model-{part}.safetensors",
                "uri": f"s3://models/acme/{number}/model-{part}.safetensors",
                "hash_sha256": sha256(f"{number}/{part}".encode()).hexdigest(),
            }
            for part in range(3)
        ],
        "metadata": {
            "run": number,
            "pipeline": "train-and-deploy",
            "commit": sha256(str(number).encode()).hexdigest()[:40],
            "framework": {"name": "torch", "version": "2.9.1"},
            "dataset": "s3://datasets/acme/2026-10",
            "epochs": 12,
            "loss": 0.03125,
            "approved_by": ["risk", "security"],
            "region": "eu-west-1",
            "environment": "production",
            "ticket": f"CHG-{number:08d}",
            "notes": "Rolled out to one cell first, then to all; see the change ticket for the measurements.",
        },
    }
