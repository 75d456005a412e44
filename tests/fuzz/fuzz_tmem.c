/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bytes as operations of a hostile guest and a careless administrator, each
 * answer compared with a naive model: pools come and go, ids and flags are
 * anything, memory is short. Every 64 operations the store is checked whole.
 */
#include "tmem/tmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLIENTS 2
#define POOLS	3
#define OBJECTS 2
#define INDEXES 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *at;
	size_t left;
};

struct world {
	struct tmem *tm;
	struct tmem_client *cl[CLIENTS];
	int kind[CLIENTS][POOLS];		    /* flags, or -1: no pool */
	int held[CLIENTS][POOLS][OBJECTS][INDEXES]; /* fill, or -1 */
	bool frozen[CLIENTS];
};

#define MUST(x)                                                                \
	do {                                                                   \
		if (!(x))                                                      \
			abort();                                               \
	} while (0)

static unsigned take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

/* fill tells the page: repeated, half random, or random. */
static void page_make(int fill, uint8_t *page)
{
	uint32_t x = (uint32_t)fill * 2654435761u + 1;
	size_t random = (size_t)(fill & 15) * (PAGE_BYTES / 15);

	memset(page, fill, PAGE_BYTES);
	for (size_t i = 0; i < random; i++) {
		x = x * 1664525 + 1013904223;
		page[i] = (uint8_t)(x >> 24);
	}
}

struct place {
	unsigned c, p, o, i;
	struct tmem_oid oid;
	uint32_t index;
};

static struct place place_take(struct input *in)
{
	struct place at;
	unsigned a = take(in);
	unsigned b = take(in);

	at.c = a % CLIENTS;
	at.p = a / CLIENTS % POOLS;
	at.o = a / (CLIENTS * POOLS) % OBJECTS;
	at.i = b % INDEXES;
	at.oid = (struct tmem_oid){{at.o, 0, ~(uint64_t)at.o}};
	at.index =
		at.i < INDEXES / 2 ? at.i : UINT32_MAX - (at.i - INDEXES / 2);
	return at;
}

static int *held(struct world *w, const struct place *at)
{
	return &w->held[at->c][at->p][at->o][at->i];
}

static void forget_pool(struct world *w, unsigned c, unsigned p)
{
	for (unsigned o = 0; o < OBJECTS; o++)
		for (unsigned i = 0; i < INDEXES; i++)
			w->held[c][p][o][i] = -1;
}

static void do_put(struct world *w, struct input *in)
{
	struct place at = place_take(in);
	int fill = (int)take(in);
	int kind = w->kind[at.c][at.p];
	uint8_t page[PAGE_BYTES];
	int rc;

	page_make(fill, page);
	rc = tmem_put(w->cl[at.c], (int)at.p, &at.oid, at.index, page);
	if (kind < 0)
		MUST(rc == -ENOENT);
	else
		MUST(rc == 0 || rc == -ENOMEM || rc == -EBUSY);
	if (rc == -EBUSY) {
		MUST(w->frozen[at.c]);
		MUST(kind == TMEM_EPHEMERAL || *held(w, &at) < 0);
	}
	if (rc == 0 && w->frozen[at.c])
		MUST(*held(w, &at) >= 0);
	*held(w, &at) = rc ? -1 : fill;
}

static void do_get(struct world *w, struct input *in)
{
	struct place at = place_take(in);
	uint8_t page[PAGE_BYTES];
	uint8_t want[PAGE_BYTES];
	int *fill = held(w, &at);
	int rc = tmem_get(w->cl[at.c], (int)at.p, &at.oid, at.index, page);

	MUST(rc == 0 || rc == -ENOENT);
	if (rc == 0) {
		MUST(*fill >= 0);
		page_make(*fill, want);
		MUST(!memcmp(page, want, PAGE_BYTES));
	} else if (w->kind[at.c][at.p] == TMEM_PERSISTENT) {
		MUST(*fill < 0);
	}
	if (w->kind[at.c][at.p] != TMEM_PERSISTENT || rc)
		*fill = -1;
}

static void do_flush(struct world *w, struct input *in)
{
	struct place at = place_take(in);

	MUST(!tmem_flush_page(w->cl[at.c], (int)at.p, &at.oid, at.index));
	*held(w, &at) = -1;
}

static void do_flush_object(struct world *w, struct input *in)
{
	struct place at = place_take(in);

	MUST(!tmem_flush_object(w->cl[at.c], (int)at.p, &at.oid));
	for (unsigned i = 0; i < INDEXES; i++)
		w->held[at.c][at.p][at.o][i] = -1;
}

static void do_pool(struct world *w, struct input *in)
{
	struct place at = place_take(in);
	uint32_t flags = take(in);
	int rc;

	if (flags & 0x80) {
		rc = tmem_pool_destroy(w->cl[at.c], (int)at.p);
		MUST(rc == (w->kind[at.c][at.p] < 0 ? -ENOENT : 0));
		w->kind[at.c][at.p] = -1;
		forget_pool(w, at.c, at.p);
		return;
	}
	rc = tmem_pool_create(w->cl[at.c], flags, NULL);
	if (flags > 1) {
		MUST(rc == -EINVAL);
		return;
	}
	MUST(rc >= 0 || rc == -ENOSPC);
	if (rc >= POOLS)
		MUST(!tmem_pool_destroy(w->cl[at.c], rc));
	else if (rc >= 0)
		w->kind[at.c][rc] = (int)flags;
}

static void do_policy(struct world *w, struct input *in)
{
	unsigned c = take(in) % CLIENTS;
	unsigned what = take(in);
	unsigned amount = take(in);

	switch (what % 4) {
	case 0:
		w->frozen[c] = amount & 1;
		MUST(!tmem_freeze(w->cl[c], w->frozen[c]));
		break;
	case 1:
		(void)tmem_flush(w->tm, (uint64_t)amount << 8);
		break;
	default:
		MUST(!tmem_client_set(w->cl[c], what >> 2,
				      (uint64_t)amount << 10,
				      (uint64_t)take(in) << 8, what & 4));
	}
}

static void do_hostile(struct world *w, struct input *in)
{
	unsigned c = take(in) % CLIENTS;
	int pool = (int)(POOLS + take(in) * 0x01010101u);
	struct tmem_oid oid = {{take(in), take(in), take(in)}};
	uint8_t page[PAGE_BYTES] = {1};
	int rc;

	if (pool >= 0 && pool < POOLS)
		return;
	rc = tmem_put(w->cl[c], pool, &oid, take(in), page);
	MUST(rc == -ENOENT);
	MUST(tmem_get(w->cl[c], pool, &oid, 0, page) == -ENOENT);
	MUST(!tmem_flush_object(w->cl[c], pool, &oid));
	MUST(tmem_pool_destroy(w->cl[c], pool) == -ENOENT);
}

static void verify(const struct world *w)
{
	struct tmem_stats st;

	tmem_stats(w->tm, &st);
	MUST(st.stored_bytes + st.metadata_bytes + st.slack_bytes ==
	     st.used_bytes);
	MUST(!tmem_check(w->tm));
}

static void operate(struct world *w, struct input *in)
{
	static void (*const op[])(struct world *, struct input *) = {
		do_put,	  do_put,	   do_put,  do_get,    do_get,
		do_flush, do_flush_object, do_pool, do_policy, do_hostile,
	};

	for (unsigned n = 0; in->left; n++) {
		op[take(in) % ARRAY_LEN(op)](w, in);
		if (n % 64 == 63)
			verify(w);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	static struct world w;
	uint64_t budget = (uint64_t)take(&in) << 12;

	memset(&w, 0, sizeof(w));
	/* The store itself takes about 100 KiB. */
	MUST(!tmem_create(budget ? budget + (96 << 10) : 0, &w.tm));
	for (unsigned c = 0; c < CLIENTS; c++) {
		MUST(!tmem_client_create(w.tm, "guest", &w.cl[c]));
		for (unsigned p = 0; p < POOLS; p++) {
			w.kind[c][p] = p % 2 ? TMEM_PERSISTENT : TMEM_EPHEMERAL;
			MUST(tmem_pool_create(w.cl[c], (uint32_t)w.kind[c][p],
					      NULL) == (int)p);
			forget_pool(&w, c, p);
		}
	}
	operate(&w, &in);
	verify(&w);
	tmem_destroy(w.tm);
	return 0;
}
