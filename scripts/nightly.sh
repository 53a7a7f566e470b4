#!/usr/bin/env bash
# What takes too long for every change: each part at its full length, then one line for each.
#
#   scripts/nightly.sh                          everything (a night)
#   scripts/nightly.sh simulation chaos         these parts only
#   scripts/nightly.sh --scale 0.01             everything, a hundredth of it
#   scripts/nightly.sh --shard 3/20 mutants     a twentieth of the changes to the code, the same ones every time
#
# Parts: simulation model interleavings differential linear chaos fuzz figures mutants. What each printed is in
# target/nightly/PART.log. Ends with 0 if every part did.
# shellcheck disable=SC2317 # parts are called by their names
set -uo pipefail
cd "$(dirname "$0")/.." || exit

parts=()
scale=1
shard=
while (($# > 0)); do
    case $1 in
    --scale)
        scale=${2:?--scale needs a number, as 0.01}
        shift
        ;;
    --scale=*) scale=${1#*=} ;;
    --shard)
        shard=${2:?--shard needs which of how many, as 3/20}
        shift
        ;;
    -*)
        echo "no such option: $1; see the head of $0" >&2
        exit 2
        ;;
    *) parts+=("$1") ;;
    esac
    shift
done
all=(simulation model interleavings differential linear chaos fuzz figures mutants)
if ((${#parts[@]} == 0)); then
    parts=("${all[@]}")
fi
for part in "${parts[@]}"; do
    if [[ " ${all[*]} " != *" $part "* ]]; then
        echo "no such part: $part; there are: ${all[*]}" >&2
        exit 2
    fi
done

# scaled FULL [LEAST]: that share of FULL, as a whole number.
scaled() {
    awk -v full="$1" -v scale="$scale" -v least="${2:-1}" \
        'BEGIN { number = int(full * scale + 0.5); print (number < least ? least : number) }'
}

simulation() {
    TANDEM_SEEDS=$(scaled 1000000) cargo test --profile fast --locked -p tandem-replication \
        --test simulation every_promise -- --nocapture
}

model() {
    TANDEM_MODEL_DEPTH=12 TANDEM_MODEL_STATES=$(scaled 2000000) cargo test --profile fast --locked \
        -p tandem-replication --test model no_way -- --nocapture --test-threads 1
}

# Threads in as many orders.
interleavings() {
    TANDEM_INTERLEAVINGS=$(scaled 200000 1000) cargo test --profile fast --locked -p tandem-interleavings -- --nocapture
}

differential() {
    TANDEM_DIFF_COMMANDS=$(scaled 1000000) cargo test --profile fast --locked --test differential -- --nocapture
}

linear() {
    TANDEM_LINEAR_REQUESTS=$(scaled 20000000) cargo test --profile fast --locked --test pair linear:: -- --nocapture
}

chaos() {
    scripts/chaos.sh "$(scaled 200)"
}

fuzz() {
    scripts/fuzz.sh "$(scaled 600)"
}

figures() {
    scripts/bench.sh pair --rounds "$scale"
}

# One change to the code at a time: a test must notice it. A share of them, chosen by the day unless told.
mutants() {
    local shards
    if [[ -z $shard ]]; then
        shards=$(awk -v scale="$scale" 'BEGIN { print (scale >= 1 ? 1 : int(1 / scale)) }')
        shard=$(($(date +%s) / 86400 % shards))/$shards
    fi
    command -v cargo-mutants >/dev/null || cargo install --locked --quiet cargo-mutants || return
    # Fewer seeds and states: each change is looked for by all of them.
    TANDEM_SEEDS=300 TANDEM_MODEL_STATES=5000 cargo mutants -p tandem-replication --shard "$shard" \
        --timeout 240 --output target/nightly
    local status=$?
    # 2: some were not noticed. At least nine of ten must be.
    if ((status != 0 && status != 2)); then
        return "$status"
    fi
    local caught missed
    caught=$(cat target/nightly/mutants.out/{caught,timeout}.txt | wc -l)
    missed=$(wc -l <target/nightly/mutants.out/missed.txt)
    echo "$caught of $((caught + missed)) changes were noticed (shard $shard)"
    ((caught * 10 >= (caught + missed) * 9))
}

# summary PART: the line that says most.
summary() {
    local log=target/nightly/$1.log
    case $1 in
    simulation)
        awk '/seeds in/ { for (at = 1; at < NF; at++) if ($at == "in") seconds = $(at + 1)
                printf "%s; %.0f seeds per second\n", $0, $1 / seconds }' "$log"
        ;;
    model)
        awk '/^[0-9]+ states, / { states += $1; steps += $3 } END { print states + 0 " states, " steps + 0 " steps, without an arbiter and with one" }' "$log"
        ;;
    interleavings) awk '/ orders of a/ { orders += $1 } END { print orders + 0 " orders of threads" }' "$log" ;;
    differential) grep -E '^test result' "$log" | tail -1 ;;
    linear) grep -E 'requests in' "$log" ;;
    chaos) awk '/ rounds in / { faults++ } END { print faults + 0 " faults survived" }' "$log" ;;
    fuzz) tail -1 "$log" ;;
    figures) awk -F'|' '/\| met \|/ { met++ } /missed/ { missed++ } END { print met + 0 " rows met, " missed + 0 " missed" }' "$log" ;;
    mutants) grep -E 'changes were noticed' "$log" ;;
    esac
}

mkdir -p target/nightly
ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true
failed=0
lines=()
for part in "${parts[@]}"; do
    echo "== $part (target/nightly/$part.log)"
    began=$SECONDS
    verdict=passed
    if ! "$part" >"target/nightly/$part.log" 2>&1; then
        verdict=FAILED
        failed=1
        tail -40 "target/nightly/$part.log"
    fi
    lines+=("$(printf '%-12s %s %5d s  %s' "$part" "$verdict" $((SECONDS - began)) "$(summary "$part" | tail -1)")")
done
echo
printf '%s\n' "${lines[@]}"
exit $failed
