#!/usr/bin/env bash
# Measures one node beside Debian's memcached and redis-server, and writes docs/performance.md.
#
#   scripts/bench-server.sh                         everything
#   scripts/bench-server.sh loads --rounds 3        one part: loads, latency, memory, hits, service, scaling, backup or ack
#   scripts/bench-server.sh hits --dry              only prints
#   PROFILE=fast scripts/bench-server.sh memory     with the build that is made faster
#
# Servers run on the first core, the load on the others. Other work on the machine widens the spread.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need memcached:memcached redis-server:redis-server redis-benchmark:redis-tools taskset:util-linux

ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true
profile=(--profile "${PROFILE:-bench}")
cargo bench --locked --quiet "${profile[@]}" --bench server --no-run
last=$(($(nproc) - 1))
exec taskset -c "$((last > 0 ? 1 : 0))-$last" cargo bench --locked --quiet "${profile[@]}" --bench server -- "$@"
