"""SPIRE's SignData: a digest, and how it is to be signed, as ``cryptography`` says it.

Hash algorithms are numbered as in Go's ``crypto.Hash``; a salt of length 0 is for the signer to choose, which is
the longest that fits, and -1 stands for the digest's length, as in Go's ``rsa.PSSOptions``.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keymanagers.base import Key
from spiffe_core.errors import InvalidInput, Unsupported

_HASHES: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {
    "SHA224": hashes.SHA224,
    "SHA256": hashes.SHA256,
    "SHA384": hashes.SHA384,
    "SHA512": hashes.SHA512,
    "SHA3_224": hashes.SHA3_224,
    "SHA3_256": hashes.SHA3_256,
    "SHA3_384": hashes.SHA3_384,
    "SHA3_512": hashes.SHA3_512,
    "SHA512_224": hashes.SHA512_224,
    "SHA512_256": hashes.SHA512_256,
}
"""By their names in SPIRE's ``HashAlgorithm``."""
_SALT_IS_SIGNERS: Final = 0
_SALT_IS_DIGESTS: Final = -1


def sign_data(key: Key, request: Any, pb: ModuleType) -> bytes:  # noqa: ANN401  a SignDataRequest of the server's or the agent's
    """The signature: DER for ECDSA, as long as the modulus for RSA.

    Raises:
        InvalidInput: if the request does not say how to sign, or contradicts itself or the key.
        Unsupported: if the key's device does not sign so.
    """
    options = request.WhichOneof("signer_opts")
    if options is None:
        raise InvalidInput("signer opts is required")
    number = request.hash_algorithm if options == "hash_algorithm" else request.pss_options.hash_algorithm
    hashed = _hash(number, pb)
    if len(request.data) != hashed.digest_size:
        raise InvalidInput(
            f"data must be a digest: {hashed.name} makes {hashed.digest_size} bytes, there are {len(request.data)}"
        )
    pss = request.pss_options.salt_length if options == "pss_options" else None
    try:
        if isinstance(key.private, ec.EllipticCurvePrivateKey):
            if pss is not None:
                raise InvalidInput(f'key "{key.id}" is an EC key: PSS options are for RSA')
            return key.private.sign(request.data, ec.ECDSA(Prehashed(hashed)))
        return key.private.sign(request.data, _padding(pss, hashed), Prehashed(hashed))
    except UnsupportedAlgorithm as exc:
        raise Unsupported(f'key "{key.id}": {exc}') from exc
    except ValueError as exc:
        raise InvalidInput(f'key "{key.id}": {exc}') from exc


def _hash(number: int, pb: ModuleType) -> hashes.HashAlgorithm:
    try:
        kind = _HASHES.get(pb.HashAlgorithm.Name(number))
    except ValueError:
        kind = None
    if kind is None:
        raise InvalidInput(f"hash algorithm {number} is none that is known" if number else "hash algorithm is required")
    return kind()


def _padding(salt: int | None, hashed: hashes.HashAlgorithm) -> AsymmetricPadding:
    if salt is None:
        return padding.PKCS1v15()
    mgf = padding.MGF1(hashed)
    if salt == _SALT_IS_SIGNERS:
        return padding.PSS(mgf, padding.PSS.MAX_LENGTH)
    if salt == _SALT_IS_DIGESTS:
        return padding.PSS(mgf, padding.PSS.DIGEST_LENGTH)
    if salt < 0:
        raise InvalidInput(f"PSS salt length {salt} is invalid: 0 and -1 have a meaning, other lengths are positive")
    return padding.PSS(mgf, salt)
