from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.merkle import EMPTY_ROOT
from afdp.formats.note import (
    Checkpoint,
    Note,
    NoteError,
    NoteSignature,
    SignatureType,
    VerifierKey,
    cosignature_message,
    format_cosignature,
    key_digest,
    key_id,
    ml_dsa_cosignature_message,
    parse_cosignature,
    validate_origin,
    verify,
)

# golang.org/x/mod/sumdb/note, the example of its documentation and tests
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
NOTE = f"{TEXT}\n— PeterNeumann {SIGNATURE}\n"
PETER = Ed25519PrivateKey.from_private_bytes(b64decode(SKEY.split("+", 4)[4])[1:])

# C2SP tlog-cosignature, the example at its head
COSIGNED = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)

LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_KEY = VerifierKey("notary.example", LOG.public_key().public_bytes_raw())
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
WITNESS_KEY = VerifierKey(
    "witness.example/w1", WITNESS.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519
)
HEAD = Checkpoint("notary.example", 42, sha256(b"root").digest())
SIGNED = Note(HEAD.body(), (NoteSignature.by(LOG_KEY, LOG.sign(HEAD.body().encode())),))


def cosigned(time: int = 1_700_000_000) -> Note:
    signature = format_cosignature(time, WITNESS.sign(cosignature_message(time, HEAD.body())))
    return SIGNED.with_signatures([NoteSignature.by(WITNESS_KEY, signature)])


# --- the reference note -----------------------------------------------------------------------------------------------


def test_the_reference_note_of_go_verifies() -> None:
    key = VerifierKey.parse(VKEY)
    (verified,) = verify(Note.parse(NOTE), [key])

    assert verified.key == key
    assert verified.time is None
    assert key.key_id.hex() == "c74f20a3"
    assert str(key) == VKEY


def test_signing_with_the_reference_key_gives_the_reference_note() -> None:
    key = VerifierKey("PeterNeumann", PETER.public_key().public_bytes_raw())
    note = Note(TEXT, (NoteSignature.by(key, PETER.sign(TEXT.encode())),))

    assert str(key) == VKEY
    assert note.to_bytes() == NOTE.encode()
    assert Note.parse(note.to_bytes()) == note


def test_every_mangled_vkey_is_refused() -> None:
    parts = [VKEY[i:j] for i in range(len(VKEY)) for j in range(i, len(VKEY) + 1) if j - i < len(VKEY)]
    bumped = [VKEY[:i] + chr(ord(VKEY[i]) + 1) + VKEY[i + 1 :] for i in range(len(VKEY))]
    unknown = "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    long = "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY=="
    for mangled in [*parts, *bumped, unknown, long, VKEY + "\n", VKEY.replace("c74f20a3", "C74F20A3")]:
        with pytest.raises(NoteError):
            VerifierKey.parse(mangled)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\nb", "a\x01b"])
def test_a_key_name_follows_the_rule_of_signed_notes(name: str) -> None:
    with pytest.raises(NoteError, match="key name"):
        VerifierKey(name, bytes(32))


def test_a_public_key_has_the_length_of_its_type() -> None:
    with pytest.raises(NoteError, match="32 bytes"):
        VerifierKey("a", bytes(31))
    with pytest.raises(NoteError, match="1312 bytes"):
        VerifierKey("a", bytes(32), SignatureType.COSIGNATURE_ML_DSA_44)


def test_a_log_may_sign_with_ecdsa_as_rekor_does() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = VerifierKey("rekor.example", spki, SignatureType.ECDSA)
    text = Checkpoint("rekor.example", 7, bytes(32)).body()
    line = NoteSignature.by(key, private.sign(text.encode(), ec.ECDSA(SHA256())))

    assert key.key_id == sha256(spki).digest()[:4]
    assert VerifierKey.parse(str(key)) == key
    assert [each.time for each in verify(Note(text, (line,)), [key])] == [None]
    with pytest.raises(NoteError, match="is wrong"):
        verify(Note(text.replace("7", "8"), (line,)), [key])
    with pytest.raises(NoteError, match="the public key"):
        VerifierKey("rekor.example", spki[:-64] + bytes(64), SignatureType.ECDSA)
    with pytest.raises(NoteError, match="91 bytes"):
        VerifierKey("rekor.example", bytes(32), SignatureType.ECDSA)


def test_the_key_id_is_the_start_of_the_digest_that_sigstore_keeps_whole() -> None:
    digest = key_digest("notary.example", LOG_KEY.public_key)

    assert digest == sha256(b"notary.example\n\x01" + LOG_KEY.public_key).digest()
    assert key_id("notary.example", LOG_KEY.public_key) == digest[:4] == LOG_KEY.key_id


# --- reading notes ----------------------------------------------------------------------------------------------------


def test_the_signatures_begin_after_the_last_blank_line() -> None:
    text = "one\n\ntwo\n\n\nthree\n"
    note = Note(text, (NoteSignature.by(LOG_KEY, LOG.sign(text.encode())),))

    assert Note.parse(str(note)) == note
    assert verify(Note.parse(str(note)), [LOG_KEY])[0].key == LOG_KEY


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        TEXT.encode(),
        NOTE.encode()[:-1],
        NOTE.replace("\n\n", "\n").encode(),
        f"{TEXT}\n".encode(),
        f"\n\n— PeterNeumann {SIGNATURE}\n".encode().lstrip(b"\n"),
        NOTE.replace("—", "-").encode(),
        NOTE.replace("— ", "—").encode(),
        NOTE.replace("— Peter", "—  Peter").encode(),
        NOTE.replace("Neumann x", "Neumann  x").encode(),
        NOTE.replace("PeterNeumann", "Peter+Neumann").encode(),
        NOTE.replace("AM=", "AM").encode(),
        NOTE.replace("AM=", "AN=").encode(),
        NOTE.replace(SIGNATURE, "x08gow==").encode(),
        NOTE.replace("problem", "prob\tlem").encode(),
        NOTE.replace("problem", "prob\rlem").encode(),
        NOTE.encode() + b"\n",
        NOTE.encode() + b"trailing\n",
        NOTE.encode().replace(b"you", b"\xff"),
        NOTE.encode() + f"— PeterNeumann {SIGNATURE}\n".encode() * 100,
        b"x" * 1_000_001,
    ],
)
def test_a_malformed_note_is_refused(data: bytes) -> None:
    with pytest.raises(NoteError):
        Note.parse(data)


def test_unknown_keys_are_ignored_even_with_a_known_name() -> None:
    other = Ed25519PrivateKey.generate()
    other_key = VerifierKey(LOG_KEY.name, other.public_key().public_bytes_raw())
    junk = NoteSignature("someone", b"\0\0\0\1", b"anything")
    note = Note(SIGNED.text, (junk, NoteSignature.by(other_key, b"junk"), *SIGNED.signatures))

    assert [each.key for each in verify(note, [LOG_KEY])] == [LOG_KEY]
    with pytest.raises(NoteError, match="not signed by a known key"):
        verify(note, [WITNESS_KEY])
    with pytest.raises(NoteError, match="not signed by a known key"):
        verify(note, [])


def test_a_wrong_signature_of_a_known_key_refuses_the_whole_note() -> None:
    broken = NoteSignature(LOG_KEY.name, LOG_KEY.key_id, bytes(64))
    short = NoteSignature(LOG_KEY.name, LOG_KEY.key_id, bytes(5))
    for bad in (broken, short):
        note = Note(SIGNED.text, (bad, *cosigned().signatures[1:]))
        with pytest.raises(NoteError, match=r"signature of notary\.example\+"):
            verify(note, [LOG_KEY, WITNESS_KEY])
    with pytest.raises(NoteError, match="is wrong"):
        verify(Note(SIGNED.text.replace("42", "43"), SIGNED.signatures), [LOG_KEY])


def test_a_key_that_signed_twice_counts_once() -> None:
    note = Note(SIGNED.text, SIGNED.signatures * 2)

    assert len(verify(note, [LOG_KEY])) == 1
    assert SIGNED.with_signatures(SIGNED.signatures) == SIGNED


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_three_lines() -> None:
    assert Checkpoint("log.example", 0, EMPTY_ROOT).body() == (
        "log.example\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    )
    assert Checkpoint.parse(HEAD.body()) == HEAD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n1\n{root}\n",
        "o\n01\n{root}\n",
        "o\n+1\n{root}\n",
        "o\n-1\n{root}\n",
        "o\n1 \n{root}\n",
        "o\n\n{root}\n",
        "o\n١\n{root}\n",
        "o\n9223372036854775808\n{root}\n",
        "o\n99999999999999999999\n{root}\n",
        "o\n1\n{root}",
        "o\n1\n{root}\nextension\n",
        "o\n1\n{root}\n\n",
        "o\n1\n" + b64encode(bytes(31)).decode() + "\n",
        "o\n1\n" + b64encode(bytes(33)).decode() + "\n",
        "o\n1\n" + b64encode(bytes(32)).decode().rstrip("=") + "\n",
        "o\r\n1\n{root}\n",
        "o\n1\n",
    ],
)
def test_a_checkpoint_that_is_not_exact_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text.replace("{root}", b64encode(bytes(32)).decode()))


@pytest.mark.parametrize("origin", ["notary.localhost", "notary.acme.example", "a", "xn--bcher-kva.example", "a" * 63])
def test_a_bare_host_name_is_an_origin(origin: str) -> None:
    validate_origin(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "example.com/log",
        "https://example.com",
        "example.com:3030",
        "Example.com",
        "example.com.",
        ".example.com",
        "a..b",
        "-a.example",
        "a-.example",
        "a_b.example",
        "bücher.example",
        "127.0.0.1",
        "[::1]",
        "a b",
        "rekor.sigstore.dev - 1193050959916656506",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "example.com\n",
    ],
)
def test_an_origin_that_breaks_a_verifier_is_refused(origin: str) -> None:
    with pytest.raises(NoteError, match="log origin"):
        validate_origin(origin)


# --- cosignatures -----------------------------------------------------------------------------------------------------


def test_the_cosigned_example_of_the_specification_is_read() -> None:
    note = Note.parse(COSIGNED)
    time, signature = parse_cosignature(note.signatures[1].signature)

    assert str(note) == COSIGNED
    assert Checkpoint.parse(note.text).size == 20852163
    assert (time, len(signature)) == (1679315147, 64)
    assert cosignature_message(time, note.text) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_a_cosignature_verifies_and_tells_its_time() -> None:
    log, witness = verify(Note.parse(str(cosigned())), [WITNESS_KEY, LOG_KEY])

    assert (log.key, log.time) == (LOG_KEY, None)
    assert (witness.key, witness.time) == (WITNESS_KEY, 1_700_000_000)
    assert VerifierKey.parse(str(WITNESS_KEY)) == WITNESS_KEY


def test_a_cosignature_of_another_time_is_refused() -> None:
    good = cosigned().signatures[1].signature
    for bad in (format_cosignature(1_700_000_001, good[8:]), good[8:], good[:8], b"\xff" + good[1:]):
        with pytest.raises(NoteError, match=r"witness\.example/w1"):
            verify(SIGNED.with_signatures([NoteSignature.by(WITNESS_KEY, bad)]), [LOG_KEY, WITNESS_KEY])


def test_a_post_quantum_cosignature_verifies_and_commits_to_its_name() -> None:
    private = MLDSA44PrivateKey.generate()
    kind, public = SignatureType.COSIGNATURE_ML_DSA_44, private.public_key().public_bytes_raw()
    key, renamed = VerifierKey("w.example", public, kind), VerifierKey("x.example", public, kind)
    bare = private.sign(ml_dsa_cosignature_message("w.example", 7, HEAD))
    note = SIGNED.with_signatures([NoteSignature.by(key, format_cosignature(7, bare))])

    assert verify(Note.parse(note.to_bytes()), [VerifierKey.parse(str(key))])[0].time == 7
    forged = SIGNED.with_signatures([NoteSignature.by(renamed, format_cosignature(7, bare))])
    with pytest.raises(NoteError, match=r"x\.example"):
        verify(forged, [renamed])


def test_the_post_quantum_message_is_laid_out_as_specified() -> None:
    assert ml_dsa_cosignature_message("w", 1, Checkpoint("log", 2, bytes(32))) == (
        b"subtree/v1\n\x00" + b"\x01w" + bytes(7) + b"\x01" + b"\x03log" + bytes(8) + bytes(7) + b"\x02" + bytes(32)
    )
