"""The caller of the call that is being served, once admitted."""

from __future__ import annotations

from contextvars import ContextVar

from afdp.formats.statement import ANONYMOUS, DEFAULT_TENANT
from afdp.notary.model import Principal

ANYBODY = Principal(DEFAULT_TENANT, ANONYMOUS)
"""Everybody, where authentication is off."""

principal: ContextVar[Principal] = ContextVar("principal", default=ANYBODY)
"""Set before a request is read; a method of the servicer asks nobody else who calls."""

rpc: ContextVar[str] = ContextVar("rpc", default="")
"""The name of the method that the caller was admitted to; empty where nobody was asked."""
