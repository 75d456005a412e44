/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real host with faults: the n-th call of it fails once, features can be
 * taken away (an older kernel), and the clock can be set. One at a time in a
 * process: the table holds no context.
 */
#ifndef TESTS_SUPPORT_FAULT_HOST_H
#define TESTS_SUPPORT_FAULT_HOST_H

#include "hv/base/host.h"

extern const struct host_ops fault_host;

/* Skips the program where the kernel does not permit userfaultfd. */
void fault_host_need(void);

/* Forgets all faults; features: those the kernel is allowed to have. */
void fault_host_reset(unsigned features);

/* The n-th call from now (1: the next) returns rc; 0: none. */
void fault_host_fail(unsigned long n, int rc);

/* From now on this many overlays can be mapped; -1: any number. */
void fault_host_overlays(long n);

/*
 * Copies and moves of several pages end before the one at to (NULL: go on), as
 * if it were there already. By itself it is brought in.
 */
void fault_host_runs_end_at(const void *to);

/* userfaultfd is refused with rc; 0: not. */
void fault_host_refuse_uffd(int rc);

/* Failable calls since the last reset. */
unsigned long fault_host_calls(void);

/* By the calling thread. */
unsigned long fault_host_yields(void);

/* Moves the clock forward. */
void fault_host_clock_add(uint64_t ns);

#endif
