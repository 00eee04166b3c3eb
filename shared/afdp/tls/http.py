"""HTTP over TLS 1.3: a server's context that follows its files, and what a client of our own services needs."""

from __future__ import annotations

import ssl
from typing import Any, Literal

from afdp.tls.files import TlsFiles
from afdp.tls.handshakes import ToldHandshake
from afdp.tls.material import Material, is_revoked, show

Clients = Literal["required", "optional", "off"]
"""Whether clients must show a certificate, may, or are not asked."""

HANDSHAKE_SECONDS = 10.0
"""How long one may take."""

_VERIFY = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "off": ssl.CERT_NONE}


def server_context(tls: TlsFiles, clients: Clients, protocols: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """A context for as long as the process lives: each handshake is made with what the files hold then.

    What one context has been told to believe it cannot forget, so a changed file makes a new one, which takes over at
    the start of a handshake. Sessions are not resumed: nobody would look at a certificate a second time.
    """
    current = context_of(tls.material, clients, protocols)

    def replace(material: Material) -> None:
        nonlocal current
        current = context_of(material, clients, protocols)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        if connection.context is not current:
            connection.context = current

    listening = context_of(tls.material, clients, protocols)
    listening.sni_callback = choose  # called without a name, too
    listening.sslobject_class = ToldHandshake
    tls.subscribe(replace)
    return listening


class ClientContext(ssl.SSLContext):
    """For calls to services of ours; each connection is made with what the files hold then."""

    _tls: TlsFiles

    @classmethod
    def following(cls, tls: TlsFiles) -> ClientContext:
        """One for as long as the process lives."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._tls = tls
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """As that of a context made now."""
        context = _OfOurs(ssl.PROTOCOL_TLS_CLIENT)
        context.material = self._tls.material
        context.sslobject_class = _HeldToLists
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._tls.material.services_pem.decode("ascii"))
        show(context, self._tls.material.chain, self._tls.material.key)
        return context.wrap_bio(*arguments, **options)


class _OfOurs(ssl.SSLContext):
    material: Material


class _HeldToLists(ssl.SSLObject):
    """A connection to a server whose certificate no revocation list names.

    OpenSSL's own check would refuse every server once a list is overdue, or where an authority has none.
    """

    def do_handshake(self) -> None:
        """Raises SSLCertVerificationError where one does."""
        super().do_handshake()
        shown = self.getpeercert(binary_form=True)
        context = self.context
        if isinstance(context, _OfOurs) and shown is not None and is_revoked(context.material, shown):
            raise ssl.SSLCertVerificationError("the server's certificate is revoked")


def context_of(material: Material, clients: Clients, protocols: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """A server's, for one connection or until something changes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    # OpenSSL's own order of the suites begins with AES-256, as does what deployments write into their rules.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(protocols))
    context.verify_mode = _VERIFY[clients]
    if clients != "off":
        context.load_verify_locations(cadata=material.authorities.decode("ascii"))
    show(context, material.chain, material.key)
    return context
