"""What the settings say of access, put together."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from afdp.config import SettingsError
from afdp.errors import FailedPrecondition
from afdp.notary.access.admitted import ANYBODY
from afdp.notary.access.durable_trail import DurableTrail, Metadata
from afdp.notary.access.gate import Authenticator, Gate
from afdp.notary.access.guarded import GuardedAuthenticator
from afdp.notary.access.key_rights import KeyRights
from afdp.notary.access.labels import Labels
from afdp.notary.access.limiter import Charges, RateLimiter
from afdp.notary.access.log_trail import LogTrail
from afdp.notary.access.open import NoCharges, OnThisMachine, OpenAccess
from afdp.notary.access.policies import LivePolicies
from afdp.notary.access.quotas import LocalQuotas
from afdp.notary.access.recorded import RecordedCalls
from afdp.notary.access.redis_quotas import RedisQuotas
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.access.rule_events import IDENTITY, POLICIES, RuleEvents
from afdp.notary.access.spool import Spool
from afdp.notary.config import NotarySettings
from afdp.notary.identity.identity import Identity
from afdp.notary.model import Principal
from afdp.notary.service import Access
from afdp.notary.status import Reporting
from afdp.policy.facts import Deployment
from afdp.policy.sources import PolicyError
from afdp.redis import FollowingRedis
from afdp.rpc.caller import Caller
from afdp.rpc.handlers import Admit


@dataclass(frozen=True, slots=True)
class Opened:
    """The way in.

    Attributes:
        access: who may notarise and see which evidence.
        key_rights: whose keys an administrator of keys may see and change.
        trail: where it is put on record what is done.
        admit: who may call; None: everybody.
        parts: what runs beside the server.
        charges: who counts what else a call asks for than itself.
        reporting: what says how it is, for the operators.
    """

    access: Access
    key_rights: KeyRights
    trail: DurableTrail
    admit: Admit | None = None
    parts: Sequence[Coroutine[Any, Any, None]] = ()
    charges: Charges = field(default_factory=NoCharges)
    reporting: Sequence[Reporting] = ()


def opened(settings: NotarySettings, metadata: Metadata) -> Opened:
    """The way in as the settings want it; its audit trail is kept by metadata.

    Raises:
        FailedPrecondition: the policies or the identity settings are wrong; names each fault and where it is.
    """
    if settings.auth == "off":
        # In plain text neither we nor a gateway of ours listens off loopback, so nobody need be asked.
        trail = _trail(settings, metadata, None)
        calls = RecordedCalls(None if settings.tls == "off" else OnThisMachine(trail).admit, trail)
        rights = KeyRights(frozenset({ANYBODY.tenant}))
        return Opened(OpenAccess(), rights, trail, calls.admit, (trail.run(),))
    identity = _identity(settings)
    authenticator: Authenticator = identity or NoIssuer()
    if settings.auth_failures is not None:
        authenticator = GuardedAuthenticator(authenticator, settings.auth_failures)
    limiter, counting = _limiter(settings)
    policies = live_policies(settings)
    lines = LogTrail(settings.audit_queue_items, settings.audit_interval_seconds)
    trail = _trail(settings, metadata, lines)
    rules = RuleEvents(trail.put, settings.operator_tenants[0])
    policies.tell(partial(rules.hear, POLICIES))
    following: list[Coroutine[Any, Any, None]] = [rules.run()]
    if identity is not None:
        identity.tell(partial(rules.hear, IDENTITY))
        following.append(identity.run())
    labels = Labels(settings.classifications, settings.classification_fields, settings.residency_fields)
    gate = Gate(authenticator, limiter, policies, labels, trail)
    key_rights = KeyRights(frozenset(settings.operator_tenants))
    calls = RecordedCalls(gate.admit, trail)
    parts = (*following, *counting, policies.run(), lines.run(), trail.run())
    return Opened(gate, key_rights, trail, calls.admit, parts, limiter, [policies])


def _trail(settings: NotarySettings, metadata: Metadata, lines: LogTrail | None) -> DurableTrail:
    most = settings.audit_spool_bytes
    spool = Spool(settings.data_dir / "audit-spool", most) if most else None
    return DurableTrail(metadata, spool, settings.audit_queue_items, settings.audit_interval_seconds, lines)


def live_policies(settings: NotarySettings) -> LivePolicies:
    """The policies that the settings name.

    Raises:
        FailedPrecondition: they are wrong.
    """
    operators = frozenset(settings.operator_tenants)
    deployment = Deployment(settings.classifications, operators, settings.region)
    try:
        return LivePolicies(settings.policies, deployment, settings.policy_interval_seconds)
    except PolicyError as error:
        raise FailedPrecondition(f"the policies are wrong:\n{error}") from None


def _limiter(settings: NotarySettings) -> tuple[RateLimiter, Sequence[Coroutine[Any, Any, None]]]:
    """Where calls are counted, and what keeps that going."""
    redis = FollowingRedis.of(settings)
    if redis is None:
        return RateLimiter(settings.rate_limits, LocalQuotas()), ()
    quotas = RedisQuotas(redis, settings.redis_timeout_seconds, settings.redis_retry_seconds)
    return RateLimiter(settings.rate_limits, quotas), (quotas.run(), redis.run())


def _identity(settings: NotarySettings) -> Identity | None:
    """Who is believed; None: nobody.

    Raises:
        FailedPrecondition: the file of identity settings is wrong.
    """
    try:
        return Identity(settings.identity) if settings.identity is not None else None
    except SettingsError as error:
        raise FailedPrecondition(str(error)) from None


class NoIssuer:
    """Believes nobody: what there is before an issuer is configured."""

    async def authenticate(self, caller: Caller) -> Principal:
        """Raises CredentialRefused."""
        raise CredentialRefused("no issuer is configured: AFDP_IDENTITY names none")
