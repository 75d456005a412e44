/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What common.c and common_member.c know of each other, and nobody else. */
#ifndef HV_DAEMON_COMMON_CORE_H
#define HV_DAEMON_COMMON_CORE_H

#include "hv/daemon/common.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

struct job {
	STAILQ_ENTRY(job) entry;
	struct common_member *member;
	struct common_job what;
	struct common_answer answer;
};

STAILQ_HEAD(job_list, job);
TAILQ_HEAD(member_list, common_member);
TAILQ_HEAD(store_list, common_store);

struct common_store {
	TAILQ_ENTRY(common_store) entry;
	struct common *common;
	bool dropped;			 /* lock */
	struct common_store_stats shown; /* lock */

	/* The thread's. */
	bool leaving;
	unsigned members;
	struct tmem *tm; /* NULL: nobody joined a pool yet */
};

struct common_member {
	TAILQ_ENTRY(common_member) entry;
	struct common_store *store;
	char name[TMEM_NAME_MAX];
	bool dropped;			  /* lock */
	uint64_t lend_wanted;		  /* lock */
	struct common_member_stats shown; /* lock */

	/* The thread's. */
	bool leaving;
	int fd;			     /* -1: ended */
	uint64_t lend_now;	     /* wanted */
	uint64_t lent;		     /* as the store was told */
	struct tmem_client *client;  /* NULL: it joined no pool yet */
	int pool[CHANNEL_POOLS_MAX]; /* the store's number; -1: none */
	uint8_t uuid[CHANNEL_POOLS_MAX][16];
	uint8_t auth[TMEM_AUTHS_MAX][16];
	unsigned auths;
	bool compress, frozen;
	struct line_counts count;
};

struct common {
	pthread_t thread;
	int epoll_fd, wake_fd, answer_fd;
	_Atomic bool stopping;

	pthread_mutex_t lock;
	struct member_list fresh;	/* lock */
	struct store_list fresh_stores; /* lock */
	struct job_list jobs;		/* lock */
	struct job_list answers;	/* lock: what was done */

	/* The thread's. */
	struct member_list members;
	struct store_list stores;
	bool moved; /* figures are not as shown */
	struct {
		struct line_entry entry;
		uint8_t page[LINE_PAGE_BYTES];
	} in;
};

_Static_assert(sizeof(((struct common *)0)->in) == CHANNEL_BYTES_MAX,
	       "a request lies in it as it comes");

/* ---- common_member.c [thread] ---- */

/*
 * Does one message. False: there is none now, or no more, and the member has
 * ended.
 */
bool member_serve(struct common_member *m);
/* Its channel is closed, and its pages are gone. */
void member_end(struct common_member *m);
MUST_CHECK int member_job(struct common_member *m, const struct common_job *job,
			  int64_t *value_out);
void member_lend(struct common_member *m, uint64_t bytes);
/* Its figures as they are now. */
void member_stats(const struct common_member *m,
		  struct common_member_stats *out);

#endif
