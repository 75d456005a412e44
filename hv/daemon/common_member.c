/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A member of a common store: its channel's messages, and what hvd wants of it.
 * All of it is the common thread's: see common.c.
 *
 * A message is checked once, in the thread's own buffer, where neither guest
 * nor agent can reach it, and is then a request like any of a line's
 * (hv/line/request.c), of a client that has only shared pools.
 *
 * Its number of a pool (the agent's choice) and the store's are kept apart, so
 * that a pool which the administrator destroyed is not met again by the number
 * of another.
 */
#include "hv/daemon/common_core.h"

#include "hv/base/log.h"
#include "hv/line/request.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a member's client ----------------------------------------- */

static unsigned auth_find(const struct common_member *m, const uint8_t *uuid)
{
	unsigned n = 0;

	while (n < m->auths && memcmp(m->auth[n], uuid, 16))
		n++;
	return n;
}

static int client_tune(struct common_member *m)
{
	int rc = tmem_client_set(m->client, TMEM_WEIGHT_NORMAL, 0, 0,
				 m->compress);

	if (!rc)
		rc = tmem_client_lend(m->client, m->lent);
	if (!rc && m->frozen)
		rc = tmem_freeze(m->client, true);
	for (unsigned n = 0; n < m->auths && !rc; n++)
		rc = tmem_client_auth(m->client, m->auth[n], true);
	return rc;
}

/* At its first pool. */
static int client_ready(struct common_member *m)
{
	int rc = 0;

	if (m->client)
		return 0;
	if (!m->store->tm)
		rc = tmem_create(0, &m->store->tm);
	if (rc)
		return rc;
	rc = tmem_client_create(m->store->tm, m->name, &m->client);
	if (rc) {
		m->client = NULL;
		return rc;
	}
	rc = client_tune(m);
	if (!rc)
		return 0;
	tmem_client_destroy(m->client);
	m->client = NULL;
	return rc;
}

void member_end(struct common_member *m)
{
	if (m->fd < 0)
		return;
	close(m->fd); /* and so it leaves the epoll */
	m->fd = -1;
	if (m->client)
		tmem_client_destroy(m->client);
	m->client = NULL;
	for (int i = 0; i < CHANNEL_POOLS_MAX; i++)
		m->pool[i] = -1;
	m->store->common->moved = true;
}

/* ---- requests -------------------------------------------------- */

/* Answers line.h's numbers, as request_do. */
static int32_t pool_join(struct common_member *m, const struct line_entry *e)
{
	uint32_t n = e->index;
	int32_t rc;

	memcpy(m->uuid[n], e->oid, sizeof(m->uuid[n]));
	if (m->pool[n] >= 0)
		return LINE_EINVAL;
	if (auth_find(m, m->uuid[n]) == m->auths)
		return LINE_EACCES;
	if (client_ready(m))
		return LINE_ENOMEM;
	rc = request_do(m->client, NULL, e, NULL, &m->count);
	if (rc < 0)
		return rc;
	m->pool[n] = rc;
	return 0;
}

static int32_t request_serve(struct common_member *m, struct line_entry *e,
			     uint8_t *page)
{
	int n = e->pool;
	int32_t rc;

	if (e->op == LINE_OP_POOL_CREATE)
		return pool_join(m, e);
	if (m->pool[n] < 0)
		return LINE_ENOENT;
	e->pool = m->pool[n];
	rc = request_do(m->client, NULL, e, page, &m->count);
	if (e->op == LINE_OP_POOL_DESTROY)
		m->pool[n] = -1;
	return rc;
}

/* An agent that is gone need not hear it; one that does not read is cut off. */
static int reply_send(struct common_member *m, struct channel_reply *reply,
		      uint8_t *page)
{
	struct iovec iov[2] = {{reply, sizeof(*reply)},
			       {page, LINE_PAGE_BYTES}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = page ? 2 : 1};

	if (sendmsg(m->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
	    errno == EPIPE || errno == ECONNRESET)
		return 0;
	return -errno;
}

static int message_do(struct common_member *m, size_t bytes)
{
	struct line_entry *e = &m->store->common->in.entry;
	uint8_t *page = m->store->common->in.page;
	struct channel_reply reply = {0};
	bool get, put;

	if (channel_check(e, bytes))
		return -EPROTO;
	get = e->op == LINE_OP_GET;
	put = e->op == LINE_OP_PUT;
	reply.sequence = e->cookie;
	reply.result = request_serve(m, e, page);
	m->store->common->moved = true;
	if (put)
		return 0;
	return reply_send(m, &reply, get && !reply.result ? page : NULL);
}

/*
 * One message. False: there is none now, or no more. An agent that died with
 * replies unread is an error once, before what it had sent.
 */
bool member_serve(struct common_member *m)
{
	struct common *c = m->store->common;
	struct iovec iov = {&c->in, sizeof(c->in)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;
	int rc;

	if (m->fd < 0)
		return false;
	n = recvmsg(m->fd, &mh, MSG_DONTWAIT);
	if (n < 0 && errno == ECONNRESET)
		return true;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	rc = n > 0 && mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EPROTO : 0;
	if (n > 0 && !rc)
		rc = message_do(m, (size_t)n);
	if (rc)
		log_warn("vm %s: its way to shared pools is closed: %s",
			 m->name,
			 rc == -EPROTO ? "malformed request"
				       : "it does not read its answers");
	if (n > 0 && !rc)
		return true;
	member_end(m);
	return false;
}

/* ---- jobs ------------------------------------------------------ */

static uint64_t client_pages(const struct common_member *m)
{
	struct tmem_client_stats st;

	if (!m->client)
		return 0;
	tmem_client_stats(m->client, &st);
	return st.pages_ephemeral;
}

static int auth_do(struct common_member *m, const struct common_job *job)
{
	unsigned n = auth_find(m, job->uuid);

	if (job->on == (n < m->auths))
		return 0;
	if (job->on && m->auths == TMEM_AUTHS_MAX)
		return -ENOSPC;
	if (job->on)
		memcpy(m->auth[m->auths++], job->uuid, 16);
	else
		memmove(m->auth[n], m->auth[--m->auths], 16);
	for (int i = 0; i < CHANNEL_POOLS_MAX && !job->on; i++)
		if (!memcmp(m->uuid[i], job->uuid, 16))
			m->pool[i] = -1; /* the client leaves it now */
	return m->client ? tmem_client_auth(m->client, job->uuid, job->on) : 0;
}

static int compress_do(struct common_member *m, bool on)
{
	m->compress = on;
	return m->client ? tmem_client_set(m->client, TMEM_WEIGHT_NORMAL, 0, 0,
					   on)
			 : 0;
}

static int freeze_do(struct common_member *m, bool on)
{
	m->frozen = on;
	return m->client ? tmem_freeze(m->client, on) : 0;
}

static int destroy_do(struct common_member *m, int pool, int64_t *value_out)
{
	uint64_t before = client_pages(m);
	int rc = pool < 0 ? 0 : -ENOENT;

	for (int i = 0; i < CHANNEL_POOLS_MAX; i++) {
		if ((pool >= 0 && pool != i) || m->pool[i] < 0)
			continue;
		rc = tmem_pool_destroy(m->client, m->pool[i]);
		m->pool[i] = -1;
	}
	*value_out = (int64_t)(before - client_pages(m));
	return rc;
}

/* Of bytes charged, what the host would get back, or the other way round. */
static uint64_t convert(uint64_t bytes, uint64_t from, uint64_t to)
{
	double out = (double)bytes * (double)to / (double)(from ? from : 1);

	return out < 0x1p62 ? (uint64_t)out : (uint64_t)1 << 62;
}

static uint64_t bytes_charged(const struct common_member *m)
{
	struct tmem_client_stats st;

	if (!m->client)
		return 0;
	tmem_client_stats(m->client, &st);
	return st.bytes_ephemeral;
}

static uint64_t bytes_used(const struct common_member *m)
{
	uint64_t charged = bytes_charged(m);

	return charged ? convert(charged, tmem_freeable(m->store->tm),
				 tmem_freeable_used(m->store->tm))
		       : 0;
}

/* What would be lent to it if it were lent so much less. */
static int flush_do(struct common_member *m, uint64_t bytes, int64_t *value_out)
{
	uint64_t used = bytes_used(m), charged = bytes_charged(m), before;
	int rc;

	if (!charged || !bytes)
		return 0;
	before = tmem_freeable_used(m->store->tm);
	bytes = bytes < used ? convert(bytes, used, charged) : charged;
	rc = tmem_client_lend(m->client, charged - bytes);
	if (!rc)
		rc = tmem_client_lend(m->client, m->lent);
	*value_out = (int64_t)(before - tmem_freeable_used(m->store->tm));
	return rc;
}

void member_lend(struct common_member *m, uint64_t bytes)
{
	if (m->lent == bytes)
		return;
	m->lent = bytes;
	m->store->common->moved = true;
	if (m->client && tmem_client_lend(m->client, bytes))
		log_error("vm %s: what it is lent cannot be set", m->name);
}

void member_stats(const struct common_member *m,
		  struct common_member_stats *out)
{
	struct tmem_client_stats st;

	*out = (struct common_member_stats){.bytes = bytes_used(m),
					    .lent_bytes = m->lent,
					    .count = m->count};
	if (!m->client)
		return;
	tmem_client_stats(m->client, &st);
	out->pages = st.pages_ephemeral;
	for (int i = 0; i < TMEM_EVICT_WHYS; i++)
		out->evicted += st.evicted[i];
	for (int i = 0; i < CHANNEL_POOLS_MAX; i++)
		out->pool[i] = m->pool[i] >= 0;
}

int member_job(struct common_member *m, const struct common_job *job,
	       int64_t *value_out)
{
	*value_out = 0;
	switch (job->op) {
	case COMMON_AUTH:
		return auth_do(m, job);
	case COMMON_COMPRESS:
		return compress_do(m, job->on);
	case COMMON_FREEZE:
		return freeze_do(m, job->on);
	case COMMON_DESTROY:
		return destroy_do(m, job->pool, value_out);
	case COMMON_FLUSH:
		return flush_do(m, job->bytes, value_out);
	case COMMON_CHECK:
		return m->store->tm ? tmem_check(m->store->tm) : 0;
	}
	return -EINVAL;
}
