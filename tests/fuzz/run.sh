#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Fuzzes each parser of bytes that someone else wrote.
#
#   run.sh SECONDS [target...]   build, then fuzz each for that long
#   run.sh -b                    only build
#   run.sh -l                    list the targets
#
# A target is tests/fuzz/fuzz_NAME.c with LLVMFuzzerTestOneInput. It is linked
# to everything below hv/agent and hv/daemon included, mains left out. Two
# lines in its opening comment change that:
#
#   fuzz-needs: FILE.c...    sources to compile besides (e.g. of hv/agent, which
#                            stands in for libc's calls and is not linked whole)
#   fuzz-max-len: BYTES      longest input (default 4096)
#
# Inputs: tests/fuzz/corpus/NAME, small and committed, crashers of the past
# among them; build/fuzz/corpus/NAME grows. A crash prints its input's path.
set -u
cd "$(dirname "$0")/../.." || exit 1
out=${BUILD:-build}/fuzz
flags="-O1 -g -fsanitize=fuzzer-no-link,address,undefined
	-fno-sanitize-recover=undefined"
libs="-llz4 -lzstd -lxxhash -luring -ljansson -linih -lmicrohttpd -lsystemd"

targets() {
	find tests/fuzz -maxdepth 1 -name 'fuzz_*.c' -printf '%f\n' |
		sed 's/^fuzz_//; s/\.c$//' | sort
}

option() { # target option: what its opening comment says
	sed -n "1,40s/.*fuzz-$2: *\([^*]*\).*/\1/p" "tests/fuzz/fuzz_$1.c"
}

sources() {
	find hv/base tmem hv/line hv/mm sharing hv/daemon hv/libhv -name '*.c' \
		-exec grep -L '^int main(' {} + | sort
}

objects() { # sources on stdin
	sed "s,^,$out/obj/,; s/\.c\$/.o/"
}

needed() { # target: the objects of its fuzz-needs
	option "$1" needs | tr -s ' ' '\n' | sed '/^$/d' | objects
}

build() { # targets
	local t objs all needs
	mapfile -t objs < <(sources | objects)
	mapfile -t all < <(for t; do
		echo "$out/obj/tests/fuzz/fuzz_$t.o"
		needed "$t"
	done)
	make --no-print-directory -j"$(nproc)" BUILD="$out" SAN= CC=clang \
		WARN= OPT="$(echo "$flags" | xargs)" "${objs[@]}" "${all[@]}" ||
		return 1
	rm -f "$out/libfuzzed.a"
	ar rcs "$out/libfuzzed.a" "${objs[@]}" || return 1
	for t; do
		mapfile -t needs < <(needed "$t")
		# shellcheck disable=SC2086
		clang -fsanitize=fuzzer,address,undefined -pthread \
			-o "$out/fuzz_$t" "$out/obj/tests/fuzz/fuzz_$t.o" \
			"${needs[@]}" "$out/libfuzzed.a" $libs || return 1
	done
}

fuzz() { # target seconds
	local t=$1 max
	max=$(option "$t" max-len)
	mkdir -p "$out/corpus/$t" "$out/crash" "tests/fuzz/corpus/$t"
	echo "fuzz $t for $2 s"
	if "$out/fuzz_$t" -max_total_time="$2" -timeout=10 \
		-rss_limit_mb=2048 -max_len="${max:-4096}" \
		-artifact_prefix="$out/crash/$t-" -verbosity=1 \
		-print_final_stats=1 "$out/corpus/$t" "tests/fuzz/corpus/$t" \
		>"$out/$t.log" 2>&1; then
		sed -n 's/^stat::number_of_executed_units: */  inputs tried: /p' \
			"$out/$t.log"
		return 0
	fi
	tail -n 60 "$out/$t.log"
	echo "fuzz: $t failed; its input:" "$out/crash/$t-"*
	return 1
}

case ${1:-} in
-l)
	targets
	exit
	;;
-b)
	mapfile -t names < <(targets)
	build "${names[@]}"
	exit
	;;
'' | *[!0-9]*)
	echo "usage: run.sh SECONDS [target...] | -b | -l"
	exit 1
	;;
esac
seconds=$1
shift
mapfile -t names < <(if [ $# -gt 0 ]; then printf '%s\n' "$@"; else targets; fi)
[ ${#names[@]} -gt 0 ] || exec echo "fuzz: no targets"
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
build "${names[@]}" >"$out/build.log" 2>&1 || {
	tail -n 40 "$out/build.log"
	echo "fuzz: the targets do not build"
	exit 1
}
flock -u 9
bad=0
for name in "${names[@]}"; do
	fuzz "$name" "$seconds" || bad=1
done
exit $bad
