/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * struct share, for share.c (looking for pages) and merge.c (answering hvd).
 * One thread, no locks, but for the ring of hints.
 */
#ifndef SHARING_SHARE_CORE_H
#define SHARING_SHARE_CORE_H

#include "sharing/share.h"

#include <pthread.h>

#define OFFERS_MAX                                                             \
	((WIRE_MAX - sizeof(struct wire_head)) / sizeof(struct wire_offer))
#define HINTS_MAX 128

struct hint {
	hva_t hva;
	size_t bytes;
};

struct hints {
	pthread_mutex_t lock;
	unsigned n;
	struct hint hint[HINTS_MAX];
};

/* Work hvd gave us; grows as needed, freed when empty. */
struct queue {
	void *item;
	size_t bytes; /* room */
	size_t n, at;
};

struct share {
	struct mm *mm;
	share_send_fn *send;
	void *arg;
	bool running;
	bool may_share;
	uint8_t secret[192];

	/* the pass under way */
	size_t cursor;
	uint64_t pass_ns; /* when it began */
	uint64_t next_pass_ns;
	uint64_t rest_ns; /* before the next pass; doubles up to scan_ns */
	uint64_t scan_ns;

	/* offers not sent yet */
	size_t offers;
	struct {
		struct wire_head head;
		struct wire_offer offer[OFFERS_MAX];
	} * out;

	struct queue wants;  /* struct wire_want */
	struct queue grants; /* struct mm_page_map */
	uint64_t grants_since_ns;
	uint64_t granted_ns; /* when the last came */

	struct hints hints;
	uint64_t scans;
	uint64_t hint_pages;
};

/* ---- merge.c ---- */

/* Works off wants and grants. Returns true if there may be more to do. */
bool merge_work(struct share *sh, uint64_t now);
void merge_forget(struct share *sh);

#endif
