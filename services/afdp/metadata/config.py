"""What the metadata service can be told."""

from __future__ import annotations

from pydantic import Field, SecretStr

from afdp.config import Port, Seconds
from afdp.postgres import DatabaseSettings


class MetadataSettings(DatabaseSettings):
    """The settings of `python -m afdp.metadata`."""

    port: Port = 50054
    metrics_port: Port = 9093
    database_owner_url: SecretStr | None = Field(
        None,
        description="Who owns the schema, for the command `migrate` alone, which also makes the login role of "
        "AFDP_DATABASE_URL and lets it in; none: AFDP_DATABASE_URL owns it.",
    )
    idempotency_retention_days: int = Field(
        30, ge=1, le=3650, description="How long an idempotency key is remembered; an older one counts as new."
    )
    pending_refresh_seconds: Seconds = Field(15.0, description="How often the gauges of pending records are counted.")
