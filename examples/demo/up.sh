#!/bin/sh
# The demo's set-up, left running: token, server, agent and a workload entry for this user.  "make down" ends it.
# State stays in .run/demo (DEMO_STATE), so it goes on with the same authorities the next time.  The sockets are SPIRE's,
# where the commands look for them; SOCKETS=FOLDER and PORT=... choose others.
set -eu
umask 077
DEMO_STATE=${DEMO_STATE:-$(cd "$(dirname "$0")/../.." && pwd)/.run/demo}
. "$(dirname "$0")/common.sh"
DEMO_SERVER_SOCKET=${SOCKETS:-/tmp}/spire-server/private/api.sock
DEMO_AGENT_SOCKET=${SOCKETS:-/tmp}/spire-agent/public/api.sock

finish() {
    code=$?
    trap - EXIT INT TERM HUP
    if [ "$code" -ne 0 ]; then
        explain "$code"
        stop agent
        stop server
    fi
    exit "$code"
}

mkdir -p "$DEMO_STATE"
for name in server agent; do
    if runs "$name"; then
        fail "the $name runs already (process $pid): make down ends it"
    fi
done
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "Token"
name_everything
make_token

step "Server"
start_server

step "Agent"
start_agent

step "Workload entry for this user (uid $(id -u))"
run "$BIN/steeple-server" entry show -socketPath "$DEMO_SERVER_SOCKET" -spiffeID "$WORKLOAD_ID" \
    -selector "unix:uid:$(id -u)"
if grep -q '^Found 0 ' "$OUT"; then
    run "$BIN/steeple-server" entry create -socketPath "$DEMO_SERVER_SOCKET" -parentID "$AGENT_ID" \
        -spiffeID "$WORKLOAD_ID" -selector "unix:uid:$(id -u)"
fi
until_it_works agent "$BIN/steeple-agent" api fetch x509 -socketPath "$DEMO_AGENT_SOCKET" -silent

if [ -n "${SOCKETS:-}" ]; then
    printf '\nexport SPIRE_SERVER_PRIVATE_SOCKET="%s" SPIRE_AGENT_PUBLIC_SOCKET="%s"\n' \
        "$DEMO_SERVER_SOCKET" "$DEMO_AGENT_SOCKET"
fi
cat <<NEXT

It runs: the server on 127.0.0.1:$DEMO_PORT, logs and state in $DEMO_STATE.  Try

    .venv/bin/steeple-server entry show
    .venv/bin/steeple-agent api fetch x509
    .venv/bin/steeple-agent api fetch jwt -audience test

"make down" ends it.
NEXT
