#!/usr/bin/env bash
# Feeds everything that reads bytes from outside with bytes that mean no good, guided by coverage
# (libFuzzer; the stable compiler instruments the code). Fails if something crashes.
#
#   scripts/fuzz.sh                60 seconds for each target
#   scripts/fuzz.sh 600 text meta  10 minutes for each of these
#
# What was learnt stays in fuzz/target/corpus and helps the next run; what crashed is in fuzz/artifacts:
# give it a named test, then repair it.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

# libFuzzer is C++.
need c++:g++

seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=fuzz/target
programs=fuzz/target/$host/release

# The product's versions of everything; what only fuzzing needs is added.
cp Cargo.lock fuzz/Cargo.lock
# With --target, build scripts and macros are not instrumented: they have no libFuzzer to report to.
RUSTFLAGS="-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$host" --bin fuzz
# The seeds' program has no libFuzzer, so it is built without.
cargo run --quiet --manifest-path fuzz/Cargo.toml --bin seeds -- fuzz/target/seeds
longest=$(cargo run --quiet --manifest-path fuzz/Cargo.toml --bin seeds)

failed=()
while read -r target length; do
    if (($# > 0)) && [[ " $* " != *" $target "* ]]; then
        continue
    fi
    mkdir -p "fuzz/target/corpus/$target" fuzz/artifacts
    echo "== $target: $seconds s"
    log=fuzz/target/$target.log
    if ! FUZZ_TARGET=$target "$programs/fuzz" -max_total_time="$seconds" -max_len="$length" \
        -rss_limit_mb=1024 -timeout=10 -artifact_prefix="fuzz/artifacts/$target-" \
        -dict=fuzz/dictionary.txt -print_final_stats=1 \
        "fuzz/target/corpus/$target" "fuzz/target/seeds/$target" >"$log" 2>&1; then
        failed+=("$target")
        tail -40 "$log"
    fi
    grep -E '^stat::(number_of_executed_units|peak_rss_mb)' "$log" || true
    grep -E 'cov: ' "$log" | tail -1 | sed 's/^.*cov: /coverage: /' || true
done <<<"$longest"

if ((${#failed[@]})); then
    echo "crashed: ${failed[*]}; the inputs are in fuzz/artifacts"
    exit 1
fi
echo "no target crashed"
