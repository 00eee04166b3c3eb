"""From settings to a token: which module, which token, and where its PIN comes from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from afdp.errors import FailedPrecondition
from afdp.signer.pkcs11.sessions import SessionPool, TokenAccess
from afdp.signer.pkcs11.settings import Pkcs11Settings


@asynccontextmanager
async def open_token(settings: Pkcs11Settings) -> AsyncIterator[SessionPool]:
    """Sessions on the token that the settings name, whether it is there just now or not.

    Raises:
        FailedPrecondition: a setting is missing, or the module is none; it is named.
    """
    if settings.pkcs11_module is None:
        raise FailedPrecondition("keys in a token need AFDP_PKCS11_MODULE, the library of the token's maker")
    if settings.pkcs11_token_label is None and settings.pkcs11_token_serial is None:
        raise FailedPrecondition("keys in a token need AFDP_PKCS11_TOKEN_LABEL or AFDP_PKCS11_TOKEN_SERIAL")
    if settings.pkcs11_pin_file is None and settings.pkcs11_pin is None:
        raise FailedPrecondition("keys in a token need AFDP_PKCS11_PIN_FILE or AFDP_PKCS11_PIN")
    pool = SessionPool(
        TokenAccess(
            module=settings.pkcs11_module,
            pin=lambda: _pin(settings),
            label=settings.pkcs11_token_label,
            serial=settings.pkcs11_token_serial,
            sessions=settings.pkcs11_sessions,
            timeout=settings.pkcs11_timeout_seconds,
        )
    )
    try:
        yield pool
    finally:
        await pool.close()


def _pin(settings: Pkcs11Settings) -> str:
    if settings.pkcs11_pin_file is None:
        return settings.pkcs11_pin.get_secret_value() if settings.pkcs11_pin is not None else ""
    try:
        return settings.pkcs11_pin_file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise FailedPrecondition(f"AFDP_PKCS11_PIN_FILE: {settings.pkcs11_pin_file} cannot be read") from None
