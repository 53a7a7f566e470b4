#!/usr/bin/env bash
# Builds, starts a pair on loopback, kills its master, and shows what happens.
#
#   scripts/demo.sh [--keep] [--items N] [--profile fast|lan|wan]
set -euo pipefail
cd "$(dirname "$0")/.."
echo "building (a few minutes the first time)…"
cargo build --profile fast --locked --quiet --bins --example demo
exec "${CARGO_TARGET_DIR:-target}/fast/examples/demo" "$@"
