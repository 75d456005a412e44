#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# module.sh 6.1|6.12: builds guest-drivers/linux for the Debian kernel that
# tests/rig/kernel.sh gives, with the compiler's and (if installed) sparse's
# extra warnings, all of them errors, and prints the module's path:
#
#   build/rig/module-6.1/linux/tidepool_tmem.ko
#
# A copy of the sources is built, so the tree stays clean. Of the headers'
# packages (fetched into build/rig, nothing is installed) only the version of
# the rig's kernel will do. Exit code 77: the headers cannot be had here.
set -u
cd "$(dirname "$0")/../.." || exit 1
flavour=${1:?usage: module.sh 6.1|6.12}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org}
rig=$PWD/build/rig
kdir=$(tests/rig/kernel.sh "$flavour") || exit $?
version=$(basename "$kdir"/lib/modules/*)
headers=$rig/headers-$flavour
out=$rig/module-$flavour

say() {
	echo "module: $*" >&2
}

# Names of the packages whose contents a build for this kernel needs.
packages() {
	case $flavour in
	6.1)
		echo "linux-headers-$version linux-kbuild-6.1" \
			"linux-headers-${version%-cloud-amd64}-common"
		;;
	*)
		echo "linux-headers-$version" \
			"linux-headers-${version%-cloud-amd64}-common" \
			"linux-kbuild-${version%-cloud-amd64}"
		;;
	esac
}

private=() # options that make apt use build/rig/apt-FLAVOUR alone
private_apt() {
	local apt=$rig/apt-$flavour suite
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/sources.list"
	for suite in "$@"; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
			"$mirror/$suite main" >>"$apt/sources.list"
	done
	private=(-o "Dir::Etc::SourceList=$apt/sources.list"
		-o Dir::Etc::SourceParts=/dev/null
		-o "Dir::State::Lists=$apt/lists"
		-o "Dir::Cache=$apt/cache"
		-o APT::Sandbox::User=root)
	apt-get "${private[@]}" -o Acquire::Retries=3 update >"$apt/log" 2>&1
}

download() { # all packages, into the folder given
	# shellcheck disable=SC2046
	(cd "$1" && apt-get "${private[@]}" -o Acquire::Retries=3 \
		-o APT::Sandbox::User=root download $(packages)) \
		>"$rig/headers-$flavour.log" 2>&1
}

fetch() {
	if [ "$flavour" = 6.1 ]; then
		download "$1" && return # with the machine's own sources
		private_apt "debian bookworm" "debian bookworm-updates" \
			"debian-security bookworm-security"
	else
		private_apt "debian bookworm-backports"
	fi
	download "$1"
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
	tmp=$rig/headers-$flavour.tmp
	rm -rf "$tmp"
	mkdir -p "$tmp/debs" "$tmp/root"
	say "fetching the headers of $version"
	if ! fetch "$tmp/debs"; then
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
