/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A test program that runs itself anew as a VMM, with the real libhvagent.so
 * preloaded: a preload takes effect only where a program starts.
 */
#ifndef TESTS_SUPPORT_PRELOAD_H
#define TESTS_SUPPORT_PRELOAD_H

/* Once, in main. Skips if the library is missing. */
void preload_find(void);

/*
 * In main, before that: skips under TSan. For tests whose guest has RAM, which
 * the agent reads while the guest writes to it: a race by design.
 */
void preload_refuse_tsan(void);

/*
 * In a child that has set its environment: becomes this program with the agent
 * and these arguments, the second perhaps NULL.
 */
_Noreturn void preload_exec(const char *option, const char *value);

/*
 * In a child before that: what it says on stderr goes to a file of this name,
 * which is the parent's to remove, in the folder where both are.
 */
void preload_stderr(void);
/* The text of that file, cut at 64 KiB; "" if there is none. */
const char *preload_said(void);

#endif
