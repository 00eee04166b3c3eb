"""Who a certificate's names say is at the other end."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.name import _ASN1Type

from afdp.certs.authority import Authority
from afdp.certs.names import Names
from afdp.tls.files import TlsFiles
from afdp.tls.material import TlsPaths
from afdp.tls.peers import PeerRefused, Peers
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


def test_a_list_whose_issuer_is_encoded_otherwise_revokes(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "tls", "afdp.internal")
    own = authority.issue("notary", Names.of_service("notary", "afdp.internal", Names()))
    revoked = x509.load_pem_x509_certificate(own.cert.read_bytes())
    other = x509.Name(
        [x509.NameAttribute(each.oid, str(each.value), _ASN1Type.PrintableString) for each in revoked.issuer]
    )
    assert other.public_bytes() != revoked.issuer.public_bytes()
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.serial_number).revocation_date(now).build()
    key = load_pem_private_key((authority.folder / "ca-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateRevocationListBuilder(other, now, now + timedelta(days=1)).add_revoked_certificate(entry)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))

    peers = Peers(TlsFiles(TlsPaths(own.cert, own.key, authority.file, crl=crl), {}))
    with pytest.raises(PeerRefused, match="revoked"):
        peers.of(own.cert.read_bytes())
