/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See preload.h. */
#include "tests/support/preload.h"
#include "tests/support/skip.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
#define IS_TSAN true
#else
#define IS_TSAN false
#endif

static char self[PATH_MAX], agent[PATH_MAX + 32];

static bool paths_find(void)
{
	char here[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n <= 0)
		return false;
	self[n] = '\0';
	strcpy(here, self);
	dirname(here);
	snprintf(agent, sizeof(agent), "%s/../libhvagent.so", here);
	if (!access(agent, R_OK))
		return true;
	/* check.sh builds tests with a sanitizer, the library without. */
	snprintf(agent, sizeof(agent), "%s/../../libhvagent.so", here);
	return !access(agent, R_OK);
}

void preload_find(void)
{
	if (!paths_find())
		test_skip("%s is not there: build it first", agent);
}

void preload_refuse_tsan(void)
{
	if (IS_TSAN)
		test_skip("the agent reads guest memory while the guest writes "
			  "to it: a race by design");
}

void preload_exec(const char *option, const char *value)
{
	setenv("LD_PRELOAD", agent, 1);
	/* libasan wants to be first; the agent's own copy comes first here. */
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
	execl(self, self, option, value, (char *)NULL);
	_exit(98);
}

void preload_stderr(void)
{
	int err = open("stderr", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	dup2(err, 2);
}

const char *preload_said(void)
{
	static char text[65536];
	FILE *file = fopen("stderr", "r");
	size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;

	text[n] = '\0';
	if (file)
		fclose(file);
	return text;
}
