"""A key in a token as ``cryptography`` sees it: its ``sign`` is one C_SignInit and one C_Sign.

Data are hashed here and the token gets the digest, with the mechanisms that every module has: CKM_ECDSA, CKM_RSA_PKCS
and CKM_RSA_PKCS_PSS.  The first signature with a handle is checked with the public key before it is handed out, since
a handle may come to name another key after a device was lost; with ``verify`` each one is.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.utils import Buffer
from pkcs11 import MGF, Mechanism

from keymanagers.base import PrivateKey
from keymanagers.pkcs11.cryptoki import MechanismCall
from keymanagers.pkcs11.faults import KeyChanged
from keymanagers.pkcs11.objects import StoredKey, private_handles
from keymanagers.pkcs11.sessions import Session
from keymanagers.pkcs11.tokens import Tokens
from keymanagers.sealed import RsaHash, SealedEcKey, SealedRsaKey
from spiffe_core.errors import KeyManagerUnavailable

_ECDSA: Final = MechanismCall(Mechanism.ECDSA)
_RSA_PKCS: Final = MechanismCall(Mechanism.RSA_PKCS)
_DIGEST_INFO: Final = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""What comes before the digest in EMSA-PKCS1-v1_5 (RFC 8017 §9.2, note 1)."""
_PSS_HASH: Final = {
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
_PREHASHED: Final = {32: Prehashed(hashes.SHA256()), 48: Prehashed(hashes.SHA384())}
"""What verifies a digest of so many bytes, whatever made it."""

Check = Callable[[bytes], None]
"""Raises InvalidSignature unless a raw signature is the key's."""


class TokenSigner:
    """Signs with one key of a token, or of several that hold it."""

    def __init__(self, tokens: Tokens, key: StoredKey, *, verify: bool) -> None:
        self.key = key
        self._tokens = tokens
        self._verify = verify
        self._operation = f'sign with key "{key.key_id}"'
        self._ended = ""

    def end(self, why: str) -> None:
        """Let the key sign nothing any more."""
        self._ended = why

    def sign(self, mechanism: MechanismCall, data: bytes, check: Check) -> bytes:
        """One raw signature.

        Raises:
            KeyManagerUnavailable: if the token does not answer, or not with this key.
        """
        if self._ended:
            raise KeyManagerUnavailable(f'key "{self.key.key_id}" signs no more: {self._ended}')

        def work(session: Session) -> bytes:
            handle = session.keys.get(self.key.cka_id)
            if handle is None:
                return self._first(session, mechanism, data, check)
            signature = session.signer.sign(mechanism, handle, data)
            if self._verify and not _passes(check, signature):
                raise KeyChanged("a signature")
            return signature

        return self._tokens.sign(self.key.key_id, self._operation, work)

    def _first(self, session: Session, mechanism: MechanismCall, data: bytes, check: Check) -> bytes:
        """A signature with a handle that this session has not used yet."""
        for handle in private_handles(session, self.key):
            signature = session.signer.sign(mechanism, handle, data)
            if _passes(check, signature):
                session.keys[self.key.cka_id] = handle
                return signature
        raise KeyChanged("a signature")


class RemoteEcKey(SealedEcKey):
    """An EC key in a token."""

    def __init__(self, signer: TokenSigner, public: ec.EllipticCurvePublicKey) -> None:
        super().__init__(signer.key.key_id, public)
        self._signer = signer
        self._width = (public.key_size + 7) // 8

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign; the signature is DER (RFC 3279 §2.2.3).

        Raises:
            UnsupportedAlgorithm: for anything but ECDSA with SHA-256, SHA-384 or SHA-512.
            KeyManagerUnavailable: if the token does not answer, or not with this key.
        """
        if not isinstance(signature_algorithm, ec.ECDSA) or signature_algorithm.deterministic_signing:
            raise UnsupportedAlgorithm("a key in a token signs with plain ECDSA only")
        _, digest = _hashed(data, signature_algorithm.algorithm)
        # A digest longer than the curve's order counts with its leftmost bits (FIPS 186-5 §6.4.1), and modules
        # differ in whether they cut it themselves.
        digest = digest[: self._width]
        return _der(self._signer.sign(_ECDSA, digest, lambda raw: self._check(raw, digest)))

    def _check(self, raw: bytes, digest: bytes) -> None:
        if len(raw) != 2 * self._width:
            raise InvalidSignature
        self._public.verify(_der(raw), digest, ec.ECDSA(_PREHASHED[len(digest)]))


class RemoteRsaKey(SealedRsaKey):
    """An RSA key in a token."""

    def __init__(self, signer: TokenSigner, public: rsa.RSAPublicKey) -> None:
        super().__init__(signer.key.key_id, public)
        self._signer = signer

    def sign(self, data: bytes, padding: AsymmetricPadding, algorithm: RsaHash) -> bytes:
        """Sign with PKCS #1 v1.5 or PSS.

        Raises:
            UnsupportedAlgorithm: for another padding, or a hash other than SHA-256, SHA-384 and SHA-512.
            KeyManagerUnavailable: if the token does not answer, or not with this key.
        """
        hashed, digest = _hashed(data, algorithm)
        mechanism, block = self._padded(padding, hashed, digest)
        return self._signer.sign(
            mechanism, block, lambda raw: self._public.verify(raw, digest, padding, Prehashed(hashed))
        )

    def _padded(
        self, scheme: AsymmetricPadding, hashed: hashes.HashAlgorithm, digest: bytes
    ) -> tuple[MechanismCall, bytes]:
        """The mechanism for a padding, and what the token is to be given."""
        if isinstance(scheme, padding.PKCS1v15):
            return _RSA_PKCS, _DIGEST_INFO[hashed.name] + digest
        if isinstance(scheme, padding.PSS):
            if scheme.mgf._algorithm.name != hashed.name:  # noqa: SLF001  cryptography has no other way to ask
                raise UnsupportedAlgorithm("PSS with two different hashes")
            return MechanismCall(Mechanism.RSA_PKCS_PSS, *_PSS_HASH[hashed.name], self._salt(scheme, hashed)), digest
        raise UnsupportedAlgorithm(f"RSA padding {scheme.name} for a signature")

    def _salt(self, scheme: padding.PSS, hashed: hashes.HashAlgorithm) -> int:
        length = scheme._salt_length  # noqa: SLF001  cryptography has no other way to ask
        if length is padding.PSS.MAX_LENGTH:
            return padding.calculate_max_pss_salt_length(self._public, hashed)
        if length is padding.PSS.DIGEST_LENGTH:
            return hashed.digest_size
        if not isinstance(length, int):
            raise UnsupportedAlgorithm("PSS.AUTO for a signature")
        return length


def remote_key(tokens: Tokens, key: StoredKey, *, verify: bool) -> tuple[PrivateKey, TokenSigner]:
    """A key as it is handed out, and by what its manager can end it."""
    signer = TokenSigner(tokens, key, verify=verify)
    if isinstance(key.public, ec.EllipticCurvePublicKey):
        return RemoteEcKey(signer, key.public), signer
    return RemoteRsaKey(signer, key.public), signer


def _hashed(data: Buffer, algorithm: RsaHash) -> tuple[hashes.HashAlgorithm, bytes]:
    """Which hash, and the digest, made now unless it was already."""
    if isinstance(algorithm, Prehashed):
        hashed = algorithm._algorithm  # noqa: SLF001  cryptography has no other way to ask
        if len(data) != hashed.digest_size:
            raise ValueError("the digest has another length than its hash")
        digest = bytes(data)
    elif isinstance(algorithm, hashes.HashAlgorithm) and algorithm.name in _DIGEST_INFO:
        return algorithm, hashlib.new(algorithm.name, data).digest()
    else:
        raise UnsupportedAlgorithm("a key in a token signs with SHA-256, SHA-384 and SHA-512 only")
    if hashed.name not in _DIGEST_INFO:
        raise UnsupportedAlgorithm(f"hash {hashed.name} for a signature")
    return hashed, digest


def _der(raw: bytes) -> bytes:
    """A signature of two numbers of fixed width, r and s, as DER."""
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _passes(check: Check, signature: bytes) -> bool:
    try:
        check(signature)
    except InvalidSignature:
        return False
    return True
