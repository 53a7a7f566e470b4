#!/usr/bin/env bash
# The gate: everything that is judged without running the product. Changes nothing (scripts/fix.sh does).
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo "== $*"
    "$@"
}

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --document-private-items --locked
step cargo test --locked --test tidy
if command -v cargo-deny >/dev/null; then
    # Advisories too, where their database can be fetched: cargo deny check advisories.
    step cargo deny --locked check bans licenses sources
else
    echo "== cargo-deny is not installed: bans, licences and sources were not checked (cargo install cargo-deny)"
fi
if command -v shellcheck >/dev/null; then
    step shellcheck -x scripts/*.sh .ci/run
else
    echo "== shellcheck is not installed: scripts were not checked (apt-get install shellcheck)"
fi
echo "== clean"
