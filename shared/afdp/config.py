"""Settings of a service: environment variables with the prefix `AFDP_`, and a YAML file named by `AFDP_CONFIG`.

Each service has one schema, a subclass of `ServiceSettings`, in which every value has a default that works for the
embedded stack. The environment wins over the file. A name that the schema does not have is an error in either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from afdp.fips import Mode
from afdp.secrets import ReadVault, SecretError, file_names, resolved
from afdp.tls.http import Clients
from afdp.tls.material import TlsPaths
from afdp.tls.plain import is_loopback
from afdp.urls import refuse_plain

PREFIX = "AFDP_"
SERVICES = ("gateway", "notary", "signer", "transparency", "metadata")
# Names that belong to the command line and to tests, which a service's environment may hold too.
_FOREIGN = frozenset(
    {
        "AFDP_CONFIG",
        "AFDP_URL",
        "AFDP_TRUST",
        "AFDP_TOOLS",
        "AFDP_TOKEN",
        "AFDP_TOKEN_FILE",
        "AFDP_ISSUER",
        "AFDP_CLIENT_ID",
        "AFDP_CA",
        "AFDP_CLIENT_CERT",
        "AFDP_CLIENT_KEY",
    }
)

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0)]


class SettingsError(Exception):
    """The settings are wrong: the message names each, and never shows a value."""


class ServiceSettings(BaseSettings):
    """What every service can be told."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, populate_by_name=True)

    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: Port = Field(description="Port to listen on.")
    metrics_port: Port = Field(description="Port of the Prometheus metrics; 0 serves none.")
    data_dir: Path = Field(Path(".afdp"), description="Folder for what this service keeps on disk.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|WARN|ERROR)$", description="Least level to log.")
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry collector (OTLP over gRPC); none: no export.")
    trace_ratio: float = Field(0.01, ge=0, le=1, description="Share of root spans that are sampled.")
    max_message_bytes: int = Field(20 * 1024 * 1024, ge=1024, description="Largest gRPC request, in and out.")
    max_streams: int = Field(1024, ge=1, description="Calls at once on one gRPC connection; further ones wait.")
    max_calls: int = Field(4096, ge=1, description="gRPC calls that are served at once; further ones are refused.")
    max_grpc_connections: int = Field(4096, ge=1, description="Open gRPC connections; further ones are closed.")
    request_timeout_seconds: Seconds = Field(30.0, description="Deadline of a call that brings none.")
    stalled_stream_seconds: Seconds = Field(
        30.0, description="How long who watches something may take none of the answers; then the stream ends."
    )
    drain_seconds: Seconds = Field(10.0, description="How long calls under way may take to end after SIGTERM.")
    tls: Literal["off", "required"] = Field(
        "off", description="required: TLS 1.3 on every port, in and out; off: plain text, on loopback only."
    )
    tls_cert: Path | None = Field(None, description="The service's certificate and its intermediates, PEM.")
    tls_key: Path | None = Field(None, description="Its key, PEM, not encrypted.")
    tls_ca: Path | None = Field(None, description="The authorities that services have their certificates from, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="Authorities of callers from outside, beside those of the services, PEM."
    )
    tls_crl: Path | None = Field(None, description="Revocation lists of any of these authorities, PEM.")
    tls_names: dict[str, tuple[str, ...]] = Field(
        {}, description="By service, the DNS names and URIs (SPIFFE IDs) that its certificate may have; afdp-NAME."
    )
    metrics_client_auth: Clients = Field(
        "required", description="Whether who reads the metrics must show a certificate, may, or is not asked; over TLS."
    )
    fips: Mode = Field("off", description="required: start only with OpenSSL's FIPS provider; see docs/fips.md.")

    @field_validator("tls_names")
    @classmethod
    def _name_services(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if unknown := value.keys() - set(SERVICES):
            raise ValueError(f"{', '.join(sorted(unknown))}: no such service; there are {', '.join(SERVICES)}")
        return {name: (f"afdp-{name}",) for name in SERVICES} | value

    @field_validator("otlp_endpoint")
    @classmethod
    def _send_traces_safely(cls, value: str | None) -> str | None:
        return refuse_plain(value) if value else value

    @model_validator(mode="after")
    def _speak_plainly_at_home_only(self) -> Self:
        files = {f"AFDP_TLS_{name.upper()}": getattr(self, f"tls_{name}") for name in ("cert", "key", "ca")}
        if self.tls == "required" and (missing := [name for name, path in files.items() if path is None]):
            raise ValueError(f"AFDP_TLS is required, so {' and '.join(missing)} must name a file")
        if self.tls == "off" and (given := [name for name, path in files.items() if path is not None]):
            raise ValueError(f"{' and '.join(given)} would not be used: set AFDP_TLS to required")
        if self.tls == "off" and not is_loopback(self.host):
            raise ValueError(
                f"AFDP_HOST is {self.host}, which other machines reach, and plain text stays on this one: "
                "set AFDP_TLS to required, with AFDP_TLS_CERT, AFDP_TLS_KEY and AFDP_TLS_CA"
            )
        return self

    @property
    def tls_paths(self) -> TlsPaths | None:
        """The files of TLS; None where it is off."""
        if self.tls == "off" or self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsPaths(self.tls_cert, self.tls_key, self.tls_ca, self.tls_client_ca, self.tls_crl)

    @property
    def unsaid(self) -> tuple[str, ...]:
        """What a service does not start without being told, though it has a default: how open it is."""
        if "tls" in self.model_fields_set:
            return ()
        return (
            "AFDP_TLS is not said: set it to required, with AFDP_TLS_CERT, AFDP_TLS_KEY and AFDP_TLS_CA, or to off for "
            "plain text, which stays on this machine",
        )

    @property
    def grpc_clients(self) -> tuple[bool, bool]:
        """Whether clients of the gRPC port must show a certificate, and whether they may come from outside."""
        return True, False

    @property
    def grpc_token_port(self) -> int:
        """A further gRPC port, whose clients are asked for no certificate; 0: there is none."""
        return 0

    @classmethod
    def secrets_in_vault(cls, given: Mapping[str, Any]) -> ReadVault | None:
        """What reads this service's secrets out of Vault, as its settings tell; None: it takes none from there."""
        return None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then secrets that are kept elsewhere, then the environment, then the file."""
        file = os.environ.get("AFDP_CONFIG")
        from_file = [_WithoutSecretFiles(settings_cls, yaml_file=file)] if file else []
        secrets = _KeptElsewhere(settings_cls, env_settings, YamlConfigSettingsSource(settings_cls, file))
        return (init_settings, secrets, env_settings, *from_file)


class _WithoutSecretFiles(YamlConfigSettingsSource):
    """The file, but for the names of files with secrets: those are no settings but say where one is."""

    def __call__(self) -> dict[str, Any]:
        """As pydantic-settings has it."""
        names = file_names(self.settings_cls.model_fields)
        return {name: value for name, value in super().__call__().items() if name not in names}


class _KeptElsewhere(PydanticBaseSettingsSource):
    """Secrets in files and in Vault, fetched."""

    def __init__(self, settings_cls: type[BaseSettings], *levels: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._levels = levels

    def __call__(self) -> dict[str, Any]:
        """As pydantic-settings has it."""
        schema: Any = self.settings_cls
        files = {name: os.environ.get(PREFIX + name.upper()) for name in file_names(schema.model_fields)}
        environment, file = (dict(level()) for level in self._levels)
        environment |= {name: value for name, value in files.items() if value is not None}
        try:
            return dict(
                resolved(
                    schema.model_fields, [environment, file], lambda: schema.secrets_in_vault({**file, **environment})
                )
            )
        except SecretError as error:
            raise SettingsError(str(error)) from None

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: `__call__` gives all at once."""
        return None, field_name, False


S = TypeVar("S", bound=ServiceSettings)


def load(schema: type[S]) -> S:
    """The effective settings.

    Raises:
        SettingsError: naming every setting that is unknown, missing or out of range.
    """
    wrong = [f"{name}: no such setting" for name in _unknown_names(schema)]
    file = os.environ.get("AFDP_CONFIG")
    if file and not Path(file).is_file():
        raise SettingsError(f"AFDP_CONFIG: {file} is not a file")
    try:
        settings = schema()  # type: ignore[call-arg]  # the sources fill it
    except yaml.YAMLError as error:
        raise SettingsError(f"AFDP_CONFIG: {file} is not valid YAML: {getattr(error, 'problem', '')}") from None
    except ValidationError as error:
        wrong += [f"{_shown(item['loc'])}: {item['msg']}" for item in error.errors(include_input=False)]
        raise SettingsError("\n".join(wrong)) from None
    except (TypeError, ValueError) as error:
        raise SettingsError(f"AFDP_CONFIG: {file} must be a mapping of settings") from error
    if wrong:
        raise SettingsError("\n".join(wrong))
    return settings


def load_or_exit(schema: type[S]) -> S:
    """As `load`; on wrong settings it says so on standard error and exits with 2."""
    try:
        return load(schema)
    except SettingsError as error:
        complain_and_exit([str(error)])


def complain_and_exit(wrong: Iterable[str]) -> NoReturn:
    """Says what is wrong with the settings on standard error, and ends the process with 2."""
    print("The settings are wrong:", *wrong, sep="\n", file=sys.stderr)
    raise SystemExit(2)


def shown(settings: ServiceSettings) -> dict[str, Any]:
    """The effective settings as plain JSON values, secrets masked."""
    return settings.model_dump(mode="json")


def _unknown_names(schema: type[ServiceSettings]) -> list[str]:
    secrets = {PREFIX + name.upper() for name in file_names(schema.model_fields)}
    known = {PREFIX + name.upper() for name in schema.model_fields} | secrets | _FOREIGN
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _shown(location: tuple[int | str, ...]) -> str:
    if not location:  # several settings do not go together
        return "settings"
    name, *rest = (str(part) for part in location)
    shown_name = name if name.isupper() else PREFIX + name.upper()
    return ".".join([shown_name, *rest])
