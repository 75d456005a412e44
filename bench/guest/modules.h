/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel modules a small guest starts with. */
#ifndef BENCH_GUEST_MODULES_H
#define BENCH_GUEST_MODULES_H

/*
 * Loads those that /modules names, one path a line, in that order; says on
 * standard output what fails. How many failed; 1 if there is no list.
 */
int modules_load(void);

#endif
