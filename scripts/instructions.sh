#!/usr/bin/env bash
# Counts the server's instructions per operation: a figure that a busy machine does not change.
#
#   scripts/instructions.sh            counts, and fails if one is 5 % above benches/instructions.txt
#   scripts/instructions.sh --save     counts, and makes that the new measure
#   scripts/instructions.sh --profile  counts, and names the functions they are spent in
#
# The release build runs under valgrind's callgrind with one worker thread; tandemctl sends a fixed
# number of requests over 50 connections: keys of 32 bytes, values of 100, all of them there. What the
# kernel does is not in it. Takes half a minute beside the build.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need valgrind:valgrind callgrind_control:valgrind

mode=${1:-}
measure=benches/instructions.txt
requests=20000
tolerance_percent=5
port=${PORT:-21933}

cargo build --release --locked --quiet --bins
binaries="${CARGO_TARGET_DIR:-target}/release"
work=$(mktemp -d)
server=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

valgrind -q --tool=callgrind --callgrind-out-file="$work/out" \
    "$binaries/tandemd" -l 127.0.0.1 -p "$port" -t 1 -m 256 --io epoll -u "$(id -un)" 2>"$work/log" &
server=$!

load() {
    "$binaries/tandemctl" bench "127.0.0.1:$port" -c 50 -k 10000 --key-prefix 1234567890123456789012 \
        -v 100 --timeout 60 "$@" >/dev/null
}
for _ in $(seq 200); do
    if load -c 1 -n 1 2>/dev/null; then break; fi
    kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done

# operations NAME FLAGS...: the instructions of that load, per request, go to the list.
operations() {
    local name=$1 total
    shift
    callgrind_control --zero "$server" >/dev/null 2>&1
    load -n "$requests" "$@"
    callgrind_control --dump="$name" "$server" >/dev/null 2>&1
    part=$((part + 1))
    total=$(awk '/^(summary|totals):/ { print $2; exit }' "$work/out.$part")
    echo "$name $((total / requests))" >>"$work/counts"
    if [ "$mode" = --profile ]; then
        profile "$name" "$work/out.$part"
    fi
}

# Instructions of each function itself. (callgrind_annotate stumbles over counters that were set to zero.)
profile() {
    echo "$1: instructions per operation by function"
    awk -v requests="$requests" '
        /^fn=/ { id = $0; sub(/^fn=/, "", id); key = id; sub(/\).*/, ")", key)
                 if (index(id, ") ")) name[key] = substr(id, index(id, ") ") + 2); next }
        /^cfn=.*\) / { id = substr($0, 5); other = id; sub(/\).*/, ")", other)
                 name[other] = substr(id, index(id, ") ") + 2); next }
        /^calls=/ { skip = 1; next }
        /^[0-9+*-]/ { if (skip) skip = 0; else if (NF > 1) cost[key] += $NF }
        END { for (key in cost) printf "%9.1f  %s\n", cost[key] / requests, name[key] }' "$2" |
        sort -rn | sed -n 1,30p | cut -c1-120
}

part=0
load -n 10000 -s 100 -P 16 -f
operations get -s 0
operations get-pipeline-16 -s 0 -P 16
operations get-16-keys -s 0 -m 16
operations set -s 100
operations set-pipeline-16 -s 100 -P 16

if [ "$mode" = --save ]; then
    {
        echo "# Instructions per request of the server, user space only: scripts/instructions.sh --save"
        cat "$work/counts"
    } >"$measure"
fi
status=0
printf '%-18s %10s %10s %8s\n' request now measure change
while read -r name now; do
    before=$(awk -v name="$name" '$1 == name { print $2 }' "$measure")
    if [ -z "$before" ]; then
        echo "$name has no measure: scripts/instructions.sh --save makes one" >&2
        exit 1
    fi
    printf '%-18s %10d %10d %+7d%%\n' "$name" "$now" "$before" $(((now - before) * 100 / before))
    if [ $((now * 100)) -gt $((before * (100 + tolerance_percent))) ]; then
        status=1
    fi
done <"$work/counts"
if [ $status -ne 0 ]; then
    echo "more than $tolerance_percent % dearer: find out why, or accept it with --save" >&2
fi
exit $status
