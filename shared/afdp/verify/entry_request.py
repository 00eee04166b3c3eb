"""Whether the signature in a request to log something holds: what a log asks before it takes an entry of a stranger."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from afdp.errors import InvalidArgument
from afdp.formats.entry_request import REQUEST, EntryAlgorithm, EntryRequest

_CURVES: dict[EntryAlgorithm, type[ec.EllipticCurve]] = {
    EntryAlgorithm.ECDSA_P256_SHA256: ec.SECP256R1,
    EntryAlgorithm.ECDSA_P384_SHA384: ec.SECP384R1,
    EntryAlgorithm.ECDSA_P521_SHA512: ec.SECP521R1,
}
_MODULI = {
    EntryAlgorithm.RSA_2048_SHA256: 2048,
    EntryAlgorithm.RSA_3072_SHA256: 3072,
    EntryAlgorithm.RSA_4096_SHA256: 4096,
}
_EXPONENTS = 2**31
_HASHES = {32: Prehashed(hashes.SHA256()), 48: Prehashed(hashes.SHA384()), 64: Prehashed(hashes.SHA512())}
_ECDSA = {size: ec.ECDSA(prehashed) for size, prehashed in _HASHES.items()}


def verify_entry_request(request: EntryRequest) -> None:
    """Verifies the signature over the digest with the key; some 0.1 ms, 0.6 ms with P-384 and P-521.

    Raises:
        InvalidArgument: the key or certificate cannot be read, is not one for the algorithm, or did not sign this.
    """
    key = _key(request)
    size = request.algorithm.digest_size
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(request.signature, request.digest, padding.PKCS1v15(), _HASHES[size])
        else:
            key.verify(request.signature, request.digest, _ECDSA[size])
    except InvalidSignature:
        reason = "is not a signature of this key over the digest"
        raise InvalidArgument.field(f"{REQUEST}.signature.content", reason) from None


def _key(request: EntryRequest) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    key: object
    try:
        if request.certified:
            key = x509.load_der_x509_certificate(request.verifier).public_key()
        else:
            key = load_der_public_key(request.verifier)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        kind = "a certificate" if request.certified else "a public key (SubjectPublicKeyInfo)"
        raise InvalidArgument.field(request.verifier_path, f"must be {kind} in DER") from None
    if isinstance(key, rsa.RSAPublicKey):
        # A larger exponent costs more to verify with than a private key to sign with; Go, and so Rekor, takes none.
        fits = key.key_size == _MODULI.get(request.algorithm) and key.public_numbers().e < _EXPONENTS
    else:
        fits = isinstance(key, ec.EllipticCurvePublicKey) and type(key.curve) is _CURVES.get(request.algorithm)
    if not fits or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise InvalidArgument.field(request.verifier_path, f"must be a key for {request.algorithm}")
    # One spelling of a key: of others, such as a compressed point, readers of the log could think otherwise.
    if not request.certified and key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != request.verifier:
        raise InvalidArgument.field(request.verifier_path, "must be in the usual form, a point uncompressed")
    return key
