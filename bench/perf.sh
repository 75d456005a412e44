#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Where the time of a bench or a test goes.
#
#   bench/perf.sh NAME [ARG...]   NAME: a bench (scale), a tool (bench/store) or
#                                 a test (tests/test_domain); ARGs are its own
#   bench/perf.sh probes          what the tracepoints cost while nobody watches
#
# linux-perf where the machine allows it: on cycles where there is a counter, on
# the CPU clock where there is none (most virtual machines). Else callgrind,
# which counts instructions: slow, but the same on every machine.
# TIDEPOOL_PERF=callgrind asks for that. Reports go to $BUILD/perf/NAME.*
set -eu
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
NAME=${1:?usage: bench/perf.sh NAME [ARG...] | probes}
shift
OUT=$BUILD/perf
STEM=$OUT/$(basename "$NAME")
mkdir -p "$OUT"

program() {
	if [ -x "bench/${NAME}_bench.py" ]; then
		echo "bench/${NAME}_bench.py"
	elif [ -x "$BUILD/$NAME" ]; then
		echo "$BUILD/$NAME"
	else
		echo "perf.sh: no bench $NAME and no $BUILD/$NAME" >&2
		return 1
	fi
}

# The event that can be sampled here, the kernel's part included; nothing where
# perf may not run, which $OUT/refused then explains. perf falls back on its own
# from a counter the machine lacks to the clock, of user mode alone: not that.
event() {
	: >"$OUT/refused"
	command -v perf >/dev/null || {
		echo "no perf here (Debian: linux-perf)" >"$OUT/refused"
		return
	}
	for event in cycles cpu-clock cpu-clock:u; do
		if perf record -q -e "$event" -o "$OUT/try" true \
			>"$OUT/said" 2>&1 && [ -s "$OUT/try" ] &&
			perf evlist -i "$OUT/try" 2>>"$OUT/said" |
			grep -q "^${event%:u}"; then
			rm -f "$OUT/try" "$OUT/said" "$OUT/refused"
			echo "$event"
			return
		fi
		sed "s/^/$event: /" "$OUT/said" >>"$OUT/refused"
	done
	rm -f "$OUT/try" "$OUT/said"
}

with_perf() { # event program args...
	event=$1
	shift
	echo "perf.sh: linux-perf on $event"
	rc=0
	perf record -q -F 499 --call-graph fp -e "$event" -o "$STEM.data" \
		-- "$@" || rc=$?
	for by in comm,dso,symbol comm,dso; do
		echo "== by $by"
		perf report -i "$STEM.data" --stdio --no-children -g none \
			--sort "$by" --percent-limit 0.5 2>/dev/null |
			grep -v '^#' | grep . | head -40
	done >"$STEM.txt"
	cat "$STEM.txt"
	echo "perf.sh: $STEM.data for perf report; ended with $rc"
	return $rc
}

with_callgrind() {
	if [ -s "$OUT/refused" ]; then
		echo "perf.sh: linux-perf cannot be used:"
		grep . "$OUT/refused" | head -5
	fi
	echo "perf.sh: callgrind, instructions"
	rm -f "$STEM".callgrind.*
	rc=0
	# CK_FORK: libcheck's children would each be counted apart.
	CK_FORK=no valgrind -q --tool=callgrind --trace-children=yes \
		--trace-children-skip='*/qemu-*,/bin/*,/usr/bin/*' \
		--callgrind-out-file="$STEM.callgrind.%p" "$@" || rc=$?
	for file in "$STEM".callgrind.*; do
		[ -s "$file" ] || continue
		callgrind_annotate "$file" | head -60
	done >"$STEM.txt"
	cat "$STEM.txt"
	echo "perf.sh: $STEM.callgrind.* for kcachegrind; ended with $rc"
	return $rc
}

# Every site of every probe is one nop, whose arguments lie where the code has
# them anyhow: a register, memory or a constant.
probe_sites() {
	for file in "$BUILD/libhvagent.so" "$BUILD/hvd"; do
		objdump -d --no-show-raw-insn "$file" >"$OUT/text"
		readelf -nW "$file" | awk -v file="$(basename "$file")" '
			FILENAME == ARGV[1] && /^ +[0-9a-f]+:/ {
				at = $1; sub(":", "", at); $1 = ""
				insn[at] = $0; next }
			$1 == "Name:" { name = $2 }
			$1 == "Location:" {
				at = $2; sub("^0x0*", "", at); sub(",", "", at)
				sites++; if (insn[at] !~ /^ +nop$/) bad++ }
			$1 == "Arguments:" {
				$1 = ""; print file, name, at ":" insn[at] "," $0 }
			END { exit !sites || bad }' "$OUT/text" - || return 1
	done
}

# Of hv/mm and of hvd's pressure. The compiler takes a probe for large when it
# chooses what to inline, so the two may differ either way.
instructions() { # CPPFLAGS...
	for src in hv/mm/*.c hv/daemon/pressure.c; do
		${CC:-gcc} -I. -D_GNU_SOURCE -std=c11 -O2 -fPIC "$@" \
			-c "$src" -o "$OUT/probe.o"
		objdump -d --no-show-raw-insn "$OUT/probe.o" |
			grep -E '^ +[0-9a-f]+:' | sed 's/.*:\t//'
	done >"$OUT/text"
	# Padding between functions is not executed.
	grep -cvE '^(data16|cs nopw|nopl|nopw|xchg +%ax,%ax)' "$OUT/text"
}

probes() {
	readelf -nW "$BUILD/libhvagent.so" | grep -q 'Name: page' || {
		echo "perf.sh: built without <sys/sdt.h>: no probes"
		exit 77
	}
	probe_sites
	with=$(instructions)
	without=$(instructions -DTIDEPOOL_NO_PROBES)
	echo "hv/mm and pressure: $with instructions with probes," \
		"$without without"
	rm -f "$OUT/text" "$OUT/probe.o"
}

if [ "$NAME" = probes ]; then
	probes
	exit
fi
PROGRAM=$(program)
EVENT=
rm -f "$OUT/refused"
[ "${TIDEPOOL_PERF:-}" = callgrind ] || EVENT=$(event)
if [ -n "$EVENT" ]; then
	with_perf "$EVENT" "$PROGRAM" "$@"
else
	with_callgrind "$PROGRAM" "$@"
fi
