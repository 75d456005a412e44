#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Installs the Debian packages of packages.txt that this machine lacks; at once
# done when it lacks none. Only root installs: anyone else gets the one command
# to run, since a build that calls sudo by itself is a surprise.
set -u
list=$(dirname "$0")/packages.txt

wanted() {
	sed 's/#.*//' "$list" | tr -s ' \t\n' '\n' | sed '/^$/d'
}

installed() {
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
		sed -n 's/^installed //p' | sort -u
}

if ! command -v dpkg-query >/dev/null; then
	echo "deps: not a Debian system; needed are: $(wanted | xargs)"
	exit 1
fi
missing=$(comm -23 <(wanted | sort -u) <(installed) | xargs)
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "deps: some Debian packages are missing; run, then try again:"
	echo "  sudo apt-get install -y --no-install-recommends $missing"
	exit 1
fi

echo "deps: installing $missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Old lists name versions the mirror no longer has (and a fresh machine has no
# lists at all), so a failure is tried once more with new ones.
get() {
	# shellcheck disable=SC2086 # one word per package
	apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 \
		-o DPkg::Lock::Timeout=300 $missing >"$log" 2>&1
}
if get; then
	exit 0
fi
echo "deps: refreshing the package lists"
if ! apt-get update -o Acquire::Retries=3 >"$log" 2>&1; then
	tail -20 "$log"
	echo "deps: apt-get update failed; is the Debian mirror reachable?"
	exit 1
fi
if ! get; then
	tail -20 "$log"
	echo "deps: apt-get could not install: $missing"
	exit 1
fi
