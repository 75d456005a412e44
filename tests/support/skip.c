/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See skip.h. */
#include "tests/support/skip.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void test_skip(const char *reason, ...)
{
	va_list ap;

	va_start(ap, reason);
	fputs("skipped: ", stdout);
	vprintf(reason, ap);
	va_end(ap);
	putchar('\n');
	exit(77);
}
