"""A Rekor v1: it gets the whole envelope (`dsse` 0.0.1), and answers with a promise and a proof."""

from __future__ import annotations

from collections.abc import Mapping

from afdp.errors import InvalidArgument, Unavailable
from afdp.formats import rekor1
from afdp.formats.bundle import LogEntry
from afdp.formats.canonical import canonical_json, strict_json
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import parse_entry_body
from afdp.formats.members import Members
from afdp.formats.note import Checkpoint
from afdp.formats.spki import to_pem
from afdp.transparency.external.http import Calls, Reply, refusal
from afdp.transparency.external.values import Answer, Shard, Submission, UnreadableAnswer

_PATH = "/api/v1/log/entries/"
_MOMENT = 1.0  # seconds


class Rekor1Client:
    """One log; its trees are told apart by their numbers."""

    def __init__(self, shard: Shard, calls: Calls) -> None:
        self._shard = shard
        self._calls = calls

    async def add(self, submission: Submission) -> Answer:
        """As `LogClient.add`."""
        reply = await self._calls.post(f"{self._shard.url}/api/v1/log/entries", _request(submission))
        if reply.status == 201:
            return Answer(_entry(reply))
        if reply.status == 409:
            return Answer(await self._existing(reply.headers.get("location", "")), read=True)
        raise refusal(reply)

    async def consistency(self, old: Checkpoint, new: Checkpoint) -> tuple[bytes, ...]:
        """As `LogClient.consistency`."""
        tree = new.origin.rpartition(" - ")[2]
        query = f"firstSize={old.size}&lastSize={new.size}&treeID={tree}"
        reply = await self._calls.get(f"{self._shard.url}/api/v1/log/proof?{query}")
        if reply.status != 200:
            raise Unavailable(f"the log's proof is answered with {reply.status}", retry_after=_MOMENT)
        try:
            members = Members(strict_json(reply.body))
            return tuple(bytes.fromhex(each) for each in members.strings("hashes"))
        except (InvalidArgument, ValueError):
            raise UnreadableAnswer("the log's proof cannot be read", retry_after=_MOMENT) from None

    async def _existing(self, location: str) -> LogEntry:
        """The entry that was found to be there already; its address is a path of the log, whatever host it names."""
        _, found, uuid = location.partition(_PATH)
        if not found or not uuid.isalnum():
            raise UnreadableAnswer("the log says that the entry is there, and not where", retry_after=_MOMENT)
        reply = await self._calls.get(f"{self._shard.url}{_PATH}{uuid}")
        if reply.status != 200:
            raise Unavailable(f"the log's entry is answered with {reply.status}", retry_after=_MOMENT)
        return _entry(reply)


def _request(submission: Submission) -> bytes:
    entry = parse_entry_body(submission.body)
    envelope = rekor1.envelope_json(submission.statement, IN_TOTO_PAYLOAD_TYPE, entry.signature)
    content = {"envelope": envelope.decode(), "verifiers": [b64(to_pem(entry.spki).encode())]}
    spec: Mapping[str, object] = {"proposedContent": content}
    return canonical_json({"apiVersion": rekor1.API_VERSION, "kind": rekor1.KIND, "spec": spec})


def _entry(reply: Reply) -> LogEntry:
    try:
        answer = strict_json(reply.body)
        if not isinstance(answer, dict) or len(answer) != 1:
            raise ValueError
        [said] = answer.values()
        members = Members(said)
        verification = members.object("verification")
        proof = verification.object("inclusionProof")
        return LogEntry(
            log_index=members.integer("logIndex"),
            log_id=bytes.fromhex(members.sha256_hex("logID")),
            body=members.base64("body"),
            tree_size=proof.integer("treeSize"),
            root_hash=bytes.fromhex(proof.sha256_hex("rootHash")),
            hashes=tuple(bytes.fromhex(each) for each in proof.strings("hashes")),
            checkpoint=proof.string("checkpoint"),
            proof_index=proof.integer("logIndex"),
            kind=rekor1.KIND,
            version=rekor1.API_VERSION,
            integrated_time=members.integer("integratedTime"),
            promise=verification.base64("signedEntryTimestamp"),
        )
    except (InvalidArgument, ValueError):
        raise UnreadableAnswer("the log's answer is no entry", retry_after=_MOMENT) from None
