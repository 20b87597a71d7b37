"""A process that does with a key manager what it is told, line by line: ``python -m tests.support.key_process``.

Arguments: the key manager's name and its ``plugin_data``.  Each line of input is a JSON list, a command and its
words; each answer is a line of JSON.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keymanagers.base import KeyId, KeyManager, KeyType, fingerprint
from keymanagers.registry import open_key_manager
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.block import Block
from tests.support.plugins import open_keys, plugin_of


def main() -> None:
    name, data = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # answers go to standard output
    manager = _open(name, data)
    say("open")
    for line in sys.stdin:
        try:
            say(do(manager, *json.loads(line)))
        except SpiffeError as exc:
            say({"error": type(exc).__name__, "text": str(exc)})
    manager.close()


def _open(name: str, data: str) -> KeyManager:
    if name == "plugin":
        program, plugin_data, file = json.loads(data)
        return open_keys(plugin_of(Path(program), plugin_data), Path(file))
    return open_key_manager(name, Block.parse(data), authority_group="example.org")


def do(manager: KeyManager, command: str, *words: str) -> Any:
    match command:
        case "keys":
            shown = manager.keys()
            return {key.id: fingerprint(key.public) for key in shown}
        case "generate":
            return fingerprint(manager.generate(KeyId(words[0]), KeyType(words[1])).public)
        case "retire":
            return manager.retire(KeyId(words[0]))
        case "generate-many":  # says each when it is durable, until it is killed
            number = 0
            while True:
                key = manager.generate(KeyId(f"{words[0]}-{number}"), KeyType.EC_P256)
                say({"id": key.id, "fingerprint": fingerprint(key.public)})
                number += 1
        case "sign":
            return find(manager, words[0]).sign(words[1].encode(), ec.ECDSA(hashes.SHA256())).hex()
        case "exit":  # without closing the key manager, while threads sign
            key = find(manager, words[0])
            for _ in range(4):
                threading.Thread(target=sign_forever, args=(key,), daemon=True).start()
            time.sleep(0.1)
            sys.exit(0)
    raise AssertionError(command)


def find(manager: KeyManager, key_id: str) -> ec.EllipticCurvePrivateKey:
    shown = manager.keys()
    (key,) = (key.private for key in shown if key.id == key_id)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def sign_forever(key: ec.EllipticCurvePrivateKey) -> None:
    while True:
        key.sign(b"data", ec.ECDSA(hashes.SHA256()))


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
