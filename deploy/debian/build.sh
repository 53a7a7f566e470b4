#!/bin/sh
# Builds the Debian package from the programs that are built already.
#   build.sh [DIRECTORY OF PROGRAMS] [OUTPUT DIRECTORY]      default: target/release target
# Needs dpkg-dev. Prints the package's path.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
programs=$(cd "${1:-$root/target/release}" && pwd)
mkdir -p "${2:-$root/target}"
output=$(cd "${2:-$root/target}" && pwd)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

put() { # mode, destination directory, files
    mode=$1 to=$tree/$2 && shift 2
    install -d "$to"
    install -m "$mode" "$@" "$to"
}

put 755 usr/bin "$programs/tandemd" "$programs/tandemctl"
strip --strip-unneeded "$tree/usr/bin/tandemd" "$tree/usr/bin/tandemctl"
put 644 usr/lib/systemd/system "$root/deploy/systemd/tandemd.service" "$root/deploy/systemd/tandemd@.service" \
    "$root/deploy/systemd/tandemd.socket"
install -D -m 644 "$root/deploy/systemd/tandemd.sysusers" "$tree/usr/lib/sysusers.d/tandemd.conf"
install -D -m 644 "$root/deploy/systemd/tandemd.tmpfiles" "$tree/usr/lib/tmpfiles.d/tandemd.conf"
install -D -m 644 "$root/deploy/systemd/tandemd.default" "$tree/etc/default/tandemd"
# Manual pages and completions are what the programs themselves say.
"$tree/usr/bin/tandemctl" generate "$work/generated"
put 644 usr/share/man/man1 "$work"/generated/man1/*.1
gzip -9n "$tree"/usr/share/man/man1/*.1
for program in tandemd tandemctl; do
    install -D -m 644 "$work/generated/bash/$program.bash" "$tree/usr/share/bash-completion/completions/$program"
    install -D -m 644 "$work/generated/zsh/_$program" "$tree/usr/share/zsh/vendor-completions/_$program"
    install -D -m 644 "$work/generated/fish/$program.fish" "$tree/usr/share/fish/vendor_completions.d/$program.fish"
done
put 644 usr/share/doc/tandemd "$root"/docs/*.md
install -d "$tree/usr/share/doc/tandemd/examples"
for example in haproxy keepalived nutcracker prometheus grafana kubernetes container repcached; do
    cp -r "$root/deploy/$example" "$tree/usr/share/doc/tandemd/examples/"
done
put 644 usr/share/doc/tandemd/examples "$root/deploy/systemd/tandem.toml"
sed 's/^/ /; s/^ $/ ./' "$root/LICENSE-MIT" >"$work/license"
{
    echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    echo
    echo "Files: *"
    echo "Copyright: 2026 The Tandem developers"
    echo "License: MIT or Apache-2.0"
    cat "$work/license"
} >"$tree/usr/share/doc/tandemd/copyright"
# Whatever the builder's umask is.
find "$tree" -type d -exec chmod 755 {} +
find "$tree/usr/share/doc" -type f ! -perm -100 -exec chmod 644 {} +

install -d "$tree/DEBIAN" "$work/debian"
echo /etc/default/tandemd >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$root/deploy/debian/$script" "$tree/DEBIAN/$script"
done
printf 'Source: tandemd\n\nPackage: tandemd\nArchitecture: any\n' >"$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O "$tree/usr/bin/tandemd" "$tree/usr/bin/tandemctl" 2>/dev/null |
    sed -n 's/^shlibs:Depends=//p')
(cd "$tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: tandemd
Version: $version
Architecture: $architecture
Maintainer: The Tandem developers <tandem@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f 1)
Depends: $libraries, systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
Section: database
Priority: optional
Description: replicating memcached: two nodes that behave as one
 Two nodes, each a drop-in memcached server. One is the master and streams
 every change to the other, its backup. When the master dies the backup takes
 over by itself; the dead node comes back as a backup by itself.
 .
 Clients speak the standard memcached protocol to either node.
CONTROL
package=$output/tandemd_${version}_$architecture.deb
# There as a whole or not at all, also for whoever copies it while another build ends.
draft=$(mktemp -d -p "$output")
trap 'rm -rf "$work" "$draft"' EXIT
dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$tree" "$draft/package.deb" >/dev/null
mv -f "$draft/package.deb" "$package"
echo "$package"
