"""What a key manager does with a token, whosever it is: ``python -m tests.support.token_round MODULE LABEL PIN_FILE``.

A process of its own, since the libraries of some tokens need an environment of theirs.  It prints one line of JSON.
"""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from keymanagers.base import Key, KeyId, KeyType, fingerprint
from keymanagers.pkcs11.config import Pkcs11Config
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from spiffe_core.errors import AlreadyExists, SpiffeError

THREADS = 4


def main() -> None:
    module, label, pin_file = sys.argv[1:]
    config = Pkcs11Config(module=Path(module), token=label, pin_source=pin_file, authority_group="example.org")
    manager = Pkcs11KeyManager(config)
    made = make_each(manager)
    report: dict[str, Any] = {
        "profile": manager.status()[0].profile,
        "types": {kind.value: one if isinstance(one, str) else "made" for kind, one in made.items()},
    }
    keys = [one for one in made.values() if isinstance(one, Key)]
    report["custody"] = [dict(manager.attributes(key.id)) for key in keys]
    report["attempts"] = {
        key.id: [(tried.way, tried.outcome, tried.answer) for tried in one.attempts]
        for key in keys
        for one in manager.examine(key.id, attempt=True)
    }
    report["attributes after the attempts"] = [dict(manager.attributes(key.id)) for key in keys]
    report["twice"] = refusal(lambda: manager.generate(keys[0].id, keys[0].type))
    report["threads"] = in_threads(keys)
    before = shown(manager)
    manager.close()
    manager = Pkcs11KeyManager(config)
    report["same after reopening"] = shown(manager) == before == {key.id: fingerprint(key.public) for key in keys}
    device = manager._tokens._devices[0]
    device._module.reinitialize(device._module.generation, 10.0)
    again = manager.keys()
    report["signs after re-initialisation"] = [sign(key) for key in again]
    for key in again:
        manager.retire(key.id)
    report["left"] = len(manager.keys())
    manager.close()
    print(json.dumps(report))


def make_each(manager: Pkcs11KeyManager) -> dict[KeyType, Key | str]:
    """A key of each type, or the name of the error that says that there is none."""
    made: dict[KeyType, Key | str] = {}
    for kind in KeyType:
        try:
            made[kind] = manager.generate(KeyId(f"key-{kind}"), kind)
        except SpiffeError as exc:
            made[kind] = type(exc).__name__
    return made


def sign(key: Key) -> bool:
    """Sign in each way that the key knows; a wrong signature is an error."""
    private, public = key.private, key.public
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
        algorithm = ec.ECDSA(hashes.SHA384() if key.type is KeyType.EC_P384 else hashes.SHA256())
        public.verify(private.sign(b"data", algorithm), b"data", algorithm)
    else:
        assert not isinstance(private, ec.EllipticCurvePrivateKey)
        assert not isinstance(public, ec.EllipticCurvePublicKey)
        for scheme in (padding.PKCS1v15(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)):
            public.verify(private.sign(b"data", scheme, hashes.SHA256()), b"data", scheme, hashes.SHA256())
    return True


def in_threads(keys: list[Key]) -> int:
    """How many signatures several threads made at once."""
    done: list[bool] = []
    threads = [threading.Thread(target=lambda: done.extend(sign(key) for key in keys)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done)


def shown(manager: Pkcs11KeyManager) -> dict[str, str]:
    keys = manager.keys()
    return {key.id: fingerprint(key.public) for key in keys}


def refusal(attempt: Any) -> bool:
    try:
        attempt()
    except AlreadyExists:
        return True
    return False


if __name__ == "__main__":
    main()
