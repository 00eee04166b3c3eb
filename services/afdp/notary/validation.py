"""ValidateEvidence: the offline verifier, run here, on the record that evidence and signature lead to."""

from __future__ import annotations

from afdp.errors import Erased, InvalidArgument, NotFound
from afdp.formats.anchor import Anchor
from afdp.formats.bundle import Bundle
from afdp.formats.canonical import strict_json
from afdp.formats.encoding import from_b64
from afdp.formats.receipt import Receipt
from afdp.messages.notary import NotarizationReceipt, ReceiptState, ValidateEvidenceResponse, ValidationResult
from afdp.notary.model import CheckedEvidence, Principal
from afdp.notary.service import Notary
from afdp.notary.trust import TrustOffice
from afdp.verify.receipts import verify_receipt
from afdp.verify.result import Result, Status

_STATES = {ReceiptState.SIGNED: "signed", ReceiptState.LOGGED: "logged", ReceiptState.WITNESSED: "witnessed"}


class Validator:
    """Finds the record and verifies its receipt against the evidence at hand."""

    def __init__(self, notary: Notary, trust: TrustOffice) -> None:
        self._notary = notary
        self._trust = trust

    async def validate(
        self, principal: Principal, evidence: CheckedEvidence, signature_b64: str
    ) -> ValidateEvidenceResponse:
        """Every check of the receipt with this signature over this evidence.

        Raises:
            InvalidArgument: the signature is not base64.
        """
        try:
            signature = from_b64(signature_b64)
        except ValueError as error:
            raise InvalidArgument.field("signature", str(error)) from None
        if not signature:
            raise InvalidArgument.field("signature", "must not be empty: it is signature_b64 of the receipt")
        try:
            record = await self._notary.record_of(principal, evidence.hash, signature)
        except Erased as erased:
            return ValidateEvidenceResponse(
                validation_error=erased.message,
                validation_result=ValidationResult(warnings=["nothing was checked: its receipt verifies offline"]),
            )
        except NotFound:
            return ValidateEvidenceResponse(
                validation_error="no record of this evidence has this signature",
                validation_result=ValidationResult(warnings=["nothing was checked: there is no record to check"]),
            )
        receipt = _plain(await self._notary.office_receipt(record))
        trust = await self._trust.root()
        result = verify_receipt(receipt, trust, evidence=evidence.canonical, tenant=principal.tenant)
        return _response(result)


def _plain(message: NotarizationReceipt) -> Receipt:
    return Receipt(
        evidence_package_hash=message.evidence_package_hash,
        rekor_log_id=message.rekor_log_id,
        rekor_server_url=message.rekor_server_url,
        signature_b64=message.signature_b64,
        public_key_b64=message.public_key_b64,
        integrated_time=message.integrated_time,
        log_index=message.log_index,
        receipt_id=message.receipt_id,
        state=_STATES[message.state],
        key_id=message.key_id,
        bundle=Bundle.from_json(message.bundle),
        anchors=tuple(Anchor.from_object(strict_json(each)) for each in message.anchors),
    )


def _response(result: Result) -> ValidateEvidenceResponse:
    def passed(*names: str) -> bool:
        return all(result.status(name) is Status.PASSED for name in names)

    warnings = [f"{check.name}: {check.detail}" for check in result.checks if check.status is Status.ABSENT]
    failures = [f"{check.name}: {check.detail}" for check in result.failures()]
    return ValidateEvidenceResponse(
        is_valid=result.verified,
        validation_error="; ".join(failures),
        validation_result=ValidationResult(
            signature_valid=passed("envelope", "signature", "key"),
            evidence_hash_valid=passed("evidence"),
            rekor_entry_valid=passed("log", "checkpoint"),
            timestamp_valid=passed("time"),
            warnings=warnings,
        ),
    )
