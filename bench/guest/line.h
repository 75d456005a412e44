/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The line between a bench and process 1 of its guest: commands on ttyS1, one a
 * line, each answered by one line that begins with "ok" or "error".
 */
#ifndef BENCH_GUEST_LINE_H
#define BENCH_GUEST_LINE_H

#include <stdint.h>
#include <stdio.h>

struct line {
	FILE *in, *out;
};

/* Mounts /dev and loads the modules that /modules names. 0 or -1. */
int line_open(struct line *l);

/*
 * Says "ready" and hands over each command, with its end of line cut off; the
 * function prints the answer. Powers the guest off when the line is closed.
 */
void line_serve(struct line *l, void (*answer)(FILE *out, const char *command));

/* The guest's own clock. */
uint64_t line_now_ns(void);

#endif
