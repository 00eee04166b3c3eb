"""What the notary asks of fields beyond their types: for the OpenAPI document and its page; nothing is decided by it.

The types are in the descriptors; these rules are enforced by the notary, which names the field it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHA256 = {"pattern": "^[0-9a-fA-F]{64}$"}
_SHA256_OR_NONE = {"pattern": "^([0-9a-fA-F]{64})?$"}
_NAME = {"minLength": 1, "maxLength": 512}
_PAGE_SIZE = {"minimum": 0, "maximum": 1000, "examples": [50]}
_IDEMPOTENCY_KEY = {"minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$", "examples": ["build-4711"]}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_HASH_EXAMPLE = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_RECEIPT_ID = "019ab5a4-5d7e-7a31-9a55-6c0d3d3c7f11"
_ERASURE_ID = "5e884898da28047151d0e56f8dc62927"
_WORKFLOW_ID = {"pattern": f"^(simple|approval|batch)-signing-{_UUID}$", "examples": [f"simple-signing-{_RECEIPT_ID}"]}

CONSTRAINTS: Mapping[str, Mapping[str, Any]] = {
    "EvidencePackage.spec_version": {"enum": ["1.0.0"], "examples": ["1.0.0"]},
    "EvidencePackage.timestamp_utc": {"examples": ["2026-11-24T04:09:28Z"]},
    "EvidencePackage.event_type": {
        "pattern": r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)+$",
        "maxLength": 512,
        "examples": ["ai.model.deployment.completed"],
    },
    "EvidencePackage.artifacts": {"maxItems": 1000},
    "EvidencePackage.metadata": {"examples": [{"pipeline": "credit-risk", "accuracy": 0.93}]},
    "Actor.actor_type": {**_NAME, "examples": ["workload"]},
    "Actor.id": {**_NAME, "examples": ["ci@acme.example"]},
    "Actor.auth_provider": {"maxLength": 512, "examples": [""]},
    "Artifact.name": {**_NAME, "examples": ["model.safetensors"]},
    "Artifact.uri": {"examples": ["s3://models/credit-risk/model.safetensors"]},
    "Artifact.hash_sha256": {**_SHA256, "examples": [_HASH_EXAMPLE]},
    "SignEvidenceRequest.wait_for": {"examples": ["logged"]},
    "SignEvidenceRequest.idempotency_key": _IDEMPOTENCY_KEY,
    "SignEvidenceRequest.dedupe": {"examples": [False]},
    "SignEvidenceBatchRequest.evidence_packages": {"minItems": 1, "maxItems": 1000},
    "SignEvidenceBatchRequest.wait_for": {"examples": ["logged"]},
    "SignEvidenceBatchRequest.idempotency_key": _IDEMPOTENCY_KEY,
    "SignEvidenceBatchRequest.dedupe": {"examples": [False]},
    "ValidateEvidenceRequest.signature": {"minLength": 4, "pattern": _BASE64, "examples": ["MEUCIQ=="]},
    "GetEvidenceRequest.evidence_package_hash": {**_SHA256, "examples": [_HASH_EXAMPLE]},
    "SearchEvidenceRequest.page_size": _PAGE_SIZE,
    "SearchEvidenceRequest.evidence_package_hash": _SHA256_OR_NONE,
    "SearchEvidenceRequest.artifact_hash": {**_SHA256_OR_NONE, "examples": [_HASH_EXAMPLE]},
    "SearchEvidenceRequest.key_id": {"examples": ["afdp-notary-key:1"]},
    "SearchEvidenceRequest.metadata": {"maxItems": 8, "examples": [["model.name=credit-risk"]]},
    "ExportEvidenceRequest.format": {"examples": ["ndjson"]},
    "ExportEvidenceRequest.after": {"pattern": f"^({_UUID})?$"},
    "ExportEvidenceRequest.evidence_package_hash": _SHA256_OR_NONE,
    "ExportEvidenceRequest.artifact_hash": {**_SHA256_OR_NONE, "examples": [_HASH_EXAMPLE]},
    "ExportEvidenceRequest.metadata": {"maxItems": 8, "examples": [["model.name=credit-risk"]]},
    "GetReceiptRequest.receipt_id": {"pattern": f"^{_UUID}$", "examples": [_RECEIPT_ID]},
    "GetWorkflowStatusRequest.workflow_id": _WORKFLOW_ID,
    "GetNotarizationReceiptRequest.workflow_id": _WORKFLOW_ID,
    "ListWorkflowsRequest.page_size": _PAGE_SIZE,
    "RotateKeyRequest.purpose": {"examples": ["evidence"]},
    "RevokeKeyRequest.key_id": {"examples": ["afdp-notary-key:1"]},
    "RevokeKeyRequest.compromised_since": {"examples": ["2026-11-20T00:00:00Z"]},
    "RevokeKeyRequest.reason": {"minLength": 1, "maxLength": 1024, "examples": ["the build host was compromised"]},
    "PlaceHoldRequest.case_number": {**_NAME, "examples": ["case 4711"]},
    "PlaceHoldRequest.reason": {"minLength": 1, "maxLength": 4096, "examples": ["a court asks for it"]},
    "PlaceHoldRequest.artifact_hash": {**_SHA256_OR_NONE, "examples": [_HASH_EXAMPLE]},
    "ReleaseHoldRequest.hold_id": {"pattern": f"^{_UUID}$", "examples": [_RECEIPT_ID]},
    "ReleaseHoldRequest.reason": {"minLength": 1, "maxLength": 4096, "examples": ["the case is closed"]},
    "ListHoldsRequest.page_size": _PAGE_SIZE,
    "EraseSubjectRequest.subject": {"maxLength": 1025, "examples": ["human:alice"]},
    "EraseSubjectRequest.erasure_id": {"pattern": "^([0-9a-f]{32})?$"},
    "EraseSubjectRequest.reason": {"minLength": 1, "maxLength": 4096, "examples": ["request 17"]},
    "ListErasuresRequest.page_size": _PAGE_SIZE,
    "GetErasureRequest.erasure_id": {"pattern": "^[0-9a-f]{32}$", "examples": [_ERASURE_ID]},
    "RunRetentionRequest.dry_run": {"examples": [True]},
    "ListAffectedReceiptsRequest.key_id": {"examples": ["afdp-notary-key:1"]},
    "ListAffectedReceiptsRequest.page_size": _PAGE_SIZE,
    "ExportAffectedReceiptsRequest.key_id": {"examples": ["afdp-notary-key:1"]},
    "ExportAffectedReceiptsRequest.page_size": {"minimum": 0, "maximum": 10_000, "examples": [10_000]},
    "ExportAffectedReceiptsRequest.after": {"pattern": f"^({_UUID})?$"},
}
"""JSON Schema keywords, by `Message.field`."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "EvidencePackage": ("spec_version", "timestamp_utc", "event_type", "actor"),
    "Actor": ("actor_type", "id"),
    "Artifact": ("name", "hash_sha256"),
    "SignEvidenceRequest": ("evidence_package",),
    "SignEvidenceBatchRequest": ("evidence_packages",),
    "ValidateEvidenceRequest": ("evidence_package", "signature"),
    "RevokeKeyRequest": ("reason",),
}
"""Fields that a request must have, by message."""
