#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# guest-drivers/mini is for guests without a C library: it has to compile as
# C99 with no header but the compiler's own, by both compilers and for another
# processor, and to need no function but memcpy.
set -u
cd "$(dirname "$0")/../.." || exit 1
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
flags=(-std=c99 -pedantic -ffreestanding -O2 -Wall -Wextra -Werror -Wshadow
	-Wundef -Wmissing-prototypes -Wcast-qual -Wwrite-strings -Wvla)
bad=0

compiles() { # name compiler...
	local name=$1 file needs
	shift
	for file in guest-drivers/mini/*.c; do
		if ! "$@" "${flags[@]}" -c "$file" -o "$out/o"; then
			echo "mini-lint: $file does not compile: $name"
			bad=1
			continue
		fi
		needs=$(nm -u "$out/o" | awk '$2 != "memcpy" { print $2 }')
		if [ -n "$needs" ]; then
			echo "mini-lint: $file needs, by $name:" $needs
			bad=1
		fi
	done
}

compiles gcc gcc -nostdinc -isystem "$(gcc -print-file-name=include)"
compiles clang clang -nostdlibinc
compiles "clang for arm64" clang --target=aarch64-none-elf -nostdlibinc
[ $bad = 0 ] && echo "mini-lint: C99, freestanding, memcpy alone"
exit $bad
