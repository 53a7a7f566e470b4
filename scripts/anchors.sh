#!/usr/bin/env bash
# Fetches servers to compare with that this Debian does not have: memcached 1.6.45, built from the source in Debian
# unstable, and Valkey from this Debian's backports. They end in target/anchors, nothing is installed. What cannot be
# had is named; the benches then do without it and say so.
#
#   scripts/anchors.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh
need cc:gcc make:make xz:xz-utils dpkg-source:dpkg-dev
need_packages libevent-dev liblzf1 libjemalloc2

anchors=$PWD/target/anchors
apt=$anchors/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"

# From where this system gets its packages, so from wherever it is allowed to.
# shellcheck disable=SC2016 # apt-get's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
signed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
{
    echo "deb-src $signed $mirror sid main"
    echo "deb $signed $mirror $release-backports main"
} >"$apt/sources.list"
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
if [ ! -x "$anchors/valkey-server" ]; then
    apt-get "${options[@]}" download valkey-server valkey-tools &&
        for package in valkey-*.deb; do dpkg -x "$package" valkey; done &&
        cp valkey/usr/bin/valkey-server valkey/usr/bin/valkey-benchmark "$anchors/" || failed=1
fi
cd "$anchors"
for program in memcached valkey-server; do
    if [ -x "$program" ] && "./$program" --version; then
        continue
    fi
    echo "$program could not be had or does not run here" >&2
    failed=1
done
exit $failed
