#!/bin/sh
# Makes a SoftHSM token for Steeple: a folder with its own softhsm2.conf, a token in it, and its PINs in files.
#
# What is there already is kept, so it can be run again: it says what it did and what it found.  PINs come from
# files or are made up into files of mode 0400.  They are never printed and never an argument of a program, where
# every user of the machine could read them: pkcs11-tool takes them from its environment, while softhsm2-util
# reads them from a terminal only, or from its arguments.

set -eu
umask 077

usage() {
    cat <<'USAGE'
usage: init-token.sh [-d FOLDER] [-l LABEL] [-p PIN_FILE] [-s SO_PIN_FILE] [-m MODULE]

  -d FOLDER       where softhsm2.conf, the tokens and the PIN files go   (.run/softhsm)
  -l LABEL        label of the token, 1 to 32 of A-Z a-z 0-9 . _ -       (steeple)
  -p PIN_FILE     file with the user PIN; made if it is not there        (FOLDER/LABEL.pin)
  -s SO_PIN_FILE  file with the security officer's PIN; made likewise    (FOLDER/LABEL.so-pin)
  -m MODULE       SoftHSM's library                                      (looked for in the usual places)
USAGE
}

fail() {
    printf 'init-token.sh: %s\n' "$1" >&2
    exit 1
}

# A PIN of 128 random bits in a new file; nothing is seen half written.
make_pin() {
    temporary="$1.$$"
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$temporary"
    printf '\n' >>"$temporary"
    chmod 0400 "$temporary"
    mv "$temporary" "$1"
    printf 'made PIN file %s\n' "$1"
}

# The first line of a file, as SoftHSM can take it.
read_pin() {
    pin=$(head -n 1 "$1") || fail "cannot read $1"
    [ "${#pin}" -ge 4 ] || fail "$1 must hold a PIN of at least 4 characters"
    printf '%s' "$pin"
}

find_module() {
    for candidate in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so \
        /usr/local/lib/softhsm/libsofthsm2.so /opt/homebrew/lib/softhsm/libsofthsm2.so; do
        if [ -e "$candidate" ]; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "SoftHSM's library was not found: install softhsm2, or name it with -m"
}

# What pkcs11-tool says of the token with our label: "none", "no-pin" or "ready".
token_state() {
    pkcs11-tool --module "$module" --list-slots 2>/dev/null | awk -v label="$label" '
        /^Slot/ { ours = 0 }
        $1 == "token" && $2 == "label" { sub(/^[^:]*: */, ""); ours = ($0 == label) }
        ours && $1 == "token" && $2 == "flags" { found++; ready = /PIN initialized/ }
        END { if (found > 1) print "several"; else print found ? (ready ? "ready" : "no-pin") : "none" }'
}

empty_slot() {
    pkcs11-tool --module "$module" --list-slots 2>/dev/null | awk '
        /^Slot/ { gsub(/[():]/, "", $3); slot = $3 }
        $1 == "token" && $2 == "state:" && $3 == "uninitialized" { print slot; exit }'
}

folder=.run/softhsm
label=steeple
pin_file=
so_pin_file=
module=
while getopts d:l:p:s:m:h option; do
    case $option in
    d) folder=$OPTARG ;;
    l) label=$OPTARG ;;
    p) pin_file=$OPTARG ;;
    s) so_pin_file=$OPTARG ;;
    m) module=$OPTARG ;;
    h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done
shift $((OPTIND - 1))
if [ $# -gt 0 ]; then
    usage >&2
    exit 2
fi
case $label in
'' | *[!A-Za-z0-9._-]*) fail "label '$label' must be letters, digits, '.', '_' or '-'" ;;
esac
[ "${#label}" -le 32 ] || fail "label '$label' is longer than 32 characters"
command -v pkcs11-tool >/dev/null || fail "pkcs11-tool was not found: install opensc"
[ -n "$module" ] || module=$(find_module)
[ -e "$module" ] || fail "there is no module $module"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
pin_file=${pin_file:-$folder/$label.pin}
so_pin_file=${so_pin_file:-$folder/$label.so-pin}
configuration=$folder/softhsm2.conf
mkdir -p "$folder/tokens"
if [ ! -e "$configuration" ]; then
    cat >"$configuration.$$" <<CONF
directories.tokendir = $folder/tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
CONF
    mv "$configuration.$$" "$configuration"
    printf 'made %s\n' "$configuration"
fi
SOFTHSM2_CONF=$configuration
export SOFTHSM2_CONF

state=$(token_state)
[ "$state" != several ] || fail "there are several tokens with label '$label' in $folder"
if [ "$state" = ready ] && [ ! -e "$pin_file" ]; then
    fail "token '$label' exists, but its PIN file $pin_file does not: restore the file, or remove the token"
fi
if [ "$state" = no-pin ] && [ ! -e "$so_pin_file" ]; then
    fail "token '$label' exists without a user PIN, and $so_pin_file, which could set one, does not exist"
fi
[ -e "$so_pin_file" ] || [ "$state" = ready ] || make_pin "$so_pin_file"
[ -e "$pin_file" ] || make_pin "$pin_file"

STEEPLE_PIN=$(read_pin "$pin_file")
export STEEPLE_PIN
if [ "$state" != ready ]; then
    STEEPLE_SO_PIN=$(read_pin "$so_pin_file")
    export STEEPLE_SO_PIN
fi
if [ "$state" = none ]; then
    slot=$(empty_slot)
    [ -n "$slot" ] || fail "module $module has no slot for a new token"
    pkcs11-tool --module "$module" --slot "$slot" --init-token --label "$label" --so-pin env:STEEPLE_SO_PIN \
        >/dev/null 2>&1 || fail "token '$label' could not be initialised"
    printf "made token '%s'\n" "$label"
fi
if [ "$state" != ready ]; then
    pkcs11-tool --module "$module" --token-label "$label" --login --login-type so --so-pin env:STEEPLE_SO_PIN \
        --init-pin --new-pin env:STEEPLE_PIN >/dev/null 2>&1 || fail "the user PIN of token '$label' could not be set"
    printf "set the user PIN of token '%s'\n" "$label"
else
    printf "found token '%s'\n" "$label"
fi
pkcs11-tool --module "$module" --token-label "$label" --login --pin env:STEEPLE_PIN --list-objects \
    >/dev/null 2>&1 || fail "token '$label' does not open with the PIN in $pin_file"

cat <<NEXT

Before a server is started:   export SOFTHSM2_CONF=$configuration
In its configuration:
    KeyManager "pkcs11" {
        plugin_data {
            module = "$module"
            token = "$label"
            pin_source = "$pin_file"
        }
    }
NEXT
