"""Metadata of the offline roles: made from a plan, signed with the keys at hand, complete or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from afdp.ceremony.keys import OfflineKey
from afdp.ceremony.plan import OFFLINE_ROLES, Plan
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.repository import ONLINE_KEYS, ONLINE_PATHS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, metadata_name
from afdp.trust.metadata import parsed, tuf_key
from afdp.trust.offline import Offline, read_offline, require_follows
from afdp.trust.online import served_files

Make = Callable[[str], OfflineKey]
"""Makes a fresh key for a role."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Metadata that is being signed, with the files that it speaks of.

    Attributes:
        before: what was signed before; None where a repository begins.
        root: None where it stays as it is.
    """

    before: Offline | None
    root: Metadata[Root] | None
    targets: Metadata[Targets]
    contents: Mapping[str, bytes]

    @classmethod
    def of_files(cls, before: Offline | None, files: Mapping[str, bytes]) -> Unsigned:
        """What `files` gave: a draft, as it was kept.

        Raises:
            FailedPrecondition: the draft is damaged.
        """
        roots = [name for name in files if name.endswith(f".{ROOT}.json")]
        targets = [name for name in files if name.endswith(f".{TARGETS}.json")]
        try:
            if len(targets) != 1 or len(roots) > 1:
                raise InvalidArgument.field("targets.json", "must be there once")
            return cls(
                before,
                parsed(Root, roots[0], files[roots[0]]) if roots else None,
                parsed(Targets, targets[0], files[targets[0]]),
                {name.split(".", 1)[1]: data for name, data in files.items() if name.startswith("targets/")},
            )
        except InvalidArgument as error:
            raise FailedPrecondition(f"the draft is damaged, discard it with --discard: {error}") from error

    @property
    def files(self) -> dict[str, bytes]:
        """As they are served."""
        files = served_files(self.contents)
        if self.root is not None:
            files[metadata_name(ROOT, self.root.signed.version)] = self.root.to_bytes()
        files[metadata_name(TARGETS, self.targets.signed.version)] = self.targets.to_bytes()
        return files

    def wanted(self) -> set[str]:
        """The IDs of the keys that may sign and have not yet."""
        of_root, of_targets = set[str](), set(self._root.roles[TARGETS].keyids)
        if self.root is not None:
            of_root = set(self.root.signed.roles[ROOT].keyids)
            if self.before is not None:
                of_root |= set(self.before.root.roles[ROOT].keyids)
            of_root -= set(self.root.signatures)
        return of_root | (of_targets - set(self.targets.signatures))

    def sign(self, keys: Iterable[OfflineKey]) -> None:
        """Adds the signatures of the keys that may sign."""
        for key in keys:
            if self.root is not None and key.key_id in self._root_signers():
                self.root.sign(key.signer, append=True)
            if key.key_id in self._root.roles[TARGETS].keyids:
                self.targets.sign(key.signer, append=True)

    def complete(self) -> Offline:
        """What was signed, verified as a notary and a client do.

        Raises:
            InvalidArgument: it has not got its signatures yet; the file is named, with how many it has.
            FailedPrecondition: it does not follow from what was signed before.
        """
        kept = dict(self.before.files) if self.before is not None else {}
        kept = {name: data for name, data in kept.items() if name.endswith(f".{ROOT}.json")}
        offline = read_offline({**kept, **self.files})
        require_follows(self.before, offline)
        return offline

    @property
    def _root(self) -> Root:
        """The root that is in force once this is signed."""
        if self.root is not None:
            return self.root.signed
        if self.before is None:
            raise FailedPrecondition("a repository begins with a root")
        return self.before.root

    def _root_signers(self) -> set[str]:
        before = set(self.before.root.roles[ROOT].keyids) if self.before is not None else set()
        return before | set(self._root.roles[ROOT].keyids)


def first_metadata(plan: Plan, make: Make, counts: Mapping[str, int], thresholds: Mapping[str, int]) -> Unsigned:
    """A new repository, with fresh keys for the offline roles: so many by role, and so many of them needed."""
    if plan.root_expires is None or plan.online_key is None:
        raise FailedPrecondition("a repository begins with a root and an online key")
    root = Root(1, expires=plan.root_expires, consistent_snapshot=True)
    for role in OFFLINE_ROLES:
        for _ in range(counts[role]):
            root.add_key(make(role).public, role)
        root.roles[role].threshold = thresholds[role]
    _set_online_key(root, plan.online_key)
    return Unsigned(None, Metadata(root), Metadata(_targets(plan, root, 1)), plan.contents)


def next_metadata(offline: Offline, plan: Plan, make: Make) -> Unsigned:
    """What follows what was signed; where keys are replaced, with fresh ones."""
    root = deepcopy(offline.root)
    if plan.root_expires is not None:
        root.version += 1
        root.expires = plan.root_expires
    for role in plan.rotate:
        old = list(root.roles[role].keyids)
        for keyid in old:
            root.revoke_key(keyid, role)
        for _ in old:
            root.add_key(make(role).public, role)
    if plan.online_key is not None:
        _set_online_key(root, plan.online_key)
    targets = Metadata(_targets(plan, root, offline.targets.version + 1))
    return Unsigned(offline, Metadata(root) if plan.root_expires is not None else None, targets, plan.contents)


def _set_online_key(root: Root, public_key: bytes) -> None:
    for role in (SNAPSHOT, TIMESTAMP):
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
    for role in (SNAPSHOT, TIMESTAMP):
        root.add_key(tuf_key(public_key), role)


def _targets(plan: Plan, root: Root, version: int) -> Targets:
    [online] = root.roles[SNAPSHOT].keyids
    role = DelegatedRole(ONLINE_KEYS, [online], 1, terminating=True, paths=list(ONLINE_PATHS))
    return Targets(
        version,
        expires=plan.targets_expires,
        targets={path: TargetFile.from_data(path, data, ["sha256"]) for path, data in plan.contents.items()},
        delegations=Delegations({online: root.keys[online]}, {ONLINE_KEYS: role}),
    )


def signatures_of(unsigned: Unsigned) -> Sequence[str]:
    """Whose signatures are there, by the beginning of their key's ID."""
    found = set(unsigned.targets.signatures) | set(unsigned.root.signatures if unsigned.root else ())
    return sorted(keyid[:8] for keyid in found)
