"""The file format of KeyManager "disk", which is SPIRE's: ``{"keys": {id: base64 of PKCS #8 DER}}`` in JSON."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from keymanagers.base import KeyId
from keymanagers.software import SoftwareKey
from spiffe_core.errors import KeyManagerUnavailable, Unsupported


class KeyFileDamaged(KeyManagerUnavailable):
    """The key file cannot be used as it is; it was left untouched."""


def parse_keys(content: bytes, path: Path) -> dict[KeyId, SoftwareKey]:
    """The keys of a file's content.

    Raises:
        KeyFileDamaged: saying what is wrong with it; the text holds nothing of the file but key ids.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        at = f" at character {exc.pos}" if isinstance(exc, json.JSONDecodeError) else ""
        raise KeyFileDamaged(f"{path} is damaged: it is no JSON{at}; restore it from a backup") from None
    # Nothing but an empty object may lack it: another program's file must not be written over.
    keys = document.get("keys", None if document else {}) if isinstance(document, dict) else None
    if not isinstance(keys, dict):
        raise KeyFileDamaged(f'{path} is damaged: it has no object "keys"; restore it from a backup')
    return {KeyId(key_id): _parse_key(KeyId(key_id), encoded, path) for key_id, encoded in keys.items()}


def render_keys(keys: Mapping[KeyId, SoftwareKey]) -> bytes:
    """A file's content, sorted by id and indented by tabs as SPIRE writes it."""
    document = {
        key_id: base64.b64encode(
            keys[key_id].plain.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        ).decode()
        for key_id in sorted(keys)
    }
    return json.dumps({"keys": document}, indent="\t").encode()


def _parse_key(key_id: KeyId, encoded: object, path: Path) -> SoftwareKey:
    try:
        plain = load_der_private_key(base64.b64decode(str(encoded), validate=True), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise KeyFileDamaged(
            f'{path} is damaged: key "{key_id}" is no PKCS #8 in base64; restore it from a backup'
        ) from None
    if not isinstance(plain, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeyFileDamaged(f'{path}: key "{key_id}" is neither EC nor RSA')
    try:
        return SoftwareKey(key_id, plain)
    except Unsupported as exc:
        raise KeyFileDamaged(f'{path}: key "{key_id}": {exc}') from exc
