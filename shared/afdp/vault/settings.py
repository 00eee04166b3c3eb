"""Where Vault is, and how a service logs in there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, SecretStr, ValidationError

from afdp.errors import NotaryError
from afdp.secrets import ReadVault, SecretError
from afdp.urls import refuse_plain

Method = Literal["token", "approle", "kubernetes", "cert"]

_OURS = re.compile("(afdp_)?vault_", re.IGNORECASE)

JWT_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class VaultAccessSettings(BaseModel):
    """The settings that begin with `AFDP_VAULT_`, of every service that has them."""

    vault_addr: Annotated[str, AfterValidator(refuse_plain)] = Field(
        "http://127.0.0.1:8200",
        validation_alias=AliasChoices("vault_addr", "AFDP_VAULT_ADDR", "VAULT_ADDR"),
        description="Vault's address.",
    )
    vault_namespace: str | None = Field(
        None,
        validation_alias=AliasChoices("vault_namespace", "AFDP_VAULT_NAMESPACE", "VAULT_NAMESPACE"),
        description="Vault's namespace.",
    )
    vault_ca_file: Path | None = Field(
        None,
        validation_alias=AliasChoices("vault_ca_file", "AFDP_VAULT_CA_FILE", "VAULT_CACERT"),
        description="The authority of Vault's certificate, PEM; else the system's.",
    )
    vault_connect_timeout_seconds: float = Field(1.0, gt=0, description="Longest wait for a connection to Vault.")
    vault_timeout_seconds: float = Field(3.0, gt=0, description="Longest wait for one answer of Vault.")

    vault_auth: Method = Field("token", description="How this service logs in.")
    vault_auth_mount: str | None = Field(None, description="Mount of that method; by default its own name.")
    vault_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("vault_token", "AFDP_VAULT_TOKEN", "VAULT_TOKEN"),
        description="token: the token itself.",
    )
    vault_token_file: Path | None = Field(None, description="token: a file with it, read again when it is refused.")
    vault_role: str | None = Field(None, description="kubernetes, cert: the role.")
    vault_role_id: str | None = Field(None, description="approle: the role's ID.")
    vault_role_id_file: Path | None = Field(None, description="approle: a file with the role's ID.")
    vault_secret_id_file: Path | None = Field(None, description="approle: a file with the secret ID.")
    vault_jwt_file: Path = Field(JWT_FILE, description="kubernetes: a file with the service account's token.")
    vault_cert_file: Path | None = Field(None, description="cert: the client certificate, PEM.")
    vault_cert_key_file: Path | None = Field(None, description="cert: its private key, PEM.")

    @classmethod
    def secrets_in_vault(cls, given: Mapping[str, Any]) -> ReadVault | None:
        """As `ServiceSettings.secrets_in_vault`."""
        known = {name: value for name, value in given.items() if _OURS.match(name)}
        try:
            settings = VaultAccessSettings.model_validate(known)
        except ValidationError as error:
            names = ", ".join(f"AFDP_{str(item['loc'][0]).upper()}" for item in error.errors(include_input=False))
            raise SecretError(f"Vault cannot be asked, since these settings are wrong: {names}") from None

        def read(mount: str, path: str, field: str) -> str:
            try:
                from afdp.vault.secrets import read_secret  # hvac is there only where Vault is used

                return read_secret(settings, mount, path, field)
            except ModuleNotFoundError as error:
                raise SecretError(f"secrets in Vault need the package {error.name}: afdp-notary[secrets]") from None
            except NotaryError as error:
                raise SecretError(error.message) from None

        return read
