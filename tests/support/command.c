/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See command.h. */
#include "tests/support/command.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX 64

char *out_text, *err_text;

int words_split(char *copy, char **argv)
{
	char *save = NULL;
	int n = 0;

	for (char *w = strtok_r(copy, " ", &save); w;
	     w = strtok_r(NULL, " ", &save))
		argv[n++] = w;
	argv[n] = NULL;
	return n;
}

void command_forget(void)
{
	free(out_text);
	free(err_text);
	out_text = err_text = NULL;
}

int command_run(const struct program *program, const char *words)
{
	char copy[1200], name[] = "test", *argv[WORDS_MAX] = {name};
	size_t out_n, err_n;
	FILE *out, *err;
	int argc, code;

	command_forget();
	ck_assert_uint_lt(strlen(words), sizeof(copy));
	strcpy(copy, words);
	argc = 1 + words_split(copy, argv + 1);
	ck_assert_int_lt(argc, WORDS_MAX);
	out = open_memstream(&out_text, &out_n);
	err = open_memstream(&err_text, &err_n);
	code = program_run(program, argc, argv, out, err);
	fclose(out);
	fclose(err);
	return code;
}
