#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Every program has a man page, and mandoc has nothing to say against any.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
for name in hvd hv tmem-ctl; do
	compgen -G "docs/man/$name.[1-8]" >/dev/null || {
		echo "man-lint: $name has no page in docs/man"
		bad=1
	}
done
for page in docs/man/*.[1-8] guest-drivers/linux/package/*.[1-8]; do
	[ -f "$page" ] || continue
	mandoc -T lint -W warning "$page" || bad=1
done
exit $bad
