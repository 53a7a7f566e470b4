#!/usr/bin/env bash
# Guards the hot path: instructions per operation against those of benches/instructions/measure.txt. A figure that a busy
# machine does not change, and small enough to build that CI can have it.
#
#   scripts/guard.sh            counts, and fails if an operation is dearer than the measure and the tolerance
#   scripts/guard.sh --save     counts, and makes that the new measure
#
# What is counted is everything between a client's bytes and the reply's, without sockets: protocol, engine and, for
# what is recorded, the backlog. scripts/instructions.sh counts the whole server, which takes minutes to build.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need valgrind:valgrind

measure=$PWD/benches/instructions/measure.txt
tolerance_percent=5
operations=16000
names="get get-pipeline-16 get-16-keys meta-get set set-recorded set-pipeline-16 set-pipeline-16-recorded"

cd benches/instructions
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-../../target}/instructions"
cargo build --release --locked --quiet
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# instructions NAME: of one operation.
instructions() {
    valgrind -q --tool=callgrind --collect-atstart=no --toggle-collect='instructions::measured*' \
        --callgrind-out-file="$work/$1" "$CARGO_TARGET_DIR/release/instructions" "$1" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; return 1; }
    awk -v operations="$operations" '/^(summary|totals):/ { printf "%d\n", $2 / operations; exit }' "$work/$1"
}

for name in $names; do
    echo "$name $(instructions "$name")" >>"$work/counts"
done
if [ "${1:-}" = --save ]; then
    {
        echo "# Instructions of one operation between bytes and bytes: scripts/guard.sh --save"
        cat "$work/counts"
    } >"$measure"
fi
status=0
while read -r name now; do
    before=$(awk -v name="$name" '$1 == name { print $2 }' "$measure")
    if [ -z "$before" ]; then
        echo "$name: no measure; scripts/guard.sh --save makes one" >&2
        exit 1
    fi
    most=$((before * (100 + tolerance_percent) / 100))
    if [ "$now" -le 0 ] || [ "$now" -gt "$most" ]; then
        echo "$name: $now instructions for an operation, measure $before, tolerance $tolerance_percent %: at most $most" >&2
        status=1
    else
        printf '%-26s %6d, measure %6d\n' "$name" "$now" "$before"
    fi
done <"$work/counts"
if [ $status -ne 0 ]; then
    echo "dearer than it was: find out why, or accept it with scripts/guard.sh --save" >&2
fi
exit $status
