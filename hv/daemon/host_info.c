/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files of /proc are read whole into a bounded buffer and looked through there:
 * no stdio, no allocation, so they can be read where memory is short.
 */
#include "hv/daemon/host_info.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAP_COUNT_PATH "/proc/sys/vm/max_map_count"

static int file_read(const char *path, char *buf, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t at = 0;
	ssize_t n;
	int rc;

	if (fd < 0)
		return -errno;
	do {
		n = read(fd, buf + at, room - 1 - at);
		if (n > 0)
			at += (size_t)n;
	} while (n > 0 && at < room - 1);
	rc = n < 0 ? -errno : 0;
	buf[at] = 0;
	close(fd);
	return rc;
}

static int kib_find(const char *text, const char *key, uint64_t *out)
{
	const char *at = strstr(text, key);
	uint64_t kib;

	if (!at || sscanf(at + strlen(key), ": %" SCNu64 " kB", &kib) != 1)
		return -EPROTO;
	*out = kib << 10;
	return 0;
}

int host_memory(uint64_t *total_out, uint64_t *available_out)
{
	char text[4096];
	int rc;

	rc = file_read("/proc/meminfo", text, sizeof(text));
	if (!rc)
		rc = kib_find(text, "MemTotal", total_out);
	if (!rc)
		rc = kib_find(text, "MemAvailable", available_out);
	return rc;
}

int host_pidfd_open(pid_t pid, int *fd_out)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		return -errno;
	*fd_out = (int)fd;
	return 0;
}

int host_pid_start(pid_t pid, uint64_t *start_out)
{
	char path[64], text[1024];
	const char *at;
	int rc;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	rc = file_read(path, text, sizeof(text));
	if (rc)
		return rc == -ENOENT ? -ESRCH : rc;
	/* The name, field 2, may hold anything, so count from its end. */
	at = strrchr(text, ')');
	if (!at || sscanf(at + 1,
			  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u "
			  "%*u %*d %*d %*d %*d %*d %*d %" SCNu64,
			  start_out) != 1)
		return -EPROTO;
	return 0;
}

bool host_peer_in_group(int sock, gid_t primary, gid_t gid)
{
	gid_t groups[1024];
	socklen_t n = sizeof(groups);
	size_t i;

	if (primary == gid)
		return true;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &n))
		return false;
	for (i = 0; i < n / sizeof(groups[0]); i++)
		if (groups[i] == gid)
			return true;
	return false;
}

bool host_fd_is(int fd, dev_t dev, ino_t ino)
{
	struct stat st;

	return !fstat(fd, &st) && st.st_dev == dev && st.st_ino == ino;
}

int host_uffd_device_open(int *fd_out)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*fd_out = fd;
	return 0;
}

int host_map_count_raise(uint64_t wanted, uint64_t *was_out)
{
	char text[64];
	int fd, n, rc;

	rc = file_read(MAP_COUNT_PATH, text, sizeof(text));
	if (rc)
		return rc;
	*was_out = strtoull(text, NULL, 10);
	wanted = min_u64(wanted, INT32_MAX);
	if (*was_out >= wanted)
		return 0;
	fd = open(MAP_COUNT_PATH, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = snprintf(text, sizeof(text), "%" PRIu64, wanted);
	rc = write(fd, text, (size_t)n) == n ? 0 : -errno;
	close(fd);
	return rc;
}

uint64_t host_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int host_group_find(const char *name, gid_t *out)
{
	struct group group, *found = NULL;
	char buf[4096];
	int rc;

	rc = getgrnam_r(name, &group, buf, sizeof(buf), &found);
	if (rc)
		return -rc;
	if (!found)
		return -ENOENT;
	*out = group.gr_gid;
	return 0;
}
