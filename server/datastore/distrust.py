"""Tainting and revoking authorities of a bundle, by SPIRE's rules: only what is tainted can be revoked.

Pure: each function takes a bundle and returns the changed one, its sequence number one higher.
"""

from dataclasses import replace

from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import InvalidInput, NotFound
from spiffe_core.x509svid import subject_key_id


def taint_x509(bundle: Bundle, key_id: str) -> Bundle:
    """Taint the X.509 authorities with that subject key id (lowercase hex).

    Raises:
        NotFound: if there is none.
        InvalidInput: if it is tainted already.
    """
    found = _of_key(bundle, key_id)
    if not found:
        raise NotFound("no ca found with provided subject key ID")
    if any(authority.tainted for authority in found):
        raise InvalidInput("root CA is already tainted")
    new = tuple(replace(a, tainted=True) if a in found else a for a in bundle.x509_authorities)
    return replace(bundle, x509_authorities=new, sequence_number=bundle.sequence_number + 1)


def revoke_x509(bundle: Bundle, key_id: str) -> Bundle:
    """Take out the X.509 authorities with that subject key id (lowercase hex).

    Raises:
        NotFound: if there is none.
        InvalidInput: if it is not tainted.
    """
    found = _of_key(bundle, key_id)
    if not found:
        raise NotFound("no root CA found with provided subject key ID")
    if not all(authority.tainted for authority in found):
        raise InvalidInput("it is not possible to revoke an untainted root CA")
    left = tuple(a for a in bundle.x509_authorities if a not in found)
    return replace(bundle, x509_authorities=left, sequence_number=bundle.sequence_number + 1)


def taint_jwt(bundle: Bundle, key_id: str) -> Bundle:
    """Taint the JWT authority of that key id.

    Raises:
        NotFound: if there is none.
        InvalidInput: if it is tainted already.
    """
    found = _jwt_authority(bundle, key_id)
    if found.tainted:
        raise InvalidInput("key is already tainted")
    new = tuple(replace(a, tainted=True) if a is found else a for a in bundle.jwt_authorities)
    return replace(bundle, jwt_authorities=new, sequence_number=bundle.sequence_number + 1)


def revoke_jwt(bundle: Bundle, key_id: str) -> Bundle:
    """Take out the JWT authority of that key id.

    Raises:
        NotFound: if there is none.
        InvalidInput: if it is not tainted.
    """
    found = _jwt_authority(bundle, key_id)
    if not found.tainted:
        raise InvalidInput("it is not possible to revoke an untainted key")
    left = tuple(a for a in bundle.jwt_authorities if a is not found)
    return replace(bundle, jwt_authorities=left, sequence_number=bundle.sequence_number + 1)


def _of_key(bundle: Bundle, key_id: str) -> list[X509Authority]:
    return [a for a in bundle.x509_authorities if subject_key_id(a.certificate).hex() == key_id]


def _jwt_authority(bundle: Bundle, key_id: str) -> JwtAuthority:
    found = bundle.jwt_authority(key_id)
    if not found:
        raise NotFound("no JWT Key found with provided key ID")
    return found
