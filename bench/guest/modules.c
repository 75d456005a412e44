/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See modules.h. */
#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int module_load(const char *path)
{
	int rc, fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	rc = (int)syscall(SYS_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	return rc;
}

int modules_load(void)
{
	FILE *list = fopen("/modules", "r");
	char path[256];
	int rc, failed = 0;

	if (!list)
		return 1;
	while (fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = 0;
		rc = module_load(path);
		if (rc && rc != -EEXIST) {
			printf("modules: %s: %s\n", path, strerror(-rc));
			failed++;
		}
	}
	fclose(list);
	return failed;
}
