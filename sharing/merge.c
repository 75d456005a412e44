/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answering hvd: contents it wants are sent, frames it grants are mapped.
 *
 * Grants are gathered for a moment and sorted: pages that lie together are
 * taken together and become one mapping, whoever offered them first. A content
 * is copied as it is now; if it no longer has the hash hvd asked for, the want
 * is declined and hvd asks somebody else.
 *
 * Each want is answered exactly once, by PUBLISH or DECLINE; each grant ends as
 * a mapping or a release. A link that goes down ends both.
 */
#include "sharing/share_core.h"
#include "sharing/hash.h"

#include "hv/base/host.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_BYTES ((size_t)64 << 10)
#define GATHER_NS   ((uint64_t)1000000000) /* a chunk's grants at once */
#define QUIET_NS    ((uint64_t)60000000)   /* no more of them under way */
#define GATHER_MOST 65536
#define SHARE_ONCE  4096 /* grants a slice: some ten milliseconds */

/* ---- queues ---- */

/*
 * A mapping of its own: a queue of a megabyte or two is needed once in a VM's
 * life, and the heap of a VMM would keep it.
 */
static void queue_clear(struct queue *q)
{
	if (q->item)
		host_real.unmap(q->item, q->bytes);
	*q = (struct queue){0};
}

static int queue_reserve(struct queue *q, size_t n, size_t item_bytes)
{
	size_t need = (q->n + n) * item_bytes, bytes = q->bytes;
	void *item;
	int rc;

	if (need <= bytes)
		return 0;
	bytes = bytes ? bytes : QUEUE_BYTES;
	while (bytes < need)
		bytes *= 2;
	rc = host_real.map_anon(NULL, bytes, &item);
	if (rc < 0)
		return rc;
	if (q->item) {
		memcpy(item, q->item, q->n * item_bytes);
		host_real.unmap(q->item, q->bytes);
	}
	q->item = item;
	q->bytes = bytes;
	return 0;
}

void merge_forget(struct share *sh)
{
	queue_clear(&sh->wants);
	queue_clear(&sh->grants);
}

/* ---- wants
 * ------------------------------------------------------------------- */

/* struct wire_publish with room for its entries and pages. */
struct publish {
	struct wire_head head;
	uint32_t count;
	uint32_t reserved;
	struct wire_want entry[WIRE_PUBLISH_MAX];
	uint8_t page[WIRE_PUBLISH_MAX][PAGE_BYTES];
};

_Static_assert(offsetof(struct publish, entry) ==
		       sizeof(struct wire_head) +
			       offsetof(struct wire_publish, entry),
	       "layout");

static int decline(struct share *sh, const struct wire_want *w)
{
	struct {
		struct wire_head head;
		struct wire_want want;
	} msg = {
		.head = {WIRE_VERSION, WIRE_DECLINE, sizeof(msg)},
		.want = *w,
	};

	return sh->send(sh->arg, &msg.head);
}

/* Collects the first n pages wanted, up to one without its hash. */
static uint32_t publish_fill(struct share *sh, struct publish *msg,
			     const struct wire_want *w, size_t n)
{
	gfn_t gfn[WIRE_PUBLISH_MAX];
	size_t there, ok = 0;

	for (size_t i = 0; i < n; i++)
		gfn[i] = (gfn_t){w[i].page};
	there = mm_pages_read(sh->mm, gfn, n, msg->page);
	while (ok < there &&
	       sharing_hash(sh->secret, msg->page[ok]) == w[ok].hash)
		ok++;
	memcpy(msg->entry, w, ok * sizeof(*w));
	return (uint32_t)ok;
}

/* The entries in front, the pages right behind them. */
static void publish_seal(struct publish *msg, uint32_t n)
{
	memmove(&msg->entry[n], msg->page, n * PAGE_BYTES);
	msg->count = n;
	msg->reserved = 0;
	msg->head = (struct wire_head){
		.version = WIRE_VERSION,
		.type = WIRE_PUBLISH,
		.bytes = (uint32_t)(offsetof(struct publish, entry) +
				    n * (sizeof(msg->entry[0]) + PAGE_BYTES)),
	};
}

/* One message. Returns 0, or -EAGAIN: the link is full. */
static int wants_step(struct share *sh, struct publish *msg)
{
	const struct wire_want *wants = sh->wants.item;
	const struct wire_want *w = wants + sh->wants.at;
	size_t left = sh->wants.n - sh->wants.at;
	uint32_t n = publish_fill(sh, msg, w, min_u64(left, WIRE_PUBLISH_MAX));
	int rc;

	if (n) {
		publish_seal(msg, n);
		rc = sh->send(sh->arg, &msg->head);
	} else {
		rc = decline(sh, w);
		n = 1;
	}
	if (rc == 0)
		sh->wants.at += n;
	return rc;
}

/* hvd asks somebody else; what cannot even be sent it misses in time. */
static void wants_decline(struct share *sh, const struct wire_want *w, size_t n)
{
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++)
		rc = decline(sh, &w[i]);
	log_warn("no memory for %zu contents hvd wants", n);
}

static bool wants_work(struct share *sh)
{
	const struct wire_want *w = sh->wants.item;
	struct publish *msg;
	int rc = 0;

	if (!sh->wants.n)
		return false;
	msg = malloc(sizeof(*msg));
	if (!msg) {
		wants_decline(sh, w + sh->wants.at, sh->wants.n - sh->wants.at);
		queue_clear(&sh->wants);
		return false;
	}
	for (int i = 0; i < 32 && rc == 0 && sh->wants.at < sh->wants.n; i++)
		rc = wants_step(sh, msg);
	free(msg);
	if (sh->wants.at == sh->wants.n)
		queue_clear(&sh->wants);
	return rc == 0 && sh->wants.n;
}

void share_want(struct share *sh, const struct wire_head *msg)
{
	size_t n = wire_count(msg, sizeof(struct wire_want));
	struct wire_want *w;

	if (queue_reserve(&sh->wants, n, sizeof(*w)) < 0) {
		wants_decline(sh, (const void *)(msg + 1), n);
		return;
	}
	w = sh->wants.item;
	memcpy(w + sh->wants.n, msg + 1, n * sizeof(*w));
	sh->wants.n += n;
}

/* ---- grants
 * -------------------------------------------------------------------- */

/*
 * By page; a shell sort, since it needs no memory. qsort takes as much again as
 * it sorts, from the VMM's heap, which keeps it: half a MiB a desktop.
 */
static void grants_sort(struct mm_page_map *map, size_t n)
{
	size_t gap = 1;

	while (gap < n / 9)
		gap = 3 * gap + 1;
	for (; gap; gap /= 3)
		for (size_t i = gap; i < n; i++) {
			struct mm_page_map m = map[i];
			size_t at = i;

			for (; at >= gap && map[at - gap].gfn.n > m.gfn.n;
			     at -= gap)
				map[at] = map[at - gap];
			map[at] = m;
		}
}

static void grants_some(struct share *sh)
{
	struct mm_page_map *map = sh->grants.item;
	size_t n = min_u64(sh->grants.n - sh->grants.at, SHARE_ONCE);
	size_t mapped;

	mm_share(sh->mm, map + sh->grants.at, n, &mapped);
	sh->grants.at += n;
	if (sh->grants.at == sh->grants.n) {
		queue_clear(&sh->grants);
		mm_share_done(sh->mm);
	}
}

static bool grants_work(struct share *sh, uint64_t now)
{
	if (!sh->grants.n)
		return false;
	if (!sh->grants.at) {
		if (sh->grants.n < GATHER_MOST &&
		    now - sh->grants_since_ns < GATHER_NS &&
		    now - sh->granted_ns < QUIET_NS)
			return false;
		grants_sort(sh->grants.item, sh->grants.n);
	}
	grants_some(sh);
	return true;
}

/* Without memory to gather them, they are mapped right away. */
static void grants_now(struct share *sh, const struct wire_grant *g, size_t n)
{
	size_t mapped;

	for (size_t i = 0; i < n; i++) {
		struct mm_page_map one = {{g[i].page}, g[i].frame};

		mm_share(sh->mm, &one, 1, &mapped);
	}
	mm_share_done(sh->mm);
}

void share_grant(struct share *sh, const struct wire_head *msg)
{
	const struct wire_grant *g = (const void *)(msg + 1);
	size_t n = wire_count(msg, sizeof(*g));
	struct mm_page_map *map;

	/* Half worked off: finish, or the order would be lost. */
	while (sh->grants.at)
		grants_some(sh);
	if (queue_reserve(&sh->grants, n, sizeof(*map)) < 0) {
		grants_now(sh, g, n);
		return;
	}
	sh->granted_ns = mm_now_ns(sh->mm);
	if (!sh->grants.n)
		sh->grants_since_ns = sh->granted_ns;
	map = sh->grants.item;
	for (size_t i = 0; i < n; i++)
		map[sh->grants.n++] =
			(struct mm_page_map){{g[i].page}, g[i].frame};
}

bool merge_work(struct share *sh, uint64_t now)
{
	bool more = wants_work(sh);

	return grants_work(sh, now) || more;
}

/* ---- HAVE
 * ------------------------------------------------------------------------ */

#define HAVE_MAX                                                               \
	((WIRE_MAX - sizeof(struct wire_head)) / sizeof(struct wire_have))

struct have {
	struct share *sh;
	size_t n;
	int rc;
	struct {
		struct wire_head head;
		struct wire_have have[HAVE_MAX];
	} * msg;
};

static void have_send(struct have *h)
{
	h->msg->head = (struct wire_head){
		.version = WIRE_VERSION,
		.type = WIRE_HAVE,
		.bytes = (uint32_t)(sizeof(h->msg->head) +
				    h->n * sizeof(h->msg->have[0])),
	};
	if (h->rc == 0)
		h->rc = h->sh->send(h->sh->arg, &h->msg->head);
	h->n = 0;
}

static void have_add(void *arg, uint32_t frame, uint32_t refs)
{
	struct have *h = arg;

	if (h->n == HAVE_MAX)
		have_send(h);
	h->msg->have[h->n++] = (struct wire_have){frame, refs};
}

int share_send_have(struct share *sh)
{
	struct have h = {.sh = sh};

	h.msg = malloc(sizeof(*h.msg));
	if (!h.msg)
		return -ENOMEM;
	mm_frames_walk(sh->mm, have_add, &h);
	if (h.n)
		have_send(&h);
	have_send(&h);
	free(h.msg);
	return h.rc;
}
