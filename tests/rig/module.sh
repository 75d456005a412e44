#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# module.sh 6.1|6.1-full|6.12: builds guest-drivers/linux for the Debian kernel
# that tests/rig/kernel.sh gives, with the compiler's and (if installed) sparse's
# extra warnings, all of them errors, and prints the module's path:
#
#   build/rig/module-6.1/linux/tidepool_tmem.ko
#
# A copy of the sources is built, so the tree stays clean. Of the headers'
# packages (fetched into build/rig, nothing is installed) only the version of
# the rig's kernel will do. Exit code 77: the headers cannot be had here.
set -u
cd "$(dirname "$0")/../.." || exit 1
target=${1:?usage: module.sh 6.1|6.1-full|6.12}
flavour=${target%-full}
rig=$PWD/build/rig
kdir=$(tests/rig/kernel.sh "$target") || exit $?
version=$(basename "$kdir"/lib/modules/*)
release=${version%-amd64}
release=${release%-cloud}
headers=$rig/headers-$target
out=$rig/module-$target
. tests/rig/apt.sh

say() {
	echo "module: $*" >&2
}

# Names of the packages whose contents a build for this kernel needs.
packages() {
	echo "linux-headers-$version linux-headers-$release-common"
	[ "$flavour" = 6.1 ] && echo linux-kbuild-6.1 ||
		echo "linux-kbuild-$release"
}

fetch() { # all packages, into the folder given
	# shellcheck disable=SC2046
	apt_download "$1" $(packages) >"$rig/headers-$target.log" 2>&1
}

# One Makefile names the common part by an absolute path.
unpack() { # debs, root
	local deb
	for deb in "$1"/*.deb; do
		dpkg-deb -x "$deb" "$2" || return 1
	done
	sed -i "s,/usr/src/,$headers/usr/src/," \
		"$2/usr/src/linux-headers-$version/Makefile"
}

mkdir -p "$rig"
exec 9>"$rig/headers.lock"
flock 9
if [ ! -d "$headers" ]; then
	tmp=$rig/headers-$target.tmp
	rm -rf "$tmp"
	mkdir -p "$tmp/debs" "$tmp/root"
	say "fetching the headers of $version"
	if ! apt_try fetch "$tmp/debs"; then
		say "the headers of $version are not reachable from here"
		exit 77
	fi
	unpack "$tmp/debs" "$tmp/root" || exit 1
	mv "$tmp/root" "$headers" || exit 1
	rm -rf "$tmp"
fi

ko=$out/linux/tidepool_tmem.ko
if [ -f "$ko" ] && [ -z "$(find guest-drivers tests/rig/module.sh \
	-newer "$ko" -print -quit)" ]; then
	echo "$ko"
	exit 0
fi
rm -rf "$out"
mkdir -p "$out"
cp -r guest-drivers/abi guest-drivers/mini guest-drivers/linux "$out" || exit 1
check=()
command -v sparse >/dev/null && check=(C=1 "CF=-Wsparse-error")
make -C "$headers/usr/src/linux-headers-$version" M="$out/linux" W=1 \
	KCFLAGS=-Werror CONFIG_DEBUG_INFO_BTF_MODULES= "${check[@]}" modules \
	>"$out/log" 2>&1 || {
	say "build failed:"
	cat "$out/log" >&2
	exit 1
}
if grep -q 'warning:' "$out/log"; then
	grep 'warning:' "$out/log" >&2
	rm -f "$ko"
	exit 1
fi
echo "$ko"
