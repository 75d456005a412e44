/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See common.h.
 *
 *   main thread                       the common thread
 *     jobs, members to drop,  ------>   stores, clients, channels: its own
 *     what is lent            (lock)
 *     answers, figures       <------    copies of them
 *
 * Why a thread: a put compresses and a flush may free a gigabyte, and neither
 * may hold up the arbiter. Why only one: the stores are a cache, and their
 * traffic is bounded by what one guest's eviction brings. Everything of tmem
 * is done by the one thread, so a client is destroyed when nobody is in it.
 *
 * Each turn takes one message from each channel that has one: who floods gets
 * as many turns as anybody, and waits for itself.
 *
 * A member:   NEW --> OPEN --end of file, nonsense, answers not read,--> ENDED
 *                       '---dropped: all it sent is done first------------^
 *
 * and is freed when it was dropped.
 *
 * Lock: c->lock guards what is marked so. It is held for copying, never for a
 * call of the store or of the kernel.
 */
#include "hv/daemon/common_core.h"

#include "hv/base/host.h"
#include "hv/base/log.h"
#include "hv/base/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS_NS	     UINT64_C(1000000)
#define EVENTS	     64
#define SLICE_NS     (MS_NS / 5)
#define SHOW_MS	     50 /* figures are older than this only at rest */
#define SOCKET_BYTES (1 << 20)

/* ---- figures [thread] --------------------------------------------------- */

static void member_show(struct common_member *m)
{
	struct common_member_stats st;

	member_stats(m, &st);
	pthread_mutex_lock(&m->store->common->lock);
	m->shown = st;
	pthread_mutex_unlock(&m->store->common->lock);
}

static void store_show(struct common_store *store)
{
	struct common_store_stats st = {0};

	if (store->tm) {
		tmem_stats(store->tm, &st.tmem);
		st.freeable_bytes = tmem_freeable_used(store->tm);
	}
	pthread_mutex_lock(&store->common->lock);
	store->shown = st;
	pthread_mutex_unlock(&store->common->lock);
}

static void show(struct common *c)
{
	struct common_member *m;
	struct common_store *store;

	TAILQ_FOREACH (m, &c->members, entry)
		member_show(m);
	TAILQ_FOREACH (store, &c->stores, entry)
		store_show(store);
	c->moved = false;
}

/* ---- what the main thread wants [thread] -------------------------------- */

static void jobs_do(struct common *c, struct job_list *jobs)
{
	struct job *job;

	while ((job = STAILQ_FIRST(jobs))) {
		STAILQ_REMOVE_HEAD(jobs, entry);
		job->answer.id = job->what.id;
		job->answer.rc =
			member_job(job->member, &job->what, &job->answer.value);
		show(c); /* whoever has the answer sees what it did */
		if (!job->what.id) {
			free(job);
			continue;
		}
		pthread_mutex_lock(&c->lock);
		STAILQ_INSERT_TAIL(&c->answers, job, entry);
		pthread_mutex_unlock(&c->lock);
		eventfd_write(c->answer_fd, 1);
	}
}

/* Nothing more can be sent; what was is done first. */
static void member_free(struct common_member *m)
{
	if (m->fd >= 0)
		shutdown(m->fd, SHUT_RDWR);
	while (member_serve(m))
		;
	member_end(m);
	TAILQ_REMOVE(&m->store->common->members, m, entry);
	m->store->members--;
	free(m);
}

static void members_tend(struct common *c)
{
	struct common_member *m, *next;

	for (m = TAILQ_FIRST(&c->members); m; m = next) {
		next = TAILQ_NEXT(m, entry);
		if (m->leaving)
			member_free(m);
		else
			member_lend(m, m->lend_now);
	}
}

static void stores_tend(struct common *c)
{
	struct common_store *store, *next;

	for (store = TAILQ_FIRST(&c->stores); store; store = next) {
		next = TAILQ_NEXT(store, entry);
		if (!store->leaving || store->members)
			continue;
		TAILQ_REMOVE(&c->stores, store, entry);
		tmem_destroy(store->tm);
		free(store);
	}
}

/* Jobs for a member were asked before it was dropped: both are taken at once.
 */
static void wishes_take(struct common *c, struct job_list *jobs)
{
	struct common_store *store;
	struct common_member *m;

	STAILQ_INIT(jobs);
	pthread_mutex_lock(&c->lock);
	STAILQ_CONCAT(jobs, &c->jobs);
	TAILQ_FOREACH (m, &c->fresh, entry)
		m->store->members++;
	TAILQ_CONCAT(&c->members, &c->fresh, entry);
	TAILQ_CONCAT(&c->stores, &c->fresh_stores, entry);
	TAILQ_FOREACH (m, &c->members, entry) {
		m->leaving = m->dropped;
		m->lend_now = m->lend_wanted;
	}
	TAILQ_FOREACH (store, &c->stores, entry)
		store->leaving = store->dropped;
	pthread_mutex_unlock(&c->lock);
}

static void wishes_do(struct common *c)
{
	struct job_list jobs;
	eventfd_t ignored;

	(void)eventfd_read(c->wake_fd, &ignored);
	wishes_take(c, &jobs);
	jobs_do(c, &jobs);
	members_tend(c);
	stores_tend(c);
}

/* ---- the thread -----------------------------------------------------------
 */

static void *common_main(void *arg)
{
	struct epoll_event events[EVENTS];
	struct common *c = arg;
	uint64_t shown_ns = 0;
	bool woken;
	int n;

	pthread_setname_np(pthread_self(), "hvd-common");
	/* A guest waits for each get; those that compute can wait for us. */
	if (host_real.thread_slice(SLICE_NS))
		log_debug("shared pools: this kernel has no slices to set");
	while (!atomic_load(&c->stopping)) {
		n = epoll_wait(c->epoll_fd, events, EVENTS,
			       c->moved ? SHOW_MS : -1);
		woken = false;
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr)
				(void)member_serve(events[i].data.ptr);
			else
				woken = true;
		}
		if (woken)
			wishes_do(c);
		if (!c->moved ||
		    (n && host_real.now_ns() - shown_ns < SHOW_MS * MS_NS))
			continue;
		show(c);
		shown_ns = host_real.now_ns();
	}
	return NULL;
}

/* ---- life [main thread from here on] --------------------------------------
 */

static void wake(struct common *c)
{
	(void)eventfd_write(c->wake_fd, 1);
}

static int fds_open(struct common *c)
{
	struct epoll_event event = {.events = EPOLLIN};

	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->answer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->epoll_fd < 0 || c->wake_fd < 0 || c->answer_fd < 0 ||
	    epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wake_fd, &event))
		return -errno;
	return 0;
}

static void common_free(struct common *c)
{
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	if (c->answer_fd >= 0)
		close(c->answer_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int common_create(struct common **out)
{
	struct common *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	TAILQ_INIT(&c->fresh);
	TAILQ_INIT(&c->fresh_stores);
	TAILQ_INIT(&c->members);
	TAILQ_INIT(&c->stores);
	STAILQ_INIT(&c->jobs);
	STAILQ_INIT(&c->answers);
	rc = fds_open(c);
	if (!rc)
		rc = thread_start(&c->thread, common_main, c);
	if (rc) {
		common_free(c);
		return rc;
	}
	*out = c;
	return 0;
}

static void jobs_free(struct job_list *jobs)
{
	struct job *job;

	while ((job = STAILQ_FIRST(jobs))) {
		STAILQ_REMOVE_HEAD(jobs, entry);
		free(job);
	}
}

void common_destroy(struct common *c)
{
	struct common_store *store;
	struct common_member *m;
	struct job_list jobs;

	if (!c)
		return;
	atomic_store(&c->stopping, true);
	wake(c);
	pthread_join(c->thread, NULL);
	wishes_take(c, &jobs);
	jobs_free(&jobs);
	jobs_free(&c->answers);
	TAILQ_FOREACH (m, &c->members, entry)
		m->leaving = true;
	TAILQ_FOREACH (store, &c->stores, entry)
		store->leaving = true;
	members_tend(c);
	stores_tend(c);
	common_free(c);
}

int common_fd(const struct common *c)
{
	return c->answer_fd;
}

int common_store_create(struct common *c, struct common_store **out)
{
	struct common_store *store = calloc(1, sizeof(*store));

	if (!store)
		return -ENOMEM;
	store->common = c;
	pthread_mutex_lock(&c->lock);
	TAILQ_INSERT_TAIL(&c->fresh_stores, store, entry);
	pthread_mutex_unlock(&c->lock);
	wake(c);
	*out = store;
	return 0;
}

void common_store_drop(struct common_store *store)
{
	struct common *c = store->common;

	pthread_mutex_lock(&c->lock);
	store->dropped = true;
	pthread_mutex_unlock(&c->lock);
	wake(c);
}

static struct common_member *member_new(struct common_store *store,
					const char *name)
{
	struct common_member *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->store = store;
	m->compress = true;
	m->fd = -1;
	snprintf(m->name, sizeof(m->name), "%s", name);
	for (int i = 0; i < CHANNEL_POOLS_MAX; i++)
		m->pool[i] = -1;
	return m;
}

/* Room for all replies an agent may leave unread for a while: channel.c. */
static int channel_open(int end[2])
{
	int bytes = SOCKET_BYTES;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, end))
		return -errno;
	for (int i = 0; i < 2; i++)
		if (setsockopt(end[i], SOL_SOCKET, SO_SNDBUF, &bytes,
			       sizeof(bytes)))
			log_debug("a channel keeps its send buffer");
	return 0;
}

int common_member_create(struct common_store *store, const char *name,
			 int *fd_out, struct common_member **out)
{
	struct common_member *m = member_new(store, name);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = m};
	struct common *c = store->common;
	int end[2], rc;

	if (!m)
		return -ENOMEM;
	rc = channel_open(end);
	if (rc) {
		free(m);
		return rc;
	}
	m->fd = end[0];
	pthread_mutex_lock(&c->lock);
	TAILQ_INSERT_TAIL(&c->fresh, m, entry);
	pthread_mutex_unlock(&c->lock);
	*out = m;
	*fd_out = end[1];
	if (!epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, end[0], &event)) {
		wake(c);
		return 0;
	}
	rc = -errno;
	close(end[1]);
	common_member_drop(m);
	return rc;
}

void common_member_drop(struct common_member *m)
{
	struct common *c = m->store->common;

	pthread_mutex_lock(&c->lock);
	m->dropped = true;
	pthread_mutex_unlock(&c->lock);
	wake(c);
}

/* ---- asking and telling ---------------------------------------------------
 */

void common_lend(struct common_member *m, uint64_t bytes)
{
	struct common *c = m->store->common;
	bool differs;

	pthread_mutex_lock(&c->lock);
	differs = m->lend_wanted != bytes;
	m->lend_wanted = bytes;
	pthread_mutex_unlock(&c->lock);
	if (differs)
		wake(c);
}

int common_ask(struct common_member *m, const struct common_job *what)
{
	struct common *c = m->store->common;
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return -ENOMEM;
	job->member = m;
	job->what = *what;
	pthread_mutex_lock(&c->lock);
	STAILQ_INSERT_TAIL(&c->jobs, job, entry);
	pthread_mutex_unlock(&c->lock);
	wake(c);
	return 0;
}

bool common_answer_take(struct common *c, struct common_answer *out)
{
	struct job *job;
	eventfd_t ignored;

	(void)eventfd_read(c->answer_fd, &ignored);
	pthread_mutex_lock(&c->lock);
	job = STAILQ_FIRST(&c->answers);
	if (job)
		STAILQ_REMOVE_HEAD(&c->answers, entry);
	pthread_mutex_unlock(&c->lock);
	if (!job)
		return false;
	*out = job->answer;
	free(job);
	return true;
}

void common_member_stats(const struct common_member *m,
			 struct common_member_stats *out)
{
	struct common *c = m->store->common;

	pthread_mutex_lock(&c->lock);
	*out = m->shown;
	pthread_mutex_unlock(&c->lock);
}

void common_store_stats(const struct common_store *store,
			struct common_store_stats *out)
{
	struct common *c = store->common;

	pthread_mutex_lock(&c->lock);
	*out = store->shown;
	pthread_mutex_unlock(&c->lock);
}
