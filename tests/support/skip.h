/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A test program that cannot run here says so: exit code 77, the reason as its
 * last line. check.sh fails it unless tests/rig/allowed-skips.txt allows it, so
 * nothing goes untested in silence. Call it from main(), before libcheck forks.
 */
#ifndef TESTS_SUPPORT_SKIP_H
#define TESTS_SUPPORT_SKIP_H

_Noreturn void test_skip(const char *reason, ...)
	__attribute__((format(printf, 1, 2)));

#endif
