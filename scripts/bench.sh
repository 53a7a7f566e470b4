#!/usr/bin/env bash
# Measures everything that is claimed. Nothing else should run on the machine.
#
#   scripts/bench.sh                      everything
#   scripts/bench.sh --short              the same with fewer rounds
#   scripts/bench.sh memory hits          these sections only
#   scripts/bench.sh kill switchover      these rows of the pair's promises only
#   scripts/bench.sh --rounds 0.1 pair    a tenth of the rounds of the pair's promises
#   scripts/bench.sh --dry loads          prints, and leaves docs/performance.md as it is
#   scripts/bench.sh --list               names sections and rows
#
# One node beside memcached (scripts/anchors.sh) and redis-server (loads, forms, latency, curve, memory, hits, service,
# scaling), the cost of a live backup and of waiting for it (backup, ack), what clients see of a failover (failover) and the load generator
# beside another one (generator) go into docs/performance.md; so do their pictures. Then come the
# instructions of a request (instructions), and the pair's promises (pair), each with what must be reached.
# PROFILE=fast measures the build that is made faster.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need ss:iproute2

server_sections=(loads forms latency curve memory hits service scaling backup ack failover generator)
profile=${PROFILE:-bench}
promises() {
    cargo bench --locked --quiet --profile "$profile" --bench pair -- "$@"
}

server=() # sections of one node
rows=()   # rows of the pair's promises
flags=()  # of the sections
rounds=() # of the promises
instructions=0 pair=0 chosen=0
while (($# > 0)); do
    case $1 in
    --short)
        flags+=(--rounds 2 --seconds 1)
        rounds=(--rounds 0.1)
        ;;
    --dry) flags+=(--dry) ;;
    --rounds)
        rounds=(--rounds "${2:?--rounds needs a share, as 0.1}")
        shift
        ;;
    --list)
        printf '%s\n' "${server_sections[@]}" instructions pair
        promises --list
        exit
        ;;
    instructions) instructions=1 chosen=1 ;;
    pair) pair=1 chosen=1 ;;
    -*)
        echo "no such option: $1; see the head of $0" >&2
        exit 2
        ;;
    *)
        chosen=1
        if [[ " ${server_sections[*]} " == *" $1 "* ]]; then server+=("$1"); else rows+=("$1"); fi
        ;;
    esac
    shift
done
if ((chosen == 0)); then
    server=("${server_sections[@]}") instructions=1 pair=1
fi

if ((${#server[@]} > 0)); then
    scripts/bench-server.sh "${server[@]}" "${flags[@]}"
fi
if ((instructions)); then
    scripts/instructions.sh
fi
if ((pair || ${#rows[@]} > 0)); then
    echo "## The pair"
    echo
    promises "${rows[@]}" "${rounds[@]}"
fi
