"""Tokens that are not SoftHSM's: opencryptoki's soft token, and tpm2-pkcs11 on a software TPM.

Both keep their state in places that belong to the whole machine: a daemon, folders, shared memory, a message bus.  So
each is set up, used and torn down in namespaces of its own, for which one must be root, and all that was started there
ends with them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from spiffe_core.runtime.files import private_folder

ROOT: Final = Path(__file__).parents[2]
_NAMESPACES: Final = ("unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
_WAIT: Final = 'wait_for() { n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 200 ]; sleep 0.05; done; }'
_OPENCRYPTOKI: Final = """
mount -t tmpfs none /run
mount -t tmpfs none /var/lib/opencryptoki
mkdir -p /run/lock/opencryptoki/swtok /var/lib/opencryptoki/swtok/TOK_OBJ
chgrp -R pkcs11 /run/lock/opencryptoki /var/lib/opencryptoki
chmod -R 770 /run/lock/opencryptoki /var/lib/opencryptoki
printf 'version opencryptoki-3.1\\nslot 3\\n{\\nstdll = libpkcs11_sw.so\\n}\\n' >"$FOLDER/conf"
mount --bind "$FOLDER/conf" /etc/opencryptoki/opencryptoki.conf
pkcsslotd -f >"$FOLDER/slotd.log" 2>&1 &
wait_for pkcsconf -t
printf '87654321\\nother\\n' | pkcsconf -I -c 3
printf '87654321\\n12345678\\n12345678\\n' | pkcsconf -P -c 3
printf '12345678\\n5678\\n5678\\n' | pkcsconf -u -c 3
"""
_TPM2: Final = """
mkdir "$FOLDER/state" "$FOLDER/store"
swtpm socket --tpm2 --daemon --tpmstate dir="$FOLDER/state" --server type=unixio,path="$FOLDER/s" \
    --ctrl type=unixio,path="$FOLDER/s.ctrl" --flags not-need-init,startup-clear
tpm2-abrmd --allow-root --session --tcti "swtpm:path=$FOLDER/s" >"$FOLDER/abrmd.log" 2>&1 &
export TPM2_PKCS11_STORE="$FOLDER/store" TPM2TOOLS_TCTI=tabrmd:bus_type=session TPM2_PKCS11_TCTI=tabrmd:bus_type=session
wait_for tpm2_getcap properties-fixed
tpm2_ptool init --path "$FOLDER/store"
tpm2_ptool addtoken --path "$FOLDER/store" --pid 1 --sopin 1234 --userpin 5678 --label other
"""
_TOKENS: Final = {
    "opencryptoki": (_OPENCRYPTOKI, (), "*/opencryptoki/libopencryptoki.so.0", ("pkcsslotd", "pkcsconf")),
    "tpm2-pkcs11": (
        _TPM2,
        ("dbus-run-session", "--"),
        "*/libtpm2_pkcs11.so.1",
        ("swtpm", "tpm2-abrmd", "tpm2_ptool", "tpm2_getcap", "dbus-run-session"),
    ),
}
"""How it is set up, in what, its library, and the programs for it."""


def in_a_round(name: str) -> dict[str, Any]:
    """What ``tests/support/token_round.py`` reports of that token, made for it."""
    script, around, library, programs = _TOKENS[name]
    _check(programs)
    (module, *_) = [*_libraries(library), None]
    assert module is not None, f"{library} is not installed"
    with private_folder() as folder:
        pin_file = folder / "pin"
        pin_file.write_text("5678")
        pin_file.chmod(0o400)
        last = f'exec "{sys.executable}" -m tests.support.token_round "{module}" other "{pin_file}" >"$FOLDER/report"'
        done = subprocess.run(
            [*_NAMESPACES, *around, "sh", "-e", "-c", f"{_WAIT}\n{script}\n{last}"],
            cwd=ROOT,
            env={**os.environ, "FOLDER": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        report: dict[str, Any] = json.loads((folder / "report").read_text().splitlines()[-1])
    return report


def _libraries(pattern: str) -> Iterator[Path]:
    for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib"):
        yield from Path(folder).glob(pattern)


def _check(programs: tuple[str, ...]) -> None:
    """Skip the test where it cannot be made; fail it in continuous integration if a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            message = f"{program} is not installed"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
    if subprocess.run([*_NAMESPACES, "true"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("namespaces cannot be made here: be root, and no container that forbids it")
