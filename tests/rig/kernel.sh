#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# kernel.sh 6.1|6.1-full|6.12: prints the folder with that Debian kernel, fetching
# and unpacking it into build/rig on first use:
#
#   build/rig/kernel-6.1/vmlinuz
#   build/rig/kernel-6.1/lib/modules/VERSION/   (depmod has run)
#
# They are the smaller ones, for clouds; -full is the other, linux-image-amd64. 6.1
# is Debian 12's own and has no UFFDIO_MOVE; 6.12 is from bookworm-backports, read
# through a private apt configuration under build/, so the machine's own sources
# stay as they are. Exit code 77: that kernel cannot be had here.
set -u
cd "$(dirname "$0")/../.." || exit 1
target=${1:?usage: kernel.sh 6.1|6.1-full|6.12}
flavour=${target%-full}
rig=$PWD/build/rig
out=$rig/kernel-$target
. tests/rig/apt.sh

case $target in
6.1 | 6.12) meta=linux-image-cloud-amd64 ;;
6.1-full) meta=linux-image-amd64 ;;
*)
	echo "kernel: no kernel $target here, only 6.1, 6.1-full and 6.12" >&2
	exit 1
	;;
esac

if [ -f "$out/vmlinuz" ]; then
	echo "$out"
	exit 0
fi
mkdir -p "$rig/cache"
exec 9>"$rig/kernel.lock"
flock 9
if [ -f "$out/vmlinuz" ]; then # another run was faster
	echo "$out"
	exit 0
fi

say() {
	echo "kernel: $*" >&2
}

# The package behind the metapackage: linux-image-VERSION-cloud-amd64, or without
# cloud.
package() {
	apt-cache "${private[@]}" depends $meta 2>/dev/null |
		awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2 }' |
		head -1
}

fetch() {
	local name
	name=$(package)
	[ -n "$name" ] || return 1
	say "fetching $name"
	apt_download "$rig/cache" "$name" \
		>"$rig/kernel-$target.log" 2>&1 || return 1
	deb=$(find "$rig/cache" -name "${name}_*.deb" | sort -V | tail -1)
	[ -n "$deb" ]
}

deb=
if ! apt_try fetch; then
	say "Debian's kernel $target is not reachable from here"
	exit 77
fi

tmp=$rig/kernel-$target.tmp
rm -rf "$tmp" "$out"
mkdir -p "$tmp"
dpkg-deb -x "$deb" "$tmp" || exit 1
find "$tmp/lib/modules" -name '*.ko.xz' -exec xz -d {} + || exit 1
version=$(basename "$tmp"/lib/modules/*)
PATH=$PATH:/usr/sbin:/sbin depmod -b "$tmp" "$version" || exit 1
mv "$tmp/boot/vmlinuz-$version" "$tmp/vmlinuz" || exit 1
rm -rf "${tmp:?}/boot" "${tmp:?}/usr"
mv "$tmp" "$out" || exit 1
echo "$out"
