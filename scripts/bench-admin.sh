#!/usr/bin/env bash
# Measures what the admin port and its page cost: a scrape, a paint, what clients pay for both; and the size, the
# idle memory and the time of a look of the programs.
#
#   scripts/bench-admin.sh                  everything
#   scripts/bench-admin.sh --rounds 0.2     a fifth of the rounds
#   PROFILE=fast scripts/bench-admin.sh     with the build that is made faster
#
# The last table counts instructions of the thread that serves clients (valgrind's callgrind): what a
# busy machine does not change.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need strip:binutils chromium:chromium chromedriver:chromium-driver valgrind:valgrind callgrind_control:valgrind curl:curl

profile=${PROFILE:-release}
port=${PORT:-21943}
requests=20000
ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true
cargo build --locked --quiet --profile "$profile" --bins
cargo bench --locked --quiet --profile "$profile" --bench admin -- "$@"

binaries="${CARGO_TARGET_DIR:-target}/$profile"
work=$(mktemp -d)
server=
scraper=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    for process in $scraper $server; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

load() {
    "$binaries/tandemctl" bench "127.0.0.1:$port" -c 50 -k 10000 --timeout 60 "$@" >/dev/null
}

# count NAME ADMIN PAUSE: instructions of the worker per request, with a scrape every PAUSE seconds.
count() {
    valgrind -q --tool=callgrind --separate-threads=yes --callgrind-out-file="$work/out" \
        "$binaries/tandemd" -l 127.0.0.1 -p "$port" -t 1 -m 256 -u "$(id -un)" --admin "$2" 2>"$work/log" &
    server=$!
    for _ in $(seq 200); do
        if load -c 1 -n 1 2>/dev/null; then break; fi
        kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
        sleep 0.1
    done
    load -n 10000 --sets 100
    if [ -n "$3" ]; then
        (while sleep "$3"; do curl -s "http://$2/metrics" -o /dev/null || true; done) &
        scraper=$!
    fi
    callgrind_control --zero "$server" >/dev/null 2>&1
    load -n "$requests"
    callgrind_control --dump=load "$server" >/dev/null 2>&1
    if [ -n "$scraper" ]; then
        kill "$scraper"
        wait "$scraper" 2>/dev/null || true
        scraper=
    fi
    # One file for each thread; the worker's is the one with the most.
    local most
    most=$(awk '/^totals:/ { if ($2 > most) most = $2 } END { print most }' "$work"/out.1-*)
    echo "| $1 | $((most / requests)) |"
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    rm -f "$work"/out*
}

echo
echo "| the worker's instructions per request | |"
echo "|---|---|"
count "admin port off" off ""
count "on" "127.0.0.1:$((port + 1))" ""
count "on, a scrape every second" "127.0.0.1:$((port + 1))" 1
count "on, scrapes without a pause" "127.0.0.1:$((port + 1))" 0
