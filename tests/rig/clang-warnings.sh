#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Shows clang every C file with the warnings of the house (gcc sees them in the
# build); two of them only clang has, and each has caught a defect.
set -u
cd "$(dirname "$0")/../.." || exit 1
find hv tmem sharing bench tests guest-drivers/mini \
	guest-drivers/linux/package -name '*.c' -print0 |
	xargs -0 -n 8 -P "$(nproc)" clang -fsyntax-only -std=c11 -O2 \
	-I. -D_GNU_SOURCE -Wall -Wextra -Werror -Wshadow -Wundef \
	-Wmissing-prototypes -Wstrict-prototypes -Wcast-qual -Wwrite-strings \
	-Wvla -Wconditional-uninitialized -Wshorten-64-to-32
