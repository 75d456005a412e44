/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command of ours, run within the test, and what it wrote. */
#ifndef TESTS_SUPPORT_COMMAND_H
#define TESTS_SUPPORT_COMMAND_H

#include "hv/ctl/program.h"

/* Of the last command_run(), until the next. */
extern char *out_text, *err_text;

/* Splits copy at spaces into argv, which has room for them and the NULL. */
int words_split(char *copy, char **argv);

/*
 * Runs it on words separated by single spaces, its own name not among them;
 * its exit code.
 */
int command_run(const struct program *program, const char *words);

/* Frees what the last one wrote. */
void command_forget(void);

#endif
