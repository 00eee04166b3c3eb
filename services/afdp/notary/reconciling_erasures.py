"""What a reconciler says of erased records and of erasures.

Of an erased record no statement is left to hold it against; its leaf hash is, which must be where the record says. That
it was erased is believed of an erasure whose certificate says the same, or of the key's holder.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

from afdp.errors import InvalidArgument, NotFound, Unavailable
from afdp.formats.merkle import HASH_SIZE, ProofError, verify_inclusion
from afdp.messages import metadata as store
from afdp.notary.erasing import ITSELF, certificate_of
from afdp.notary.keys import KeyDirectory
from afdp.verify.log import signed_checkpoint, signed_tree
from afdp.verify.result import NotVerifiedError

_PAGE = 256
_SOON = timedelta(days=1)  # in which a certificate is made


async def place_fault(keys: KeyDirectory, leaf: bytes, position: store.LogPosition) -> str:
    """Why an entry, of which the leaf hash alone is known, is not where a record says; empty: it is."""
    try:
        log = await keys.log(position.origin, position.checkpoint)
    except Unavailable:
        await keys.logs.logs()  # Unavailable again where nobody can be asked
        return "there is no such log"
    signed = signed_checkpoint if position.rekor1 is None else signed_tree
    try:
        tree = signed(position.checkpoint, log.vkey)
        if tree.size != position.tree_size:
            return f"the checkpoint is of {tree.size} entries, the proof of {position.tree_size}"
        if position.rekor1 is not None:  # whose body has the statement, and another leaf
            return ""
        path = [position.proof[at : at + HASH_SIZE] for at in range(0, len(position.proof), HASH_SIZE)]
        verify_inclusion(position.log_index, position.tree_size, leaf, path, tree.root)
    except (NotVerifiedError, ProofError) as error:
        return str(error)
    return ""


async def erasure_faults(metadata: store.MetadataServiceClient, timeout: float) -> AsyncIterator[tuple[str, str]]:
    """Each erasure that its certificate does not bear out, and why.

    Raises:
        Unavailable: a peer is away.
    """
    after = ""
    while True:
        request = store.ListErasuresRequest(page_size=_PAGE, after=after)
        page = (await metadata.list_erasures(request, timeout=timeout)).erasures
        for each in page:
            if why := await _fault(metadata, each, timeout):
                yield f"{each.tenant} {each.erasure_id}", why
        if len(page) < _PAGE:
            return
        after = f"{page[-1].tenant}/{page[-1].erasure_id}"


async def _fault(metadata: store.MetadataServiceClient, erasure: store.Erasure, timeout: float) -> str:
    if erasure.erased_at is None:
        return ""
    if not erasure.certificate:
        return "it was never certified" if erasure.erased_at < datetime.now(UTC) - _SOON else ""
    try:
        request = store.GetRecordRequest(erasure.tenant, erasure.certificate)
        found = (await metadata.get_record(request, timeout=timeout)).record
    except NotFound:
        found = None
    if found is None or found.draft is None:
        return "its certificate is not there"
    by = found.draft.submitter or store.Principal()
    is_ours = (by.issuer, by.subject, by.method) == astuple(ITSELF)
    if not is_ours or found.draft.evidence_hash != _certified(erasure):
        return "its certificate says something else"
    return ""


def _certified(erasure: store.Erasure) -> bytes:
    """The hash of the evidence that certifies it; empty where nothing could, as of something to come."""
    try:
        return certificate_of(erasure).hash
    except InvalidArgument:
        return b""
