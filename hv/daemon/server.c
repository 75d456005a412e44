/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A socket that is there already may be of a dead hvd or of a living one;
 * connecting to find out is a race. The lock on the run directory decides
 * instead: who has it owns every name in it.
 */
#include "hv/daemon/server.h"
#include "hv/base/log.h"
#include "hv/daemon/host_info.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

/* The group it is for: if it does not exist, the socket is the owner's. */
static int group_give(const char *path, const char *group)
{
	gid_t gid;
	int rc;

	if (!group[0])
		return 0;
	rc = host_group_find(group, &gid);
	if (rc == -ENOENT)
		return 0;
	if (!rc && lchown(path, (uid_t)-1, gid))
		rc = -errno;
	return rc;
}

int server_listen(const char *path, int type, mode_t mode, const char *group,
		  int *fd_out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (unlink(path) && errno != ENOENT)
		goto fail;
	/* Nobody can connect before listen, so mode and group come first. */
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    chmod(path, mode))
		goto fail;
	rc = group_give(path, group);
	if (rc)
		log_warn("%s: cannot be given to group %s: %s", path, group,
			 strerror(-rc));
	if (listen(fd, BACKLOG))
		goto fail;
	*fd_out = fd;
	return 0;

fail:
	rc = -errno;
	close(fd);
	return rc;
}

int server_run_dir(const char *path, int *lock_fd_out)
{
	char lock[WIRE_PATH_MAX + 16];
	int fd, rc;

	if (mkdir(path, 0755) && errno != EEXIST)
		return -errno;
	snprintf(lock, sizeof(lock), "%s/hvd.lock", path);
	fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
		close(fd);
		return rc;
	}
	*lock_fd_out = fd;
	return 0;
}
