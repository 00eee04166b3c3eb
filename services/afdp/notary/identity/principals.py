"""From the claims of a verified token, or the names of a verified certificate, to the principal they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from afdp.formats.statement import Submitter
from afdp.formats.tenant import is_tenant
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.identity.claims import ClaimPath, Claims, Conditions, Pattern, texts
from afdp.notary.identity.settings import (
    CertificateSettings,
    IssuerSettings,
    RuleSettings,
    WordSettings,
)
from afdp.notary.model import Attributes, Principal
from afdp.rpc.caller import PeerCertificate

_MAX_SUBJECT = 255  # OpenID Connect Core 1.0, section 2
_SECONDS = range(253_402_300_800)  # of the years that a datetime has


@dataclass(frozen=True, slots=True)
class _Words:
    paths: tuple[ClaimPath, ...]
    map: Mapping[str, tuple[str, ...]] | None
    always: frozenset[str]

    @classmethod
    def of(cls, settings: WordSettings) -> _Words:
        return cls(tuple(map(ClaimPath.parse, settings.claims)), settings.map, frozenset(settings.always))

    def among(self, claims: Claims, *, split: bool = False) -> frozenset[str]:
        said = [text for path in self.paths for text in texts(path.find(claims))]
        if split:
            said = [word for text in said for word in text.split(" ") if word]
        if self.map is not None:
            said = [ours for word in said for ours in self.map.get(word, ())]
        return self.always | frozenset(said)


class TokenPrincipals:
    """What an issuer's settings make of its tokens."""

    def __init__(self, settings: IssuerSettings) -> None:
        self._issuer = settings.issuer
        self._subject = tuple(map(ClaimPath.parse, settings.subject))
        self._tenant = settings.tenant
        self._tenant_claim = (
            ClaimPath.parse(settings.tenant.claim) if settings.tenant and settings.tenant.claim else None
        )
        self._roles = _Words.of(settings.roles)
        self._groups = _Words.of(settings.groups)
        self._scopes = _Words.of(settings.scopes)
        self._clearance = _Words.of(settings.clearance)
        self._residency = _Words.of(settings.residency)
        self._mfa = settings.mfa
        self._rules = tuple((_conditions(rule), rule) for rule in settings.rules)

    def principal(self, claims: Claims) -> Principal:
        """Whom a verified token speaks for.

        Raises:
            CredentialRefused: it does not say, or for nobody that is meant.
        """
        try:
            return self._principal(claims)
        except ValueError:
            raise CredentialRefused("the token has a claim that is not as expected") from None

    def _principal(self, claims: Claims) -> Principal:
        rule = self._rule(claims)
        return Principal(
            tenant=rule.tenant if rule else self._tenant_of(claims),
            submitter=Submitter(self._issuer, self._subject_of(claims), "oidc"),
            roles=self._roles.among(claims) | frozenset(rule.roles if rule else ()),
            scopes=self._scopes.among(claims, split=True) | frozenset(rule.scopes if rule else ()),
            attributes=Attributes(
                credential="token",
                groups=self._groups.among(claims),
                clearance=rule.clearance if rule else _one(self._clearance.among(claims)),
                residency=rule.residency if rule else _one(self._residency.among(claims)),
                mfa=self._more_factors(claims),
                authenticated_at=_moment(claims.get("auth_time")),
                expires_at=_moment(claims.get("exp")),
            ),
        )

    def _rule(self, claims: Claims) -> RuleSettings | None:
        """The first one that fits."""
        if not self._rules:
            return None
        for conditions, rule in self._rules:
            if conditions.hold(claims):
                return rule
        raise CredentialRefused("no rule of the token's issuer fits it")

    def _subject_of(self, claims: Claims) -> str:
        for path in self._subject:
            subject = path.find(claims)
            if isinstance(subject, str) and 0 < len(subject) <= _MAX_SUBJECT and subject.isprintable():
                return subject
        raise CredentialRefused("the token has no subject")

    def _tenant_of(self, claims: Claims) -> str:
        settings = self._tenant
        if settings is None:
            raise CredentialRefused("the token has no tenant, or more than one")
        if self._tenant_claim is None:
            return settings.value or ""
        claim = self._tenant_claim.find(claims)
        if claim is None and settings.default is not None:
            return settings.default  # a claim that is there and names none is refused
        said = texts(claim)
        tenants = {tenant for word in said if (tenant := settings.map.get(word) if settings.map is not None else word)}
        if len(tenants) != 1:
            raise CredentialRefused("the token has no tenant, or more than one")
        (tenant,) = tenants
        if not is_tenant(tenant):
            raise CredentialRefused("the token has a tenant whose name is not allowed")
        return tenant

    def _more_factors(self, claims: Claims) -> bool:
        acr, amr = texts(claims.get("acr")), texts(claims.get("amr"))
        return not set(self._mfa.acr).isdisjoint(acr) or not set(self._mfa.amr).isdisjoint(amr)


class CertificatePrincipals:
    """What the settings make of verified client certificates."""

    def __init__(self, settings: Sequence[CertificateSettings]) -> None:
        self._rules = tuple(
            (
                tuple(map(Pattern.parse, rule.uri)),
                tuple(Pattern.parse(text, ends=".") for text in rule.dns),
                rule,
            )
            for rule in settings
        )

    def principal(self, certificate: PeerCertificate) -> Principal:
        """Whom a certificate stands for: the first rule that one of its names fits says so.

        Raises:
            CredentialRefused: no rule fits.
        """
        for uris, dns, rule in self._rules:
            for patterns, names in ((uris, certificate.uris), (dns, certificate.dns)):
                for name in names:
                    if any(pattern.matches(name) for pattern in patterns):
                        return _of_certificate(name, certificate.ends, rule)
        raise CredentialRefused("no rule fits the client certificate")


def _of_certificate(name: str, ends: float, rule: CertificateSettings) -> Principal:
    issuer = rule.issuer
    if not issuer:
        issuer = "/".join(name.split("/", 3)[:3]) if name.startswith("spiffe://") else "x509"
    return Principal(
        tenant=rule.tenant,
        submitter=Submitter(issuer, rule.subject or name, "mtls"),
        roles=frozenset(rule.roles),
        scopes=None,
        attributes=Attributes(
            credential="certificate",
            clearance=rule.clearance,
            residency=rule.residency,
            expires_at=_moment(ends),
        ),
    )


def _conditions(rule: RuleSettings) -> Conditions:
    return Conditions(
        tuple((ClaimPath.parse(path), tuple(map(Pattern.parse, texts_))) for path, texts_ in rule.when.items())
    )


def _one(words: frozenset[str]) -> str:
    if len(words) > 1:
        raise ValueError("more than one")
    return next(iter(words), "")


def _moment(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or int(value) not in _SECONDS:
        return None
    return datetime.fromtimestamp(value, UTC)
