"""Which permissions there are."""

from __future__ import annotations

from afdp.policy.facts import AUTHENTICATED
from afdp.rpc.descriptors import service_methods

PERMISSIONS = frozenset(each.permission for each in service_methods("afdp.notary.v1.NotaryService")) - {
    "",
    AUTHENTICATED,
}
"""What methods of the notary ask policies for."""
