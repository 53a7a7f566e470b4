#!/usr/bin/env bash
# Measures: one node beside Debian's memcached, then the pair. Nothing else should run on the machine.
#
#   scripts/bench.sh                      everything (some ten minutes)
#   scripts/bench.sh --rounds 0.1         a tenth of the rounds
#   scripts/bench.sh kill switchover      these rows only; --list names them
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need memcached:memcached ss:iproute2

cargo build --release --locked --quiet --bins
binaries="${CARGO_TARGET_DIR:-target}/release"
port=21911
seconds=${SECONDS_PER_LOAD:-5}

# load NAME COMMAND...: starts a server, puts each load on it, stops it.
load() {
    local name=$1 pid
    shift
    "$@" -l 127.0.0.1 -p $port -m 1024 -c 4096 -t 2 -u "$(id -un)" &
    pid=$!
    # shellcheck disable=SC2064 # this process, not whatever is called pid later
    trap "kill $pid" EXIT
    echo "### $name"
    local bench=("$binaries/tandemctl" bench "127.0.0.1:$port" --server-pid "$pid" -d "$seconds")
    until "${bench[@]}" -c 1 -n 1 >/dev/null 2>&1; do sleep 0.05; done
    echo "-- 50 connections, pipeline 16, 10 % sets of 100 B, 1,000,000 keys (zipf 0.99), closed loop"
    "${bench[@]}" -c 50 -P 16 -k 1000000 -D zipf:0.99 --fill --warmup 1
    echo "-- 50 connections, no pipeline, closed loop"
    "${bench[@]}" -c 50 -k 1000000 -D zipf:0.99 --warmup 1
    echo "-- 20,000 requests/s, open loop"
    "${bench[@]}" -c 50 -k 1000000 -D zipf:0.99 --rate 20000 --warmup 1
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    trap - EXIT
    echo
}

rows=0
for argument in "$@"; do
    case $argument in --rounds | [0-9]*) ;; *) rows=1 ;; esac
done
if [ $rows -eq 0 ]; then
    echo "## One node ($(nproc) cores, $(uname -r))"
    echo
    load "memcached $(memcached --version | cut -d' ' -f2)" memcached
    load "$("$binaries/tandemd" --version)" "$binaries/tandemd"
    echo "## The pair"
    echo
fi
exec cargo bench --locked --quiet --bench pair -- "$@"
