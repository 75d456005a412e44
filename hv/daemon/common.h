/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The common stores: one struct tmem for each trust domain whose VMs share
 * pools, served by one thread for all of them. It knows VMs as members, each
 * with a channel (hv/line/channel.h), and nothing else of hvd.
 *
 * All calls are hvd's main thread's, and none waits for the store: what takes
 * time is a job, whose answer comes later, and figures are as they were a
 * moment ago.
 */
#ifndef HV_DAEMON_COMMON_H
#define HV_DAEMON_COMMON_H

#include "hv/base/types.h"
#include "hv/line/channel.h"
#include "hv/line/line.h"
#include "tmem/tmem.h"

struct common;
struct common_store;
struct common_member;

MUST_CHECK int common_create(struct common **out);
/* All stores and members with it. NULL is allowed. */
void common_destroy(struct common *c);

/* Readable when there are answers. */
int common_fd(const struct common *c);

/* Of a trust domain; costs no memory to speak of until a pool is joined. */
MUST_CHECK int common_store_create(struct common *c, struct common_store **out);
/* It goes when its last member has. No member is created after this. */
void common_store_drop(struct common_store *store);

/*
 * name: the VM's; copied. *fd_out: the other end of its channel, the caller's.
 * Nothing is lent to it at first. -ENOMEM, -EMFILE.
 */
MUST_CHECK int common_member_create(struct common_store *store,
				    const char *name, int *fd_out,
				    struct common_member **out);
/*
 * What it has sent is still done; then its channel is closed and its pages are
 * gone. The same happens when the other end is closed, without this.
 */
void common_member_drop(struct common_member *m);

/* The most bytes it may be charged for its pages: tmem_client_lend. */
void common_lend(struct common_member *m, uint64_t bytes);

enum common_op {
	COMMON_AUTH,	 /* uuid, on */
	COMMON_COMPRESS, /* on */
	COMMON_FREEZE,	 /* on */
	COMMON_DESTROY,	 /* pool, 0 to CHANNEL_POOLS_MAX - 1, or -1: all.
			    Value: pages */
	COMMON_FLUSH,	 /* bytes. Value: bytes freed */
	COMMON_CHECK,	 /* the member's whole store */
};

struct common_job {
	enum common_op op;
	bool on;
	int pool;
	uint64_t bytes;
	uint8_t uuid[16];
	uint64_t id; /* of the answer; 0: none is wanted */
};

struct common_answer {
	uint64_t id;
	int rc;
	int64_t value;
};

/* In the order asked. -ENOMEM. */
MUST_CHECK int common_ask(struct common_member *m,
			  const struct common_job *job);
/* False: there is none now. */
bool common_answer_take(struct common *c, struct common_answer *out);

struct common_member_stats {
	uint64_t pages;
	uint64_t bytes; /* what they take, their part of all waste included */
	uint64_t evicted;
	uint64_t lent_bytes; /* the most they may take now */
	bool pool[CHANNEL_POOLS_MAX];
	struct line_counts count;
};

struct common_store_stats {
	struct tmem_stats tmem;
	uint64_t freeable_bytes; /* of tmem.used_bytes */
};

void common_member_stats(const struct common_member *m,
			 struct common_member_stats *out);
void common_store_stats(const struct common_store *store,
			struct common_store_stats *out);

#endif
