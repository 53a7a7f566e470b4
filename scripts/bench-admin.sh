#!/usr/bin/env bash
# Measures what the admin port and its page cost: a scrape, a paint, and what clients pay for both.
#
#   scripts/bench-admin.sh                  everything (a minute or two beside the build)
#   scripts/bench-admin.sh --rounds 0.2     a fifth of the rounds
#   PROFILE=fast scripts/bench-admin.sh     with the build that is made faster
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need chromium:chromium chromedriver:chromium-driver

ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true
cargo bench --locked --quiet --profile "${PROFILE:-release}" --bench admin -- "$@"
