# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Sourced by what fetches packages of Debian's kernel $flavour into $rig. The
# machine's own sources may have 6.1, which is Debian 12's. Where they have not,
# a private apt configuration in $rig/apt-$flavour is used, so that they stay as
# they are.

mirror=${DEBIAN_MIRROR:-http://deb.debian.org}
private=() # options that make apt use $rig/apt-$flavour alone

private_apt() {
	# shellcheck disable=SC2154 # the caller's
	local apt=$rig/apt-$flavour suites=bookworm-backports s path
	[ "$flavour" = 6.1 ] &&
		suites="bookworm bookworm-updates bookworm-security"
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/sources.list"
	for s in $suites; do
		path=debian
		[ "$s" = bookworm-security ] && path=debian-security
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
			"$mirror/$path $s main" >>"$apt/sources.list"
	done
	private=(-o "Dir::Etc::SourceList=$apt/sources.list"
		-o Dir::Etc::SourceParts=/dev/null
		-o "Dir::State::Lists=$apt/lists"
		-o "Dir::Cache=$apt/cache"
		-o APT::Sandbox::User=root)
	apt-get "${private[@]}" -o Acquire::Retries=3 update >"$apt/log" 2>&1
}

apt_download() { # folder, packages
	(cd "$1" && apt-get "${private[@]}" -o Acquire::Retries=3 \
		-o APT::Sandbox::User=root download "${@:2}")
}

apt_try() { # a command that downloads, with one configuration or the other
	[ "$flavour" = 6.1 ] && "$@" && return
	private_apt
	"$@"
}
