/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TESTS_SUPPORT_RUN_H
#define TESTS_SUPPORT_RUN_H

#include <check.h>

/* Runs the suite, and frees it; what main() has to return. */
int suite_run(Suite *suite);

#endif
