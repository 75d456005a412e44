/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See link.h.
 *
 *   worker --link_send-->  queue (bounded) --+
 *                                            +--> socket
 *   any thread --link_release--> releases ---+     (queue first)
 *
 * Why releases have a place of their own: a message of sharing that finds the
 * queue full is simply made again later, but a release that is lost keeps a
 * frame alive for ever, and the thread that gives one back (the VMM's, in
 * madvise) can neither wait nor fail.
 *
 * Order, and why references stay exact over a restart of hvd. After RECONNECT
 * hvd's count is what HAVE says, so a release is to be sent if and only if HAVE
 * counted its page. Let H be the moment mm begins to walk its frames for HAVE;
 * mm lets nobody give a reference back during the walk, and tells us H itself
 * (a release of 0 frames; mm.h). A page that left before H is not in HAVE: its
 * release must vanish. One that leaves after H is: its release must follow.
 *
 *   refused:  from link_open until H (or link_releases_begin: no HAVE needed)
 *   kept:     from then on; sent when hvd has welcomed us and the queue, which
 *             holds HAVE, is empty
 *
 * While the link is closed they are refused as well: the next H tells the truth
 * anyway. If memory for a release cannot be had, the link is broken for the
 * same reason: a HAVE repairs everything. Too many references at hvd waste a
 * frame, too few would show a guest another's page; every doubt goes to the
 * former.
 *
 * Lock: ln->lock guards the releases alone.
 */
#include "hv/agent/link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define QUEUE_MAX     ((size_t)512 << 10)
#define RELEASES_WIRE ((WIRE_MAX - sizeof(struct wire_head)) / sizeof(uint32_t))

struct item {
	TAILQ_ENTRY(item) entry;
	size_t bytes;
	unsigned char msg[];
};

enum phase { LINK_CLOSED, LINK_ASKED, LINK_WELCOMED };

struct link {
	int fd;
	enum phase phase;
	struct sockaddr_un addr;
	TAILQ_HEAD(, item) queue;
	size_t queued_bytes;
	bool unbounded;
	bool blocked; /* the socket took no more */

	pthread_mutex_t lock;
	bool releases_on;
	bool releases_lost;
	uint32_t *releases;
	size_t release_count, release_room;

	_Alignas(struct wire_head) unsigned char in[WIRE_MAX];
	_Alignas(struct wire_head) unsigned char out[WIRE_MAX];
};

int link_create(const char *run_dir, struct link **out)
{
	struct link *ln = calloc(1, sizeof(*ln));
	int n;

	if (!ln)
		return -ENOMEM;
	ln->fd = -1;
	ln->addr.sun_family = AF_UNIX;
	n = snprintf(ln->addr.sun_path, sizeof(ln->addr.sun_path),
		     "%s/agent.sock", run_dir);
	if (n < 0 || (size_t)n >= sizeof(ln->addr.sun_path)) {
		free(ln);
		return -ENAMETOOLONG;
	}
	TAILQ_INIT(&ln->queue);
	pthread_mutex_init(&ln->lock, NULL);
	*out = ln;
	return 0;
}

static void queue_clear(struct link *ln)
{
	struct item *it;

	while ((it = TAILQ_FIRST(&ln->queue))) {
		TAILQ_REMOVE(&ln->queue, it, entry);
		free(it);
	}
	ln->queued_bytes = 0;
	ln->unbounded = false;
}

static void releases_set(struct link *ln, bool on)
{
	pthread_mutex_lock(&ln->lock);
	ln->releases_on = on;
	ln->releases_lost = false;
	ln->release_count = 0;
	pthread_mutex_unlock(&ln->lock);
}

void link_close(struct link *ln)
{
	releases_set(ln, false);
	queue_clear(ln);
	if (ln->fd >= 0)
		close(ln->fd);
	ln->fd = -1;
	ln->blocked = false;
	ln->phase = LINK_CLOSED;
}

void link_destroy(struct link *ln)
{
	if (!ln)
		return;
	link_close(ln);
	pthread_mutex_destroy(&ln->lock);
	free(ln->releases);
	free(ln);
}

bool link_is_open(const struct link *ln)
{
	return ln->phase != LINK_CLOSED;
}

int link_fd(const struct link *ln)
{
	return ln->fd;
}

short link_events(const struct link *ln)
{
	return ln->blocked ? POLLIN | POLLOUT : POLLIN;
}

static int hello_send(int fd, const struct wire_hello *hello, int pool_fd)
{
	struct {
		struct wire_head head;
		struct wire_hello body;
	} msg = {{WIRE_VERSION, WIRE_HELLO, sizeof(msg)}, *hello};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {&msg, sizeof(msg)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cm;

	if (pool_fd >= 0) {
		mh.msg_control = control;
		mh.msg_controllen = sizeof(control);
		cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cm), &pool_fd, sizeof(int));
	}
	return sendmsg(fd, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int link_open(struct link *ln, const struct wire_hello *hello, int pool_fd)
{
	int rc;

	link_close(ln);
	ln->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0);
	if (ln->fd < 0)
		return -errno;
	if (connect(ln->fd, (const struct sockaddr *)&ln->addr,
		    sizeof(ln->addr)))
		rc = -errno;
	else
		rc = hello_send(ln->fd, hello, pool_fd);
	if (rc) {
		link_close(ln);
		return rc;
	}
	ln->phase = LINK_ASKED;
	return 0;
}

/* 0 sent; 1 the socket is full; -errno broken. */
static int packet_send(struct link *ln, const void *msg, size_t bytes)
{
	if (send(ln->fd, msg, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return 0;
	return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 1
								     : -errno;
}

bool link_is_full(const struct link *ln)
{
	return !ln->unbounded && ln->queued_bytes + WIRE_MAX > QUEUE_MAX;
}

int link_send(void *arg, const struct wire_head *msg)
{
	struct link *ln = arg;
	struct item *it;

	if (ln->phase == LINK_CLOSED)
		return -ENOTCONN;
	if (link_is_full(ln))
		return -EAGAIN;
	/* A broken socket is found by link_flush and link_receive. */
	if (TAILQ_EMPTY(&ln->queue) && !packet_send(ln, msg, msg->bytes))
		return 0;
	it = malloc(sizeof(*it) + msg->bytes);
	if (!it)
		return -EAGAIN;
	it->bytes = msg->bytes;
	memcpy(it->msg, msg, msg->bytes);
	TAILQ_INSERT_TAIL(&ln->queue, it, entry);
	ln->queued_bytes += it->bytes;
	return 0;
}

void link_bound_lift(struct link *ln)
{
	ln->unbounded = true;
}

void link_bound_set(struct link *ln)
{
	ln->unbounded = false;
}

void link_releases_begin(struct link *ln)
{
	releases_set(ln, true);
}

static bool releases_grow(struct link *ln, size_t need)
{
	size_t room = ln->release_room ? ln->release_room : 1024;
	uint32_t *grown;

	if (need <= ln->release_room)
		return true;
	while (room < need)
		room *= 2;
	grown = realloc(ln->releases, room * sizeof(*grown));
	if (!grown)
		return false;
	ln->releases = grown;
	ln->release_room = room;
	return true;
}

void link_release(void *arg, const uint32_t *frames, size_t n)
{
	struct link *ln = arg;

	if (!n) {
		releases_set(ln, true);
		return;
	}
	pthread_mutex_lock(&ln->lock);
	if (!ln->releases_on || ln->releases_lost) {
		/* HAVE will not name them, or has yet to be made again. */
	} else if (releases_grow(ln, ln->release_count + n)) {
		memcpy(ln->releases + ln->release_count, frames,
		       n * sizeof(*frames));
		ln->release_count += n;
	} else {
		ln->releases_lost = true;
	}
	pthread_mutex_unlock(&ln->lock);
}

/* Takes up to one message's worth off the end; 0 if there is none. */
static size_t releases_take(struct link *ln, uint32_t *frames_out, bool *lost)
{
	size_t n;

	pthread_mutex_lock(&ln->lock);
	*lost = ln->releases_lost;
	n = min_u64(ln->release_count, RELEASES_WIRE);
	ln->release_count -= n;
	if (n)
		memcpy(frames_out, ln->releases + ln->release_count,
		       n * sizeof(*frames_out));
	pthread_mutex_unlock(&ln->lock);
	return n;
}

static int queue_flush(struct link *ln)
{
	struct item *it;
	int r;

	while ((it = TAILQ_FIRST(&ln->queue))) {
		r = packet_send(ln, it->msg, it->bytes);
		if (r)
			return r;
		TAILQ_REMOVE(&ln->queue, it, entry);
		ln->queued_bytes -= it->bytes;
		free(it);
	}
	return 0;
}

static int releases_flush(struct link *ln)
{
	struct wire_head *head = (struct wire_head *)ln->out;
	bool lost;
	size_t n;
	int r;

	while ((n = releases_take(ln, (uint32_t *)(head + 1), &lost)) &&
	       !lost) {
		*head = (struct wire_head){
			WIRE_VERSION, WIRE_RELEASE,
			(uint32_t)(sizeof(*head) + n * sizeof(uint32_t))};
		r = packet_send(ln, head, head->bytes);
		if (!r)
			continue;
		link_release(ln, (uint32_t *)(head + 1), n);
		return r;
	}
	return lost ? -ENOMEM : 0;
}

int link_flush(struct link *ln)
{
	int r;

	if (ln->phase == LINK_CLOSED)
		return -ENOTCONN;
	r = queue_flush(ln);
	if (!r && ln->phase == LINK_WELCOMED)
		r = releases_flush(ln);
	ln->blocked = r > 0;
	return r < 0 ? r : 0;
}

static void fds_close(struct link_message *m)
{
	while (m->nfds)
		close(m->fds[--m->nfds]);
}

/* More descriptors than we have room for are cut by the kernel: MSG_CTRUNC. */
static void fds_take(struct msghdr *mh, struct link_message *out)
{
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm;
	     cm = CMSG_NXTHDR(mh, cm)) {
		size_t n = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		n = min_u64(n, LINK_FDS - out->nfds);
		memcpy(out->fds + out->nfds, CMSG_DATA(cm), n * sizeof(int));
		out->nfds += n;
	}
}

/* Is this the time for such a message, and has it the descriptors it needs? */
static int message_admit(struct link *ln, const struct link_message *m)
{
	const struct wire_welcome *w = (const void *)(m->msg + 1);
	const struct wire_command *cmd = (const void *)(m->msg + 1);
	bool greeting =
		m->msg->type == WIRE_WELCOME || m->msg->type == WIRE_REFUSE;
	size_t want = 0;

	if (greeting != (ln->phase == LINK_ASKED))
		return -EPROTO;
	if (m->msg->type == WIRE_WELCOME)
		want = 1 + w->uffd_device + w->channel;
	if (m->msg->type == WIRE_COMMAND)
		want = wire_command_has_fd(cmd->op);
	if (m->nfds != want)
		return -EPROTO;
	if (m->msg->type == WIRE_WELCOME)
		ln->phase = LINK_WELCOMED;
	return 0;
}

int link_receive(struct link *ln, struct link_message *out)
{
	_Alignas(struct cmsghdr) char
		control[CMSG_SPACE(LINK_FDS * sizeof(int))];
	struct iovec iov = {ln->in, sizeof(ln->in)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control)};
	ssize_t n;
	int rc;

	*out = (struct link_message){.msg = (struct wire_head *)ln->in};
	if (ln->phase == LINK_CLOSED)
		return -ENOTCONN;
	n = recvmsg(ln->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	fds_take(&mh, out);
	if (!n)
		rc = -ECONNRESET;
	else if (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		rc = -EPROTO;
	else
		rc = wire_check(WIRE_HVD, ln->in, (size_t)n);
	if (!rc)
		rc = message_admit(ln, out);
	if (rc)
		fds_close(out);
	return rc;
}
