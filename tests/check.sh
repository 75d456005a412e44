#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Every test there is; `make check` runs this. Last line: N passed, N failed.
#
#   tests/check.sh [name-filter...]     only jobs whose name contains a filter
#   FAST=1 tests/check.sh               natively built unit tests only
#   SAN=asan|tsan tests/check.sh        unit tests under that sanitizer only
#   FUZZ_SECONDS=n                      per fuzz target (default 5)
#   KERNELS="6.1 6.12"                  other kernels to run on (default 6.1)
#
# A job is one program; its name is KIND/PROGRAM:
#
#   lint/...   check-layers, warnings of clang, man pages, the bare guest
#   unit/...   tests/unit, as built          asan/..., tsan/...: the same
#   fuzz/...   tests/fuzz, a few seconds each
#   vm6.1/...  the tests of tests/rig/vm-tests.txt on another kernel: 6.1, that
#              of Debian 12, lacks UFFDIO_MOVE, which 6.12 has as this one does
#   guest/...  tests/guest: real guests in QEMU (but debian_*.py, which make a
#              Debian of their own first and take minutes: run them alone)
#
# Output goes to build/check/KIND/PROGRAM.log. libcheck's "Checks:" lines are
# summed; a program without any counts as one. Exit code 77 is a skip, which
# fails unless tests/rig/allowed-skips.txt knows its name: nothing goes untested
# in silence. A test learns where it runs from TEST_SLOW=1 (emulated: do less,
# assert no rates) and TEST_SAN=asan|tsan.
#
# Jobs run two at a time (but guests that share memory alone: several of them
# wait for each other), each under timeout(1), which puts it into a process
# group of its own; that is what is ended on Ctrl-C.
set -u
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MAKELEVEL MAKEOVERRIDES
export PYTHONDONTWRITEBYTECODE=1
export BUILD=${BUILD:-build}
only_san=${SAN:-}
unset SAN
filters=("$@")
supp=$PWD/tests/rig/tsan.supp
slots=$(nproc)
[ "$slots" -gt 4 ] && slots=4
logs=$BUILD/check
passed=0 failed=0 skipped=0
declare -A job_of=() # pid -> name
declare -A start_of=()

rm -rf "$logs"
mkdir -p "$logs"

# hvd raises it, and leaves it to the VMs that are still there.
map_count=/proc/sys/vm/max_map_count
map_count_was=$(<$map_count)
put_back() {
	[ "$(<$map_count)" = "$map_count_was" ] ||
		echo "$map_count_was" 2>/dev/null >$map_count
}
trap put_back EXIT

stop() {
	trap '' INT TERM
	local pid
	for pid in "${!job_of[@]}"; do
		kill -TERM "$pid" 2>/dev/null
	done
	wait
	echo "check: interrupted"
	exit 130
}
trap stop INT TERM

now() { # milliseconds
	local t=${EPOCHREALTIME/[.,]/}
	echo $((t / 1000))
}

line() { # word name text
	printf '[%4d s] %-5s %-32s %s\n' $SECONDS "$1" "$2" "$3"
}

wanted() { # name: does a filter (if any) want it
	[ ${#filters[@]} = 0 ] && return 0
	local f
	for f in "${filters[@]}"; do
		[[ $1 == *"$f"* ]] && return 0
	done
	return 1
}

allowed() { # name: prints why it may be skipped
	local pattern why
	while read -r pattern why; do
		case $pattern in '' | '#'*) continue ;; esac
		# shellcheck disable=SC2053 # the list holds patterns
		if [[ $1 == $pattern ]]; then
			echo "$why"
			return 0
		fi
	done <tests/rig/allowed-skips.txt
	return 1
}

# "checks failures" summed over libcheck's lines; "0 0" if there are none.
counts() { # log
	sed -n 's/^[0-9]*%: Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\).*/\1 \2 \3/p' \
		"$1" 2>/dev/null | awk '{ c += $1; f += $2 + $3; n++ }
			END { print n + 0, c + 0, f + 0 }'
}

fail() { # name text log
	line FAIL "$1" "$2"
	grep -v '^rm ' "$3" 2>/dev/null | tail -n 40 | sed 's/^/    | /'
	echo "    | (all of it: $3)"
}

account() { # name rc log milliseconds
	local name=$1 rc=$2 log=$3 took lines checks bad why text
	took=$(($4 / 1000)).$((($4 / 100) % 10))
	if [ "$rc" = 77 ]; then
		text=$(tail -n 1 "$log")
		if why=$(allowed "$name"); then
			skipped=$((skipped + 1))
			line skip "$name" "$text ($why)"
		else
			failed=$((failed + 1))
			fail "$name" "skipped, which no one allowed" "$log"
		fi
		return
	fi
	read -r lines checks bad < <(counts "$log")
	if [ "$rc" = 0 ] && [ "$bad" = 0 ] && [ "$lines" -gt 0 ] &&
		[ "$checks" = 0 ]; then
		failed=$((failed + 1))
		fail "$name" "checked nothing" "$log"
	elif [ "$rc" = 0 ] && [ "$bad" = 0 ]; then
		[ "$lines" = 0 ] && checks=1
		passed=$((passed + checks))
		line ok "$name" "$checks in $took s"
	else
		[ "$bad" = 0 ] && bad=1 && [ "$lines" = 0 ] && checks=1
		[ "$checks" -lt "$bad" ] && checks=$bad
		failed=$((failed + bad))
		passed=$((passed + checks - bad))
		case $rc in
		124 | 137) text="took too long (exit code $rc)" ;;
		*) text="exit code $rc" ;;
		esac
		fail "$name" "$text, after $took s" "$log"
	fi
}

reap() { # waits for one job to end
	local pid rc=0
	wait -n -p pid "${!job_of[@]}" || rc=$?
	[ -n "${pid:-}" ] || return
	local name=${job_of[$pid]}
	unset "job_of[$pid]"
	case $name in
	build/*) built=$rc ;;
	vm*/machine) account_vm "${name%%/*}" $rc ;;
	*) account "$name" $rc "$logs/$name.log" \
		$(($(now) - start_of[$name])) ;;
	esac
}

drain() {
	while [ ${#job_of[@]} -gt 0 ]; do
		reap
	done
}

job() { # name seconds command...
	local name=$1 seconds=$2
	shift 2
	wanted "$name" || return 0
	while [ ${#job_of[@]} -ge "$slots" ]; do
		reap
	done
	mkdir -p "$(dirname "$logs/$name")"
	timeout -k 20 "$seconds" "$@" >"$logs/$name.log" 2>&1 </dev/null &
	job_of[$!]=$name
	start_of[$name]=$(now)
}

finish() {
	drain
	echo
	if [ $skipped -gt 0 ]; then
		echo "$passed passed, $failed failed, $skipped skipped"
	else
		echo "$passed passed, $failed failed"
	fi
	[ $failed = 0 ]
	exit
}

build() { # name command...
	local name=$1 start
	shift
	start=$(now)
	mkdir -p "$(dirname "$logs/$name")"
	# In the background, for Ctrl-C to be heard and other jobs to be reaped.
	timeout 1200 "$@" >"$logs/$name.log" 2>&1 </dev/null &
	job_of[$!]=$name
	built=
	while [ -z "$built" ]; do
		reap
	done
	if [ "$built" = 0 ]; then
		line built "${name#build/}" "in $((($(now) - start) / 1000)) s"
		return 0
	fi
	failed=$((failed + 1))
	fail "$name" "does not build" "$logs/$name.log"
	return 1
}

any_wanted() { # kind programs...
	local kind=$1 p
	shift
	for p; do
		wanted "$kind/$p" && return 0
	done
	return 1
}

unit_names() {
	find tests/unit -name '*.c' -printf '%f\n' 2>/dev/null |
		sed 's/\.c$//' | sort
}

# Sanitizers of this age cannot live with much address randomisation.
calm=()
setarch -R true 2>/dev/null && calm=(setarch -R)

run_unit() { # unit|asan|tsan
	local kind=$1 dir=$BUILD/tests prefix=() name slow=1
	# shellcheck disable=SC2046 # one word per name
	any_wanted "$kind" $(unit_names) || return 0
	if [ "$kind" = unit ]; then
		build build/unit make -k -j"$slots" all unit
	else
		build "build/$kind" make -k -j"$slots" SAN="$kind" unit
		dir=$BUILD/$kind/tests
		slow=10
		prefix=("${calm[@]}")
	fi
	# What did not build is counted already; the rest is worth a run.
	for name in $(unit_names); do
		[ -x "$dir/$name" ] || continue
		job "$kind/$name" 300 env CK_TIMEOUT_MULTIPLIER=$slow \
			TEST_SAN="${kind#unit}" \
			UBSAN_OPTIONS=print_stacktrace=1 \
			TSAN_OPTIONS="history_size=7 suppressions=$supp" \
			"${prefix[@]}" "$dir/$name"
	done
}

run_lint() {
	job lint/layers 60 tests/check-layers.sh
	job lint/clang 300 tests/rig/clang-warnings.sh
	job lint/man 60 tests/rig/man-lint.sh
	job lint/mini 60 tests/rig/mini-lint.sh
}

run_fuzz() {
	local name names
	names=$(tests/fuzz/run.sh -l)
	# shellcheck disable=SC2086
	any_wanted fuzz $names || return 0
	build build/fuzz tests/fuzz/run.sh -b || return 0
	for name in $names; do
		job "fuzz/$name" 120 tests/fuzz/run.sh "${FUZZ_SECONDS:-5}" \
			"$name"
	done
}

vm_names() {
	local pattern rest name
	while read -r pattern rest; do
		case $pattern in '' | '#'*) continue ;; esac
		for name in $(unit_names); do
			# shellcheck disable=SC2053 # the list holds patterns
			[[ $name == $pattern ]] && echo "$name"
		done
	done <tests/rig/vm-tests.txt | sort -u
}

run_vm() { # kernel
	local kind=vm$1 name paths=()
	# shellcheck disable=SC2046 # one word per name
	any_wanted "$kind" $(vm_names) || return 0
	[ -d "$logs/build" ] || build build/unit make -k -j"$slots" unit
	for name in $(vm_names); do
		wanted "$kind/$name" && [ -x "$BUILD/tests/$name" ] &&
			paths+=("$BUILD/tests/$name")
	done
	[ ${#paths[@]} = 0 ] && return 0
	while [ ${#job_of[@]} -ge "$slots" ]; do
		reap
	done
	mkdir -p "$logs/$kind"
	timeout -k 20 900 tests/rig/vm.sh -k "$1" -t 600 -T 840 \
		"$logs/$kind" "${paths[@]}" >"$logs/$kind/ends" \
		2>"$logs/$kind/machine.log" </dev/null &
	job_of[$!]=$kind/machine
	start_of[$kind/machine]=$(now)
}

account_vm() { # kind rc
	local name rc took
	took=$(($(now) - start_of[$1/machine]))
	if [ "$2" = 77 ]; then
		account "$1/machine" 77 "$logs/$1/machine.log" $took
		return
	fi
	while read -r name rc; do
		account "$1/$name" "$rc" "$logs/$1/$name.log" $took
	done <"$logs/$1/ends"
	[ "$2" = 0 ] || account "$1/machine" "$2" "$logs/$1/machine.log" $took
}

run_guests() {
	local file name names=()
	for file in tests/guest/*.py tests/guest/*.sh; do
		name=$(basename "${file%.*}")
		case $name in
		lib | lib_* | debian_*) ;;
		*) names+=("$name") ;;
		esac
	done
	any_wanted guest "${names[@]}" || return 0
	build build/all make -j"$slots" all || return 0
	drain
	local all=$slots
	slots=1
	for name in "${names[@]}"; do
		case $name in tmem_*) continue ;; esac
		job "guest/$name" 300 "$(echo tests/guest/"$name".[ps][yh])"
	done
	drain
	slots=$all
	for name in "${names[@]}"; do
		case $name in tmem_*) ;; *) continue ;; esac
		job "guest/$name" 300 "$(echo tests/guest/"$name".[ps][yh])"
	done
}

# Read whole before it runs: an edit meanwhile would be read half.
main() {
	if [ -n "$only_san" ]; then
		run_unit "$only_san"
		finish
	fi
	run_unit unit
	[ -n "${FAST:-}" ] && finish
	run_lint
	local kernel
	for kernel in ${KERNELS:-6.1}; do
		run_vm "$kernel"
	done
	run_unit asan
	run_unit tsan
	run_fuzz
	run_guests
	finish
}
main
