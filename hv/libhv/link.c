/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stream to hvd. Sockets never block here: every wait is a poll with what
 * is left until the call's deadline, so a stopped hvd costs its client a
 * bounded time. SO_RCVTIMEO was dropped: it counts each read, not the call.
 *
 *   buf  [ used: line handed out | have - used: came early |  room ]
 */
#include "hv/libhv/link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES ((size_t)16 << 10)

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t hv_link_deadline(unsigned ms)
{
	return now_ms() + ms;
}

void hv_link_init(struct hv_link *link)
{
	*link = (struct hv_link){.fd = -1};
}

void hv_link_drop(struct hv_link *link)
{
	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
	link->have = link->used = 0;
}

void hv_link_fini(struct hv_link *link)
{
	hv_link_drop(link);
	free(link->buf);
	link->buf = NULL;
	link->room = 0;
}

static int socket_wait(int fd, short events, uint64_t deadline)
{
	struct pollfd pfd = {.fd = fd, .events = events};
	uint64_t now = now_ms();
	int r;

	if (now >= deadline)
		return -ETIMEDOUT;
	r = poll(&pfd, 1, (int)min_u64(deadline - now, 60000));
	if (r < 0 && errno != EINTR)
		return -errno;
	return 0; /* the caller tries again and comes back here */
}

/* A full backlog says EAGAIN and cannot be polled for: rest and try again. */
static int socket_connect(int fd, const struct sockaddr_un *addr,
			  uint64_t deadline)
{
	const struct timespec rest = {.tv_nsec = 10 * 1000000};

	while (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (now_ms() >= deadline)
			return -ETIMEDOUT;
		nanosleep(&rest, NULL);
	}
	return 0;
}

int hv_link_connect(struct hv_link *link, const char *path, uint64_t deadline)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = socket_connect(fd, &addr, deadline);
	if (rc) {
		close(fd);
		return rc;
	}
	hv_link_drop(link);
	link->fd = fd;
	return 0;
}

bool hv_link_is_quiet(const struct hv_link *link)
{
	struct pollfd pfd = {.fd = link->fd, .events = POLLIN};

	return link->have == link->used && poll(&pfd, 1, 0) == 0;
}

static ssize_t part_send(int sock, const char *data, size_t n, int fd)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_len = n};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cm;

	memcpy(&iov.iov_base, &data, sizeof(data)); /* sendmsg only reads */
	if (fd >= 0) {
		mh.msg_control = buf;
		mh.msg_controllen = sizeof(buf);
		cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cm), &fd, sizeof(int));
	}
	return sendmsg(sock, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int hv_link_send(struct hv_link *link, const char *data, size_t n, int fd,
		 uint64_t deadline)
{
	while (n) {
		ssize_t r = part_send(link->fd, data, n, fd);
		int rc;

		if (r >= 0) {
			data += r;
			n -= (size_t)r;
			fd = -1;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		rc = socket_wait(link->fd, POLLOUT, deadline);
		if (rc)
			return rc;
	}
	return 0;
}

/* One byte more than the longest line is kept for the 0. */
static int room_make(struct hv_link *link)
{
	size_t room = link->room ? link->room : READ_BYTES;
	char *buf;

	if (link->have > LINK_LINE_MAX)
		return -EMSGSIZE;
	while (room - link->have < READ_BYTES + 1)
		room *= 2;
	if (room == link->room)
		return 0;
	buf = realloc(link->buf, room);
	if (!buf)
		return -ENOMEM;
	link->buf = buf;
	link->room = room;
	return 0;
}

static int link_fill(struct hv_link *link, uint64_t deadline)
{
	ssize_t r;
	int rc = room_make(link);

	if (rc)
		return rc;
	r = recv(link->fd, link->buf + link->have, READ_BYTES, MSG_DONTWAIT);
	if (r > 0)
		link->have += (size_t)r;
	if (r == 0)
		return -ECONNRESET;
	if (r > 0)
		return 0;
	if (errno != EAGAIN && errno != EINTR)
		return -errno;
	if (!link->tick)
		return socket_wait(link->fd, POLLIN, deadline);
	link->tick(link->tick_arg);
	rc = socket_wait(link->fd, POLLIN,
			 min_u64(deadline, hv_link_deadline(LINK_TICK_MS)));
	return rc == -ETIMEDOUT && now_ms() < deadline ? 0 : rc;
}

int hv_link_line(struct hv_link *link, char **line_out, size_t *n_out,
		 uint64_t deadline)
{
	size_t seen = 0;
	char *end;
	int rc;

	if (link->used) {
		memmove(link->buf, link->buf + link->used,
			link->have - link->used);
		link->have -= link->used;
		link->used = 0;
	}
	while (!link->have ||
	       !(end = memchr(link->buf + seen, '\n', link->have - seen))) {
		seen = link->have;
		rc = link_fill(link, deadline);
		if (rc)
			return rc;
	}
	*end = '\0';
	*line_out = link->buf;
	*n_out = (size_t)(end - link->buf);
	link->used = *n_out + 1;
	return 0;
}
