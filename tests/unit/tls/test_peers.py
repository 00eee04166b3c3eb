"""Who a certificate's names say is at the other end."""

from pathlib import Path

from afdp.certs.authority import Authority
from afdp.certs.names import Names
from afdp.tls.files import TlsFiles
from afdp.tls.material import TlsPaths
from afdp.tls.peers import Peers
from tests.forged_certificates import forge


def test_a_name_counts_as_what_it_is_and_never_as_one_of_the_other_kind(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "tls", "afdp.internal")
    own = authority.issue("notary", Names.of_service("notary", "afdp.internal", Names()))
    ours = {"signer": ("afdp-signer", "spiffe://afdp.internal/signer")}
    peers = Peers(TlsFiles(TlsPaths(own.cert, own.key, authority.file), ours))

    def peer(*, uris: tuple[str, ...] = (), dns: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        found = peers.of(forge(tmp_path / "forged", Names(uris=uris, dns=dns), authority).cert.read_bytes())
        return found.service, found.uris, found.dns

    assert peer(dns=("afdp-signer",)) == ("signer", (), ("afdp-signer",))
    assert peer(uris=("spiffe://afdp.internal/signer",))[0] == "signer"
    assert peer(uris=("afdp-signer",)) == ("", ("afdp-signer",), ())
    assert peer(dns=("spiffe://afdp.internal/signer", "*.acme.example")) == ("", (), ("*.acme.example",))
