# What demo.sh, up.sh and down.sh share: where things are, and how programs are run, started and stopped.
# Sourced, not run.  DEMO_STATE is set by then.  Paths may have spaces in them.
# shellcheck shell=sh

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
BIN=$ROOT/.venv/bin
HERE=$ROOT/examples/demo
DEMO_TOKEN=steeple-demo
AGENT_ID=spiffe://example.org/demo-agent
WORKLOAD_ID=spiffe://example.org/demo-workload
ATTEMPTS=150 # of 0.2 seconds and what an attempt takes

if [ -t 1 ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
else
    bold='' plain=''
fi
started=''
step_number=0
step_title=''

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

step() {
    step_number=$((step_number + 1))
    step_title=$1
    printf '\n%s%s. %s%s\n' "$bold" "$step_number" "$1" "$plain"
}

say() {
    printf '   %s\n' "$1"
}

# Show a command as it would be typed, with paths below the project and the demo's folder, and long words, made short.
show_command() {
    line=''
    for word in "$@"; do
        case $word in
        "$BIN"/*) word=${word#"$BIN"/} ;;
        "$DEMO_STATE"/*) word=${word#"$DEMO_STATE"/} ;;
        "$ROOT"/*) word=${word#"$ROOT"/} ;;
        esac
        [ "${#word}" -le 100 ] || word=$(printf '%.20s...' "$word")
        case $word in '&') ;; *[!A-Za-z0-9/._:=@,+-]*) word="'$word'" ;; esac
        line="$line $word"
    done
    printf '   $%s\n' "$line"
}

# Run a command, show it and what it says; its output is then in $OUT.
run() {
    show_command "$@"
    OUT=$DEMO_STATE/out
    code=0
    "$@" >"$OUT" 2>&1 || code=$?
    sed 's/^/     /' "$OUT"
    return "$code"
}

# Run a command that must be refused, and show with what.
run_refused() {
    if run "$@"; then
        fail "this should have been refused"
    fi
}

# Start a program that stays, with its log in $DEMO_STATE/NAME.log and its process in $DEMO_STATE/NAME.pid.
start() {
    name=$1
    started="$started $name"
    shift
    show_command "$@" '&'
    if command -v setsid >/dev/null; then
        setsid "$@" >"$DEMO_STATE/$name.log" 2>&1 </dev/null &
    else
        nohup "$@" >"$DEMO_STATE/$name.log" 2>&1 </dev/null &
    fi
    printf '%s %s\n' "$!" "$(began "$!")" >"$DEMO_STATE/$name.pid"
}

# When a process began, in ticks since boot; nothing if there is none.  Its number may be another's by now.
began() {
    sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

# Whether the program that was started under this name runs.
runs() {
    [ -s "$DEMO_STATE/$1.pid" ] || return 1
    read -r pid since <"$DEMO_STATE/$1.pid"
    [ -n "$since" ] && [ "$(began "$pid")" = "$since" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null
}

# Stop the program of this name, by its process number, and wait until it has ended.
stop() {
    if runs "$1"; then
        kill "$pid" 2>/dev/null || true
        left=50
        while runs "$1" && [ "$left" -gt 0 ]; do
            sleep 0.2
            left=$((left - 1))
        done
        if runs "$1"; then kill -9 "$pid" 2>/dev/null || true; fi
    fi
    rm -f "$DEMO_STATE/$1.pid"
}

# Try a command until it succeeds; give up when it takes too long or the program of that name has ended.
until_it_works() {
    name=$1
    shift
    left=$ATTEMPTS
    printf '   waiting for the %s ' "$name"
    while ! "$@" >"$DEMO_STATE/out" 2>&1; do
        left=$((left - 1))
        if ! runs "$name"; then
            printf '\n'
            fail "the $name has ended"
        fi
        if [ "$left" -eq 0 ]; then
            printf '\n'
            cat "$DEMO_STATE/out" >&2
            fail "the $name takes too long"
        fi
        printf '.'
        sleep 0.2
    done
    printf ' ready\n'
}

# After a failure: in which step, and the end of the logs of what was started.
explain() {
    case $1 in
    0) return ;;
    130 | 143)
        printf '\nInterrupted; cleaning up.\n' >&2
        return
        ;;
    esac
    printf '\n%sFailed%s in step %s, %s.\n' "$bold" "$plain" "$step_number" "$step_title" >&2
    for name in $started; do
        if [ -s "$DEMO_STATE/$name.log" ]; then
            printf '\nThe end of the %s'\''s log:\n' "$name" >&2
            tail -n 20 "$DEMO_STATE/$name.log" | sed 's/^/    /' >&2
        fi
    done
}

# A free port of this machine, or the one that PORT asks for, if it is free.
choose_port() {
    "$BIN/python" - "${PORT:-0}" <<'PYTHON'
import socket, sys
if not sys.argv[1].isdecimal() or int(sys.argv[1]) > 65535:
    sys.exit(f"error: PORT={sys.argv[1]} is no port")
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError as exc:
        sys.exit(f"error: port {sys.argv[1]} cannot be used: {exc.strerror}; choose another with PORT=..., or leave it out")
    print(probe.getsockname()[1])
PYTHON
}

# Whether nobody serves at a socket yet: a server takes the place of a file that is left there.
check_socket() {
    "$BIN/python" - "$1" <<'PYTHON'
import socket, sys
path = sys.argv[1]
if len(path.encode()) > 107:
    sys.exit(f"error: {path} is too long for a socket: choose a shorter folder")
with socket.socket(socket.AF_UNIX) as probe:
    try:
        probe.connect(path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        sys.exit()
    except OSError as exc:
        sys.exit(f"error: {path} cannot be used: {exc.strerror}; choose a folder for the sockets with SOCKETS=...")
sys.exit(f"error: something serves at {path} already; end it, or choose a folder for the sockets with SOCKETS=...")
PYTHON
}

find_module() {
    for candidate in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
        if [ -e "$candidate" ]; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "SoftHSM's library was not found: run make install, or install the package softhsm2"
}

# Every name that server.conf and agent.conf use.
name_everything() {
    [ -x "$BIN/steeple-server" ] || fail "Steeple is not installed: run make install"
    DEMO_MODULE=$(find_module)
    DEMO_PORT=$(choose_port)
    DEMO_PIN_FILE=$DEMO_STATE/softhsm/$DEMO_TOKEN.pin
    SOFTHSM2_CONF=$DEMO_STATE/softhsm/softhsm2.conf
    export DEMO_STATE DEMO_MODULE DEMO_TOKEN DEMO_PORT DEMO_PIN_FILE DEMO_SERVER_SOCKET DEMO_AGENT_SOCKET SOFTHSM2_CONF
    check_socket "$DEMO_SERVER_SOCKET"
    check_socket "$DEMO_AGENT_SOCKET"
}

make_token() {
    set -- "$ROOT/softhsm-setup/init-token.sh" -d "$DEMO_STATE/softhsm" -l "$DEMO_TOKEN" -m "$DEMO_MODULE"
    show_command "$@"
    "$@" >"$DEMO_STATE/out" # what it wants in a configuration stands in server.conf
    sed -n '/^$/q; s/^/     /p' "$DEMO_STATE/out"
}

start_server() {
    start server "$BIN/steeple-server" run -config "$HERE/server.conf" -expandEnv
    until_it_works server "$BIN/steeple-server" healthcheck -socketPath "$DEMO_SERVER_SOCKET"
}

# Make a join token and start the agent with it; the token is spent by that.
start_agent() {
    run "$BIN/steeple-server" token generate -spiffeID "$AGENT_ID" -socketPath "$DEMO_SERVER_SOCKET"
    join_token=$(sed -n 's/^Token: //p' "$OUT")
    start agent "$BIN/steeple-agent" run -config "$HERE/agent.conf" -expandEnv -joinToken "$join_token"
    until_it_works agent "$BIN/steeple-agent" healthcheck -socketPath "$DEMO_AGENT_SOCKET"
}
