"""The file that `AFDP_IDENTITY` names: who is believed, and what is known of them. Its schema, strict in every name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from afdp.formats.tenant import check_tenant
from afdp.notary.identity.claims import ClaimPath, Pattern
from afdp.notary.identity.keys import ALGORITHMS
from afdp.notary.identity.presets import PRESETS, WORKLOADS
from afdp.settings_file import parse_settings_file, read_settings_file
from afdp.urls import check_private_url

_SETTING = "AFDP_IDENTITY"


def _checked_path(text: str) -> str:
    ClaimPath.parse(text)
    return text


def _checked_pattern(text: str) -> str:
    Pattern.parse(text)
    return text


def _checked_algorithm(name: str) -> str:
    if name not in ALGORITHMS:
        raise ValueError(f"must be one of {', '.join(ALGORITHMS)}")
    return name


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Tenant = Annotated[str, AfterValidator(check_tenant)]
Url = Annotated[str, AfterValidator(check_private_url)]
Path_ = Annotated[str, AfterValidator(_checked_path)]
Paths = Annotated[tuple[Path_, ...], BeforeValidator(_listed)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(_checked_pattern)], ...], BeforeValidator(_listed)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], BeforeValidator(_listed)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TenantSettings(_Strict):
    """Whose tenant the bearers of an issuer's tokens belong to: `value`, or what `claim` says."""

    value: Tenant | None = None
    claim: Path_ | None = None
    map: Mapping[str, Tenant] | None = Field(
        default=None, description="From the claim's words to tenants; others: none."
    )
    default: Tenant | None = Field(
        default=None, description="Where the claim says nothing; without it they are refused."
    )

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.value is None) == (self.claim is None):
            raise ValueError("must have one of value and claim")
        if self.value is not None and (self.map is not None or self.default is not None):
            raise ValueError("has a value, so map and default mean nothing")
        return self


class WordSettings(_Strict):
    """Words from claims: roles, groups, scopes, a clearance, a residency."""

    claims: Paths = Field(default=(), description="Claims that have them; all that are there count.")
    map: Mapping[str, Words] | None = Field(default=None, description="From the issuer's words to ours; others: none.")
    always: Words = Field(default=(), description="What every bearer has.")


class FactorSettings(_Strict):
    """What shows that somebody used more than one factor."""

    acr: Words = ()
    amr: Words = ()


class KeySettings(_Strict):
    """Where an issuer's keys are, and how long they count."""

    discovery: Url | None = Field(
        default=None, description="By default below the issuer, as OpenID Connect Discovery says."
    )
    url: Url | None = Field(default=None, description="The JWK set itself, where there is no discovery.")
    file: Path | None = Field(default=None, description="A JWK set in a file, where the issuer cannot be reached.")
    ca_file: Path | None = Field(default=None, description="Authorities of its certificate, PEM; else the system's.")
    token_file: Path | None = Field(default=None, description="A bearer token that it asks for.")
    refresh_seconds: Seconds = 300.0
    lifetime_seconds: Seconds = Field(default=86_400.0, description="How long keys count while the issuer is away.")
    refetch_seconds: Seconds = Field(default=2.0, description="Least time between two fetches because of unknown keys.")

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if sum(each is not None for each in (self.discovery, self.url, self.file)) > 1:
            raise ValueError("must have one of discovery, url and file")
        if self.lifetime_seconds < self.refresh_seconds:
            raise ValueError("lifetime_seconds must not be less than refresh_seconds")
        return self


class RuleSettings(_Strict):
    """What the tokens of a workload are given, if each condition holds."""

    when: Mapping[Path_, Patterns] = Field(min_length=1)
    tenant: Tenant
    roles: Words = ()
    scopes: Words = ()
    clearance: str = ""
    residency: str = ""


class IssuerSettings(_Strict):
    """Somebody whose tokens are believed."""

    issuer: str = Field(min_length=1, max_length=512)
    preset: Literal["keycloak", "entra", "okta", "github-actions", "gitlab", "kubernetes"] | None = None
    audiences: Words = Field(min_length=1)
    clients: Words = Field(
        default=(), description="Which clients tokens may have been made for (azp, client_id); none: any."
    )
    algorithms: tuple[Annotated[str, AfterValidator(_checked_algorithm)], ...] = Field(
        default=("RS256", "ES256"), min_length=1
    )
    token_type: Literal["any", "at+jwt"] = Field(default="any", description="at+jwt: access tokens of RFC 9068 only.")
    leeway_seconds: float = Field(default=30.0, ge=0, le=300)
    max_lifetime_seconds: Seconds = Field(default=86_400.0, description="Tokens that are made for longer are refused.")
    keys: KeySettings = KeySettings()
    subject: Paths = ("sub",)
    tenant: TenantSettings | None = None
    roles: WordSettings = WordSettings()
    groups: WordSettings = WordSettings()
    scopes: WordSettings = WordSettings(claims=("scope", "scp"))
    clearance: WordSettings = WordSettings()
    residency: WordSettings = WordSettings()
    mfa: FactorSettings = FactorSettings(amr=("mfa",))
    rules: tuple[RuleSettings, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _on_its_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and (preset := PRESETS.get(str(data.get("preset")))):
            return {**preset, **{name: _merged(preset.get(name), value) for name, value in data.items()}}
        return data

    @model_validator(mode="after")
    def _says_whose_tenant(self) -> Self:
        if bool(self.rules) == (self.tenant is not None):
            raise ValueError("must have a tenant, or rules that give one")
        if self.preset in WORKLOADS and not self.rules:
            raise ValueError("must have rules: everybody on that platform has tokens of this issuer")
        if not (self.keys.discovery or self.keys.url or self.keys.file):
            try:
                check_private_url(self.issuer)
            except ValueError:
                raise ValueError("is no URL to discover keys at: keys must have discovery, url or file") from None
        return self


def _merged(preset: object, own: object) -> object:
    return {**preset, **own} if isinstance(preset, Mapping) and isinstance(own, Mapping) else own


class CertificateSettings(_Strict):
    """What the client certificates that have one of these names are given."""

    uri: Patterns = Field(default=(), description="URI names, such as spiffe://acme.example/ci/*.")
    dns: Patterns = Field(default=(), description="DNS names, such as *.ci.acme.example.")
    tenant: Tenant
    roles: Words = ()
    issuer: str = Field(default="", max_length=256, description="Who names it; else spiffe://DOMAIN, or x509.")
    subject: str = Field(default="", max_length=256, description="Its name in statements; else the name that matched.")
    clearance: str = ""
    residency: str = ""

    @model_validator(mode="after")
    def _has_names(self) -> Self:
        if not self.uri and not self.dns:
            raise ValueError("must have uri or dns")
        return self


class IdentitySettings(_Strict):
    """All of the file."""

    issuers: tuple[IssuerSettings, ...] = ()
    certificates: tuple[CertificateSettings, ...] = ()
    basic_tokens: bool = Field(
        False, description="Whether a token may be the password of Basic credentials, where log entries are added."
    )
    cached_tokens: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Most verified tokens that are remembered."
    )

    @model_validator(mode="after")
    def _names_each_issuer_once(self) -> Self:
        if not self.issuers and not self.certificates:
            raise ValueError("must have issuers or certificates: as it is, nobody could call")
        names = [each.issuer for each in self.issuers]
        if len(set(names)) < len(names):
            raise ValueError("must have each issuer once")
        return self


def read_identity(file: Path) -> bytes:
    """What stands in a file of settings.

    Raises:
        SettingsError: it cannot be read.
    """
    return read_settings_file(file, _SETTING)


def parse_identity(data: bytes, name: str) -> IdentitySettings:
    """The settings in a YAML document.

    Raises:
        SettingsError: each name in it that is unknown or has a wrong value.
    """
    return parse_settings_file(IdentitySettings, data, name, _SETTING)
