#!/usr/bin/env bash
# Makes bad days for a pair of real processes in network namespaces, under load, and compares both nodes
# after each. Fails if they differ, if something old is back, or if more is lost than is promised.
#
#   scripts/chaos.sh                      20 rounds of every fault
#   scripts/chaos.sh 200 kill,hang,cut    200 rounds of these (tests/pair/chaos.rs names them)
#
# Needs root, for namespaces, packet filters and a narrow cable. Ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need ip:iproute2 ss:iproute2 tc:iproute2 nft:nftables

ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true
export TANDEM_CHAOS_ROUNDS=${1:-20}
if [ $# -gt 1 ]; then
    export TANDEM_CHAOS=$2
fi
exec cargo test --profile "${PROFILE:-fast}" --locked --quiet --test pair after_every_bad_day -- --nocapture
