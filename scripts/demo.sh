#!/usr/bin/env bash
# Builds, starts a pair on loopback, kills its master, and shows what happens.
#
#   scripts/demo.sh [--keep] [--items N] [--profile fast|lan|wan]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --bins --example demo
exec "${CARGO_TARGET_DIR:-target}/release/examples/demo" "$@"
