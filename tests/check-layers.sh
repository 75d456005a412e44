#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Which folder may include which: the arrows of docs/design.md. A new arrow is a
# change of the design and belongs there first.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
allow() { # layer "allowed folders"
	found=$(grep -Hno '#include "[^"]*/' "$1"/*.[ch] 2>/dev/null |
		sed 's/#include "//; s,/$,,')
	for line in $found; do
		to=${line##*:}
		case " $1 $2 " in
		*" $to "*) ;;
		*)
			echo "check-layers: ${line%:*} includes $to/," \
				"but $1 may include only: ${2:-nothing}"
			bad=1
			;;
		esac
	done
}
allow hv/base ""
allow guest-drivers/mini "../abi"
allow tmem "hv/base"
allow hv/line "hv/base tmem guest-drivers/abi"
allow hv/mm "hv/base tmem"
allow sharing "hv/base hv/mm tmem"
allow hv/agent "hv/base hv/line hv/mm sharing tmem"
allow hv/daemon "hv/base hv/line hv/mm sharing tmem"
allow hv/libhv "hv/base"
allow hv/ctl "hv/base hv/libhv guest-drivers/abi"
[ $bad = 0 ] && echo "check-layers: every arrow points the right way"
exit $bad
