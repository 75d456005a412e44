/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The server's side of the ivshmem protocol (QEMU, docs/specs/ivshmem-spec),
 * version 0. Every message is a little-endian number of 8 bytes, most with a
 * descriptor (SCM_RIGHTS):
 *
 *    0                the protocol's version
 *    0                the device's own peer number
 *   -1  + memfd       the shared memory
 *    1  + eventfd     the host's vectors, one message each, in order:
 *                     what a doorbell of the guest writes to
 *    0  + eventfd     the guest's vectors: what we write to
 *
 * After that there is nothing to say: peers never come or go, since a line has
 * two ends. The device never says anything, so the connection is only a token
 * of life. All of it fits into a socket's buffer, and is said before the
 * device first reads; no thread has to answer.
 */
#include "hv/line/ivshmem.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROTOCOL_VERSION 0
#define SHARED_MEMORY	 (-1)
#define NO_FD		 (-1)

struct ivshmem {
	unsigned vectors;
	int interrupt[LINE_VECTORS_MAX];
};

int ivshmem_create(unsigned vectors, struct ivshmem **out)
{
	struct ivshmem *dev;

	if (vectors > LINE_VECTORS_MAX)
		return -EINVAL;
	dev = calloc(1, sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	while (dev->vectors < vectors) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0) {
			int rc = -errno;

			ivshmem_destroy(dev);
			return rc;
		}
		dev->interrupt[dev->vectors++] = fd;
	}
	*out = dev;
	return 0;
}

void ivshmem_destroy(struct ivshmem *dev)
{
	if (!dev)
		return;
	for (unsigned v = 0; v < dev->vectors; v++)
		close(dev->interrupt[v]);
	free(dev);
}

void ivshmem_kick(void *arg, unsigned vector)
{
	struct ivshmem *dev = arg;

	if (vector < dev->vectors)
		(void)eventfd_write(dev->interrupt[vector], 1);
}

static void fd_attach(struct msghdr *msg, int fd)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
}

static int say(int fd, int64_t number, int sent)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = ""};
	uint64_t le = htole64((uint64_t)number);
	struct iovec iov = {&le, sizeof(le)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (sent != NO_FD) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		fd_attach(&msg, sent);
	}
	n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return -errno;
	return n == (ssize_t)sizeof(le) ? 0 : -EAGAIN;
}

int ivshmem_greet(const struct ivshmem *dev, const struct line *line, int fd)
{
	unsigned vectors = line_vectors(line);
	int rc = say(fd, PROTOCOL_VERSION, NO_FD);

	if (!rc)
		rc = say(fd, IVSHMEM_GUEST, NO_FD);
	if (!rc)
		rc = say(fd, SHARED_MEMORY, line_fd(line));
	for (unsigned v = 0; v < vectors && !rc; v++)
		rc = say(fd, IVSHMEM_HOST, line_doorbell_fd(line, v));
	for (unsigned v = 0; v < dev->vectors && !rc; v++)
		rc = say(fd, IVSHMEM_GUEST, dev->interrupt[v]);
	return rc;
}
