#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Further arguments go to the test runner.
#
#   scripts/test.sh                 everything
#   scripts/test.sh failover        tests whose name contains `failover`
#   SEEDS=100000 scripts/test.sh    more seeds for the simulation
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

# The reference server and its tools; namespaces, filters and mounts for the pair; the programs that
# deploy/ is for; real clients; a browser for the status page.
need memccapable:libmemcached-tools memcached:memcached ss:iproute2 ip:iproute2 nft:nftables etcd:etcd-server mount:mount \
    haproxy:haproxy keepalived:keepalived nutcracker:nutcracker prometheus:prometheus \
    systemd-analyze:systemd dpkg-shlibdeps:dpkg-dev strip:binutils nc:netcat-openbsd php:php-cli python3:python3 perl:perl cc:gcc \
    chromium:chromium chromedriver:chromium-driver curl:curl script:bsdutils mandoc:mandoc
need_packages php-memcached libmemcached-dev python3-yaml python3-venv

# The clients of docs/clients.md that Debian has, with their languages.
need ruby:ruby go:golang-go javac:default-jdk-headless
need_packages ruby-dalli ruby-activesupport golang-github-bradfitz-gomemcache-dev libspymemcached-java

# A Python of the tests' own, for clients that Debian does not have.
if [ ! -x target/python/bin/python ] || ! target/python/bin/python -c 'import pymemcache, django' 2>/dev/null; then
    python3 -m venv target/python
    target/python/bin/python -m pip install --quiet pymemcache==4.0.0 Django==5.2
fi
export TANDEM_PYTHON="$PWD/target/python/bin/python"

# Node's clients, where there is an npm; its tests say so where there is none.
if command -v npm >/dev/null && [ ! -d target/node/node_modules/memjs ]; then
    mkdir -p target/node
    npm install --silent --no-audit --no-fund --prefix target/node memjs@1.3.2 memcached@2.2.2 ||
        echo "npm cannot install memjs and memcached: what needs them is skipped" >&2
fi
export TANDEM_NODE_MODULES="$PWD/target/node/node_modules"

# The pair's tests have one failing test start many processes; the default of 1024 files is tight.
ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true

# What is run on both ways of doing I/O (`--io`): everything about one node's connections, and a pair's changes of role.
BOTH='binary(server) and not test(/warm|migration|process/) or binary(pair) and test(/failover|switchover|hang|replicate/)'

status=0
cargo test --workspace --locked --doc || status=$?
if command -v cargo-nextest >/dev/null; then
    echo "== on io_uring, if it is allowed here"
    TANDEM_IO=auto cargo nextest run --locked --test server --test pair --no-tests pass -E "$BOTH" "$@" || status=$?
    echo "== everything, on epoll"
    cargo nextest run --workspace --locked "$@" || status=$?
else
    # Pairs one after the other: they measure silence. The rest as the runner likes.
    cargo test --workspace --locked --no-fail-fast --lib --bins --examples "$@" || status=$?
    TANDEM_IO=auto cargo test --locked --no-fail-fast --test server "$@" -- --test-threads=2 || status=$?
    cargo test --workspace --locked --no-fail-fast --test '*' "$@" -- --test-threads=2 || status=$?
fi
exit "$status"
