#!/bin/sh
# Ends what up.sh has started.  The state stays for the next time.
set -eu
DEMO_STATE=${DEMO_STATE:-$(cd "$(dirname "$0")/../.." && pwd)/.run/demo}
. "$(dirname "$0")/common.sh"

for name in agent server; do
    if runs "$name"; then
        stop "$name"
        printf 'stopped the %s\n' "$name"
    else
        rm -f "$DEMO_STATE/$name.pid"
    fi
done
if [ -d "$DEMO_STATE" ]; then
    printf 'Its state is in %s: remove the folder to begin anew.\n' "$DEMO_STATE"
fi
