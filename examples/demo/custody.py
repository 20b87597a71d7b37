"""Prints what a token says of the key of a CA certificate: read back, never as it was asked for.

custody.py MODULE TOKEN PIN_FILE BUNDLE_PEM
"""

import sys
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keymanagers.base import fingerprint
from keymanagers.pkcs11.config import Pkcs11Config
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from spiffe_core.bundle import load_certificate
from spiffe_core.runtime.cli.pem import read_certificates

SHOWN: Final = (
    "CKA_ID",
    "CKA_LABEL",
    "CKA_KEY_TYPE",
    "CKA_TOKEN",
    "CKA_PRIVATE",
    "CKA_SENSITIVE",
    "CKA_ALWAYS_SENSITIVE",
    "CKA_EXTRACTABLE",
    "CKA_NEVER_EXTRACTABLE",
    "CKA_LOCAL",
    "CKA_KEY_GEN_MECHANISM",
    "CKA_SIGN",
    "CKA_DECRYPT",
    "CKA_UNWRAP",
    "CKA_DERIVE",
)
WANTED: Final = {
    "CKA_SENSITIVE": True,
    "CKA_ALWAYS_SENSITIVE": True,
    "CKA_EXTRACTABLE": False,
    "CKA_NEVER_EXTRACTABLE": True,
    "CKA_LOCAL": True,
}


def trust_domain_of(certificate: x509.Certificate) -> str:
    """The trust domain that a CA certificate names, which is the authority group of its key."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri.removeprefix("spiffe://")


def main(module: str, token: str, pin_file: str, bundle: str) -> int:
    """Look for the key in the token; the exit code says whether it is there and well kept."""
    certificate = load_certificate(read_certificates(Path(bundle).read_bytes())[-1])
    manager = Pkcs11KeyManager(
        Pkcs11Config(
            module=Path(module), token=token, pin_source=pin_file, authority_group=trust_domain_of(certificate)
        )
    )
    try:
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # no other makes an authority
        wanted = fingerprint(public)
        found = [key for key in manager.keys() if fingerprint(key.public) == wanted]  # noqa: SIM118  no mapping
        if not found:
            print(f"error: the token has no key of the CA certificate in {bundle}", file=sys.stderr)
            return 1
        said = manager.attributes(found[0].id)
    finally:
        manager.close()
    for name in SHOWN:
        print(f"{name:<22} {said.get(name, 'the token does not say')}")
    wrong = [name for name, value in WANTED.items() if said.get(name) is not value]
    if wrong:
        print(f"error: the key is not well kept: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
