/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * line_host SOCKET CAP-MIB SWAP-MIB: the host's end of a line in a process of
 * its own, so that it can die while the guest's QEMU lives. Listens on SOCKET
 * for QEMU's ivshmem-doorbell, one at a time, and keeps what the guest puts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/line/ivshmem.h"
#include "hv/line/line.h"
#include "tmem/tmem.h"

#define QUEUES	2
#define POLL_NS 50000

static void fail(const char *what, int rc)
{
	fprintf(stderr, "line_host: %s: %s\n", what, strerror(-rc));
	exit(1);
}

static int listener_open(const char *path)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) ||
	    listen(fd, 1)) {
		perror(path);
		exit(1);
	}
	return fd;
}

static struct line *line_open(struct ivshmem *dev, uint64_t cap_mib,
			      uint64_t swap_mib)
{
	struct line_config config = {
		.name = "guest",
		.queues = QUEUES,
		.host_peer = IVSHMEM_HOST,
		.poll_ns = POLL_NS,
		.cap_bytes = cap_mib << 20,
		.settings = {.swap_pages = swap_mib << 8,
			     .swap_priority = 100,
			     .ephemeral = true},
		.kick = ivshmem_kick,
		.arg = dev,
	};
	struct line *line;
	int rc = tmem_create(0, &config.tm);

	if (rc)
		fail("tmem_create", rc);
	rc = line_create(&config, &line);
	if (rc)
		fail("line_create", rc);
	return line;
}

int main(int argc, char **argv)
{
	struct ivshmem *dev;
	struct line *line;
	int rc, fd, listener;
	char c;

	if (argc != 4) {
		fprintf(stderr, "usage: line_host SOCKET CAP-MIB SWAP-MIB\n");
		return 2;
	}
	rc = ivshmem_create(LINE_VECTOR_QUEUE + QUEUES, &dev);
	if (rc)
		fail("ivshmem_create", rc);
	line = line_open(dev, strtoull(argv[2], NULL, 0),
			 strtoull(argv[3], NULL, 0));
	listener = listener_open(argv[1]);
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		rc = ivshmem_greet(dev, line, fd);
		if (rc)
			fail("ivshmem_greet", rc);
		while (read(fd, &c, 1) > 0)
			;
		close(fd);
		line_hang_up(line);
	}
	return 1;
}
