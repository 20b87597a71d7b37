#!/bin/sh
# Installs what Steeple needs: "run" for the programs and the demo, "test" for the tests as well.
# System packages come from the distribution (Debian 12 or newer), Python's from requirements.lock, into .venv.
# On another system the packages' counterparts have to be there; what is missing shows at its first use.
set -eu
cd "$(dirname "$0")/.."

case "${1:-run}" in
run) packages="python3-venv softhsm2 opensc openssl" ;;
test) packages="python3-venv softhsm2 opensc openssl gcc libc6-dev postgresql mariadb-server opencryptoki swtpm tpm2-tools tpm2-abrmd libtss2-tcti-swtpm0 libtss2-tcti-tabrmd0 libtpm2-pkcs11-1 libtpm2-pkcs11-tools dbus-daemon" ;;
*)
	echo "usage: $0 run|test" >&2
	exit 1
	;;
esac

missing=""
if command -v dpkg-query >/dev/null; then
	for package in $packages; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
	done
else
	echo "This is no Debian: what it calls $packages must be installed already"
fi
if [ -n "$missing" ]; then
	echo "Installing system packages:$missing"
	if [ "$(id -u)" = 0 ]; then as_root=""; elif command -v sudo >/dev/null; then as_root="sudo"; else
		echo "error: run as root once, or install them yourself: apt-get install$missing" >&2
		exit 1
	fi
	log=$(mktemp)
	# A database server that the package starts would only be in the way: tests start their own.
	if ! { $as_root apt-get -q update && $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
		apt-get -q -y --no-install-recommends install $missing; } >"$log" 2>&1; then
		cat "$log" >&2
		echo "error: could not install:$missing" >&2
		exit 1
	fi
	rm -f "$log"
fi

python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	echo "error: Python 3.11 or newer is needed, $("$python" -V) was found" >&2
	exit 1
}
stamp=.venv/.installed-packages
wanted=$(cat requirements.lock pyproject.toml | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
	echo "Installing Python packages into .venv"
	"$python" -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	printf '%s' "$wanted" >"$stamp"
fi
touch ".venv/.installed-$1"
