#!/usr/bin/env bash
# Builds the memcached to compare with, which this Debian does not have: 1.6.45 or newer, from the source in Debian
# unstable. It ends in target/anchors, nothing is installed. If it cannot be had the benches use the installed one;
# docs/performance.md says which it was.
#
#   scripts/anchors.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need cc:gcc make:make xz:xz-utils dpkg-source:dpkg-dev
need_packages libevent-dev

anchors=$PWD/target/anchors
apt=$anchors/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"

# From where this system gets its packages, so from wherever it is allowed to.
# shellcheck disable=SC2016 # apt-get's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
signed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
echo "deb-src $signed $mirror sid main" >"$apt/sources.list"
options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update

failed=0
cd "$apt"
if [ ! -x "$anchors/memcached" ]; then
    # The upstream source alone; Debian's own part of it is about installing.
    apt-get "${options[@]}" source --download-only --tar-only memcached
    tar xf memcached_*.orig.tar.*
    (cd memcached-*/ && ./configure --quiet --disable-docs >/dev/null && make --quiet -j2 memcached >/dev/null 2>&1) &&
        cp memcached-*/memcached "$anchors/memcached" || failed=1
fi
if ! "$anchors/memcached" --version; then
    echo "a newer memcached could not be had or does not run here" >&2
    failed=1
fi
exit $failed
