/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See channel.h.
 *
 * Puts are sent and not waited for: a kernel that evicts makes thousands at a
 * time, and drops those that meet a full queue. Of all others one is under way
 * at a time, behind the puts before it, and its reply is waited for: a flush
 * that the guest was told of is done for all members of the pool. A second
 * thread waits for its turn.
 *
 * hvd may be stopped. After PATIENCE_S a request is given up, and until all
 * that is owed has been answered nobody waits any more:
 *
 *   owed = requests with a reply sent - replies received      0: all is well
 *
 *   get     a miss, and not sent
 *   put     refused; what is sent instead is a flush of its key, so that the
 *           page before is not met again
 *   flush   sent: it comes before whatever this guest asks later
 *
 * What cannot be sent (a put: after PATIENCE_S) ends the connection, and with
 * it, at hvd, all that this VM put. A pool's life:
 *
 *   NONE --create--> JOINED --connection ends--> LOST --new era--> JOINED
 *    ^                  |                          `--same era---> GONE
 *    '---- destroy -----+----- from any of them
 *
 * GONE: hvd is the one it was, so other members' pages may be older than a
 * flush or put of ours that was lost. The guest is told -ENOENT, no such pool,
 * and may join once more.
 *
 * Lock: ch->lock guards everything and is held while a reply is awaited.
 */
#include "hv/line/channel.h"

#include "hv/line/request.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define PATIENCE_S 2
#define OWED_MAX   200 /* small ones: fewer than a socket holds */

enum pool_state { POOL_NONE, POOL_JOINED, POOL_LOST, POOL_GONE };

struct pool {
	enum pool_state state;
	uint8_t uuid[16];
};

struct channel {
	pthread_mutex_t lock;
	_Atomic int fd; /* -1: no connection */
	_Atomic bool broken;
	uint64_t era;
	uint64_t sequence; /* of the last request */
	unsigned owed;
	struct pool pool[CHANNEL_POOLS_MAX];
	uint8_t page[LINE_PAGE_BYTES]; /* of the last reply */
};

/* ---- the format ---- */

static bool pool_fits(int32_t pool)
{
	return pool >= 0 && pool < CHANNEL_POOLS_MAX;
}

int channel_check(const void *msg, size_t n)
{
	struct line_entry e;
	size_t bytes = sizeof(e);
	bool good;

	if (n < sizeof(e))
		return -EPROTO;
	memcpy(&e, msg, sizeof(e));
	switch (e.op) {
	case LINE_OP_POOL_CREATE:
		good = e.pool == (int32_t)LINE_POOL_SHARED &&
		       e.index < CHANNEL_POOLS_MAX;
		break;
	case LINE_OP_PUT:
		bytes += LINE_PAGE_BYTES;
		good = pool_fits(e.pool);
		break;
	case LINE_OP_FLUSH_RANGE:
		good = pool_fits(e.pool) &&
		       request_range_fits(&e, CHANNEL_RANGE_MAX);
		break;
	case LINE_OP_POOL_DESTROY:
	case LINE_OP_GET:
	case LINE_OP_FLUSH_PAGE:
	case LINE_OP_FLUSH_OBJECT:
		good = pool_fits(e.pool);
		break;
	default:
		good = false;
	}
	return good && n == bytes ? 0 : -EPROTO;
}

/* ---- life ---- */

int channel_create(struct channel **out)
{
	struct channel *ch = calloc(1, sizeof(*ch));

	if (!ch)
		return -ENOMEM;
	pthread_mutex_init(&ch->lock, NULL);
	atomic_store(&ch->fd, -1);
	*out = ch;
	return 0;
}

void channel_destroy(struct channel *ch)
{
	if (!ch)
		return;
	if (ch->fd >= 0)
		close(ch->fd);
	pthread_mutex_destroy(&ch->lock);
	free(ch);
}

void channel_child_drop(struct channel *ch)
{
	int fd = atomic_load(&ch->fd);

	if (fd >= 0)
		close(fd);
}

/* ---- one request [lock held] ---- */

static void connection_end(struct channel *ch)
{
	int fd = atomic_exchange(&ch->fd, -1);

	if (fd >= 0)
		close(fd);
	atomic_store(&ch->broken, true);
	ch->owed = 0;
	for (int i = 0; i < CHANNEL_POOLS_MAX; i++)
		if (ch->pool[i].state == POOL_JOINED)
			ch->pool[i].state = POOL_LOST;
}

/* page: as it lies in the guest's memory; the kernel copies it once. */
static int request_send(struct channel *ch, struct line_entry *e, uint8_t *page)
{
	struct iovec iov[2] = {{e, sizeof(*e)}, {page, LINE_PAGE_BYTES}};
	bool put = e->op == LINE_OP_PUT;
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = put ? 2 : 1};

	if (ch->owed == OWED_MAX)
		return -EAGAIN;
	e->cookie = ++ch->sequence;
	e->result = 0;
	if (sendmsg(ch->fd, &mh, MSG_NOSIGNAL | (ch->owed ? MSG_DONTWAIT : 0)) <
	    0)
		return -errno;
	ch->owed += !put;
	return 0;
}

/* 0: *out, and ch->page if it came with one. -EAGAIN: there is none yet. */
static int reply_receive(struct channel *ch, int flags,
			 struct channel_reply *out, bool *with_page)
{
	struct iovec iov[2] = {{out, sizeof(*out)},
			       {ch->page, LINE_PAGE_BYTES}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t n = recvmsg(ch->fd, &mh, flags | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	*with_page = n == (ssize_t)CHANNEL_BYTES_MAX -
				  (ssize_t)sizeof(struct line_entry) +
				  (ssize_t)sizeof(*out);
	if ((n != (ssize_t)sizeof(*out) && !*with_page) || !ch->owed ||
	    mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EPROTO;
	ch->owed--;
	return 0;
}

/* Takes what nobody waits for any more. */
static int arrears_take(struct channel *ch)
{
	struct channel_reply reply;
	bool with_page;
	int rc = 0;

	while (ch->owed && !rc)
		rc = reply_receive(ch, MSG_DONTWAIT, &reply, &with_page);
	return rc == -EAGAIN ? 0 : rc;
}

/* The reply to the last request, and no other, is what is owed. */
static int reply_await(struct channel *ch, const struct line_entry *e,
		       uint8_t *slot, int *result_out)
{
	struct channel_reply reply;
	bool with_page;
	int rc = reply_receive(ch, 0, &reply, &with_page);

	if (rc)
		return rc;
	if (reply.sequence != ch->sequence || reply.result > 0 ||
	    with_page != (e->op == LINE_OP_GET && !reply.result))
		return -EPROTO;
	if (with_page)
		memcpy(slot, ch->page, LINE_PAGE_BYTES);
	*result_out = reply.result;
	return 0;
}

/* Of a request that nobody waits for. */
static int given_up(const struct line_entry *e)
{
	switch (e->op) {
	case LINE_OP_POOL_CREATE:
		return -EACCES;
	case LINE_OP_GET:
		return -ENOENT;
	default:
		return 0;
	}
}

static int late_do(struct channel *ch, struct line_entry *e)
{
	bool put = e->op == LINE_OP_PUT;
	int rc;

	if (e->op == LINE_OP_GET || e->op == LINE_OP_POOL_CREATE)
		return given_up(e);
	if (put)
		e->op = LINE_OP_FLUSH_PAGE;
	rc = request_send(ch, e, NULL);
	if (rc)
		return -ENOTCONN;
	return put ? -ENOMEM : 0;
}

/* -ENOTCONN: there is no connection, or no more. */
static int request_ask(struct channel *ch, struct line_entry e, uint8_t *slot)
{
	int rc, result = 0;

	if (ch->fd < 0)
		return -ENOTCONN;
	rc = arrears_take(ch);
	if (!rc && ch->owed) {
		result = late_do(ch, &e);
		rc = result == -ENOTCONN ? result : 0;
	} else if (!rc) {
		rc = request_send(ch, &e, slot);
		if (!rc && e.op != LINE_OP_PUT)
			rc = reply_await(ch, &e, slot, &result);
		if (rc == -EAGAIN) {
			result = given_up(&e);
			rc = ch->owed ? 0 : -ENOTCONN;
		}
	}
	if (!rc)
		return result;
	connection_end(ch);
	return -ENOTCONN;
}

/* ---- pools [lock held] ---- */

static int pool_leave(struct channel *ch, int n)
{
	struct line_entry e = {.op = LINE_OP_POOL_DESTROY, .pool = n};

	return request_ask(ch, e, NULL);
}

static int pool_join(struct channel *ch, int n)
{
	struct line_entry e = {.op = LINE_OP_POOL_CREATE,
			       .pool = LINE_POOL_SHARED,
			       .index = (line_u32)n};
	uint64_t before = ch->sequence;
	int rc;

	memcpy(e.oid, ch->pool[n].uuid, sizeof(ch->pool[n].uuid));
	rc = request_ask(ch, e, NULL);
	if (!rc)
		ch->pool[n].state = POOL_JOINED;
	else if (rc != -ENOTCONN && !ch->owed)
		ch->pool[n].state = POOL_GONE;
	else if (rc != -ENOTCONN && ch->sequence != before)
		(void)pool_leave(ch, n); /* it will be joined: for nobody */
	return rc;
}

/* 0, -ENOENT, or -ENOTCONN: nobody can be asked now. */
static int pool_ready(struct channel *ch, int n)
{
	if (n < 0 || n >= CHANNEL_POOLS_MAX)
		return -ENOENT;
	if (ch->pool[n].state == POOL_LOST && ch->fd >= 0 && pool_join(ch, n))
		return ch->pool[n].state == POOL_GONE ? -ENOENT : -ENOTCONN;
	switch (ch->pool[n].state) {
	case POOL_JOINED:
		return 0;
	case POOL_LOST:
		return -ENOTCONN;
	default:
		return -ENOENT;
	}
}

static int pool_create(struct channel *ch, const struct line_entry *entry)
{
	int n = 0, rc;

	if (entry->pool != (int32_t)LINE_POOL_SHARED)
		return -EINVAL;
	while (n < CHANNEL_POOLS_MAX && ch->pool[n].state != POOL_NONE)
		n++;
	if (n == CHANNEL_POOLS_MAX)
		return -ENOSPC;
	memcpy(ch->pool[n].uuid, entry->oid, sizeof(ch->pool[n].uuid));
	rc = pool_join(ch, n);
	if (!rc)
		return CHANNEL_POOL_FIRST + n;
	ch->pool[n].state = POOL_NONE;
	return rc == -ENOTCONN ? -EACCES : rc;
}

static int pool_destroy(struct channel *ch, int n)
{
	if (n < 0 || n >= CHANNEL_POOLS_MAX || ch->pool[n].state == POOL_NONE)
		return -ENOENT;
	if (ch->pool[n].state == POOL_JOINED)
		(void)pool_leave(ch, n); /* or the connection is no more */
	ch->pool[n].state = POOL_NONE;
	return 0;
}

/* ---- requests for pages [lock held] ---- */

/* In pieces, so that one guest does not keep hvd from another's. */
static int range_flush(struct channel *ch, struct line_entry e)
{
	uint64_t left = e.count;
	int rc = 0;

	while (left && !rc) {
		e.count = (line_u32)min_u64(left, CHANNEL_RANGE_MAX);
		rc = request_ask(ch, e, NULL);
		left -= e.count;
		e.index += e.count;
	}
	return rc;
}

static int page_do(struct channel *ch, struct line_entry e, uint8_t *slot)
{
	int rc;

	e.pool -= CHANNEL_POOL_FIRST;
	rc = pool_ready(ch, e.pool);
	if (!rc)
		rc = e.op == LINE_OP_FLUSH_RANGE ? range_flush(ch, e)
						 : request_ask(ch, e, slot);
	if (rc != -ENOTCONN)
		return rc;
	if (e.op == LINE_OP_GET)
		return -ENOENT;
	return e.op == LINE_OP_PUT ? -ENOMEM : 0;
}

static int entry_do(struct channel *ch, const struct line_entry *entry,
		    uint8_t *slot)
{
	switch (entry->op) {
	case LINE_OP_POOL_CREATE:
		return pool_create(ch, entry);
	case LINE_OP_POOL_DESTROY:
		return pool_destroy(ch, entry->pool - CHANNEL_POOL_FIRST);
	case LINE_OP_PUT:
	case LINE_OP_GET:
	case LINE_OP_FLUSH_PAGE:
	case LINE_OP_FLUSH_OBJECT:
	case LINE_OP_FLUSH_RANGE:
		return page_do(ch, *entry, slot);
	default:
		return -EINVAL;
	}
}

/* ---- the interface ---- */

bool channel_wants(const struct line_entry *entry)
{
	if (entry->op == LINE_OP_POOL_CREATE)
		return entry->pool & (int32_t)LINE_POOL_SHARED;
	return entry->op != LINE_OP_NOP && entry->pool >= CHANNEL_POOL_FIRST;
}

int channel_do(struct channel *ch, const struct line_entry *entry,
	       uint8_t *slot)
{
	int rc;

	pthread_mutex_lock(&ch->lock);
	rc = entry_do(ch, entry, slot);
	pthread_mutex_unlock(&ch->lock);
	return rc;
}

bool channel_is_broken(const struct channel *ch)
{
	return atomic_load(&ch->broken);
}

void channel_leave(struct channel *ch)
{
	pthread_mutex_lock(&ch->lock);
	for (int n = 0; n < CHANNEL_POOLS_MAX; n++)
		(void)pool_destroy(ch, n);
	pthread_mutex_unlock(&ch->lock);
}

void channel_attach(struct channel *ch, int fd, uint64_t era)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};

	pthread_mutex_lock(&ch->lock);
	connection_end(ch);
	/* Without a bound it would be a stopped hvd that stops the guest. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience,
		       sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience,
		       sizeof(patience))) {
		close(fd);
		fd = -1;
	}
	for (int n = 0; n < CHANNEL_POOLS_MAX; n++)
		if (ch->pool[n].state == POOL_LOST && era == ch->era)
			ch->pool[n].state = POOL_GONE;
	ch->era = era;
	atomic_store(&ch->fd, fd);
	atomic_store(&ch->broken, fd < 0);
	pthread_mutex_unlock(&ch->lock);
}
