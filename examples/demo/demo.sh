#!/bin/sh
# The main job, from nothing to a workload that holds SVIDs signed inside a token, with the proofs; then cleans up.
# Everything lies in a folder of its own, so it disturbs nothing and can run twice at a time.  PORT=... chooses a port.
set -eu
umask 077
DEMO_STATE=$(mktemp -d /tmp/steeple-demo.XXXXXX)
. "$(dirname "$0")/common.sh"
DEMO_SERVER_SOCKET=$DEMO_STATE/server/private/api.sock
DEMO_AGENT_SOCKET=$DEMO_STATE/agent/public/api.sock

finish() {
    code=$?
    trap - EXIT INT TERM HUP
    explain "$code"
    stop agent
    stop server
    rm -rf "$DEMO_STATE"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

server=$BIN/steeple-server
agent=$BIN/steeple-agent
svids=$DEMO_STATE/svids
mkdir "$svids"

step "Make a token in SoftHSM, which stands for an HSM"
name_everything
make_token

step "Start a server whose keys are made in the token"
start_server

step "Attest an agent with a join token"
start_agent

step "Register this user's processes (uid $(id -u)) as a workload"
run "$server" entry create -socketPath "$DEMO_SERVER_SOCKET" -parentID "$AGENT_ID" -spiffeID "$WORKLOAD_ID" \
    -selector "unix:uid:$(id -u)"
until_it_works agent "$agent" api fetch x509 -socketPath "$DEMO_AGENT_SOCKET" -silent

step "Fetch an X509-SVID through the Workload API, as any workload would, and check it with openssl"
run "$agent" api fetch x509 -socketPath "$DEMO_AGENT_SOCKET" -write "$svids"
run openssl verify -CAfile "$svids/bundle.0.pem" "$svids/svid.0.pem"
run openssl x509 -in "$svids/svid.0.pem" -noout -issuer -dates -ext subjectAltName
openssl x509 -in "$svids/svid.0.pem" -noout -pubkey >"$DEMO_STATE/certified.pem"
openssl pkey -in "$svids/svid.0.key" -pubout >"$DEMO_STATE/held.pem"
cmp -s "$DEMO_STATE/certified.pem" "$DEMO_STATE/held.pem" || fail "the key is not that of the certificate"
say "The key that came with it is that of the certificate."

step "Fetch a JWT-SVID and have it validated"
run "$agent" api fetch jwt -socketPath "$DEMO_AGENT_SOCKET" -audience demo-service
jwt=$(sed -n 2p "$OUT" | tr -d '\t')
run "$agent" api validate jwt -socketPath "$DEMO_AGENT_SOCKET" -audience demo-service -svid "$jwt"
say "The same token at another service:"
run_refused "$agent" api validate jwt -socketPath "$DEMO_AGENT_SOCKET" -audience another-service -svid "$jwt"

step "The authorities' keys, by the server's journal and by the token"
run "$server" keys list -config "$HERE/server.conf" -expandEnv
key_id=$(sed -n 's/^Key ID *: \(x509-\)/\1/p' "$OUT")

step "What the token says of the CA's key, a signature with it, and every way to its value tried"
run "$server" keys check -config "$HERE/server.conf" -expandEnv -keyID "$key_id"
key=$(sed -n 's/^ *CKA_ID *: //p' "$OUT")

step "The same, seen by other programs"
TOKEN_PIN=$(cat "$DEMO_PIN_FILE")
export TOKEN_PIN
run pkcs11-tool --module "$DEMO_MODULE" --token-label "$DEMO_TOKEN" --login --pin env:TOKEN_PIN \
    --read-object --type pubkey --id "$key" --output-file "$DEMO_STATE/token.der"
openssl pkey -pubin -inform DER -in "$DEMO_STATE/token.der" -pubout >"$DEMO_STATE/token.pem"
openssl x509 -in "$svids/bundle.0.pem" -noout -pubkey >"$DEMO_STATE/ca.pem"
cmp -s "$DEMO_STATE/token.pem" "$DEMO_STATE/ca.pem" || fail "the CA certificate's public key is not the token's"
say "The public key in the token is the CA certificate's."
run pkcs11-tool --module "$DEMO_MODULE" --token-label "$DEMO_TOKEN" --login --pin env:TOKEN_PIN \
    --list-objects --type privkey --id "$key"
awk -v key="$key" '$1 == "ID:" { id = $2 } id == key && /Access: +sensitive, always sensitive, never extractable, local$/ { kept = 1 }
    END { exit !kept }' "$OUT" || fail "the private key is not protected"
run pkcs11-tool --module "$DEMO_MODULE" --token-label "$DEMO_TOKEN" --login --pin env:TOKEN_PIN \
    --read-object --type privkey --id "$key" --output-file "$DEMO_STATE/stolen" || true
[ ! -s "$DEMO_STATE/stolen" ] || fail "the private key was read"
say "pkcs11-tool does not even try.  A program that does, with the PIN, and shares no code with Steeple:"
run "$BIN/python" "$HERE/steal.py" "$DEMO_MODULE" "$DEMO_TOKEN" "$DEMO_PIN_FILE" "$key"

printf '\n%sAll of it worked.%s  Cleaning up.\n' "$bold" "$plain"
printf 'To keep the same set-up running: make up.  To end it: make down.\n'
