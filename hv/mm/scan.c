/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looking at a chunk: one pagemap read tells which pages are there and which
 * shared pages the guest wrote to; the private ones are hashed. Age is the
 * number of scans since a page's hash last changed, and is all that sharing and
 * reclaim know about how cold a page is.
 *
 * A shared page costs no hashing at all. A page that stayed all zero for one
 * scan is dropped on the spot.
 *
 * The bytes are read while the guest may write: a torn read gives a wrong hash,
 * which costs one comparison later, never a wrong merge.
 */
#include "hv/mm/core.h"
#include "hv/mm/take.h"

#include <errno.h>

struct look {
	struct mm *mm;
	const struct mm_scan_ops *ops;
	bool hint; /* content is fresh and likely stable: no second look */
	size_t hashed;
	size_t changed;
	struct releases rel;
	uint64_t pagemap[CHUNK_PAGES];
};

#define REOFFER_SCANS 16
#define HASH_ZERO                                                              \
	((uint64_t)1 << 47 | 1) /* stands for "all zero" in a word             \
				 */

static void went_private(struct look *l, const struct spot *s)
{
	releases_add(&l->rel, (uint32_t)page_payload(spot_word(s)));
	spot_set_word(l->mm, s, page_word(PAGE_PRIVATE, 0, 0, PAGE_OVERLAY, 0));
	COUNT(l->mm, cow_breaks, 1);
}

/* Brings the word up to date with what the kernel says of the page. */
static void reconcile(struct look *l, const struct spot *s, uint64_t entry)
{
	bool there = entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);

	switch (page_state(spot_word(s))) {
	case PAGE_SHARED:
		if (there && !(entry & PAGEMAP_FILE))
			went_private(l, s);
		break;
	case PAGE_ABSENT:
	case PAGE_ZERO:
		if (there)
			spot_set_word(l->mm, s,
				      page_word(PAGE_PRIVATE, 0, 0, 0, 0));
		break;
	case PAGE_PRIVATE:
		if (!there && !(page_flags(spot_word(s)) & PAGE_OVERLAY))
			spot_set_word(l->mm, s,
				      page_word(PAGE_ABSENT, 0, 0, 0, 0));
		break;
	default:
		break;
	}
}

/* hvd is told of a hash once, and again now and then: it may have dropped the
 * offer or its grant. */
static bool is_due(uint64_t told, uint64_t hash, unsigned age)
{
	return told != hash || (age && age % REOFFER_SCANS == 0);
}

/* Returns the new word. */
static uint64_t look_at(struct look *l, const struct spot *s)
{
	uint64_t w = spot_word(s), was = page_payload(w);
	unsigned age = page_age(w), flags = page_flags(w);
	const void *page = hva_ptr(spot_hva(s));
	bool zero = page_is_zero(page);
	uint64_t hash = zero ? HASH_ZERO : l->ops->hash(l->ops->arg, page);
	uint64_t told = flags & PAGE_OFFERED ? was : 0;

	l->hashed++;
	if (hash == was) {
		age += age < PAGE_AGE_MAX;
	} else {
		l->changed += was != 0;
		age = 0;
	}
	if (!zero && (age || l->hint) && is_due(told, hash, age) &&
	    chunk_may_break(l->mm, s->chunk) && page_is_takeable(l->mm, w)) {
		if (l->ops->seen(l->ops->arg, range_gfn(s->range, s->page),
				 hash, told, age))
			told = hash;
	}
	/* What hvd was told of is remembered until it is told otherwise. */
	flags = told == hash ? flags | PAGE_OFFERED
			     : flags & ~(unsigned)PAGE_OFFERED;
	if (told && told != hash)
		l->ops->seen(l->ops->arg, range_gfn(s->range, s->page), 0, told,
			     0);
	return page_word(PAGE_PRIVATE, age, page_heat(w), flags, hash);
}

static bool is_readable(const struct look *l, const struct spot *s, size_t i)
{
	return page_state(spot_word(s)) == PAGE_PRIVATE &&
	       (l->pagemap[i] & PAGEMAP_PRESENT);
}

/* All zero for two looks, and plain memory (an overlay's page is not). */
static bool is_droppable(const struct mm *mm, const struct spot *s)
{
	uint64_t w = spot_word(s);

	return page_is_takeable(mm, w) && page_state(w) == PAGE_PRIVATE &&
	       page_payload(w) == HASH_ZERO && page_age(w) &&
	       !(page_flags(w) & PAGE_OVERLAY);
}

static size_t drop_run(struct look *l, const struct spot *s, size_t n)
{
	struct mm *mm = l->mm;
	struct take t;
	size_t k = 0;

	if (take_begin(mm, s, n, mm->window, &t) < 0)
		return 1;
	while (k < t.n) {
		size_t zero = 0;

		while (k + zero < t.n &&
		       page_is_zero(t.data + (k + zero) * PAGE_BYTES))
			zero++;
		if (zero)
			take_drop(&t, k, zero, PAGE_ZERO);
		else
			take_return(&t, k, 1);
		k += zero ? zero : 1;
	}
	take_end(&t);
	return t.n;
}

static void drop_zeros(struct look *l, const struct spot *first)
{
	size_t i = 0;

	while (i < CHUNK_PAGES) {
		struct spot s = spot_at(first, first->page + i);
		size_t n = 0;

		while (i + n < CHUNK_PAGES) {
			struct spot next = spot_at(&s, s.page + n);

			if (!is_droppable(l->mm, &next))
				break;
			n++;
		}
		i += n ? drop_run(l, &s, n) : 1;
	}
}

/* Only a chunk that is all there can be one huge page. */
static bool look_huge(const struct look *l, const struct spot *first)
{
	bool huge = false;

	for (size_t i = 0; i < CHUNK_PAGES; i++)
		if (!(l->pagemap[i] & PAGEMAP_PRESENT))
			return false;
	/* A chunk lies on its border: one page of it tells for all. */
	if (l->mm->host->is_huge(hva_ptr(spot_hva(first)), PAGE_BYTES, &huge) <
	    0)
		return false;
	return huge;
}

/* A new mapping starts at page i when it does not continue the one before. */
static bool starts_vma(const struct spot *first, size_t i)
{
	struct spot a = spot_at(first, first->page + i - 1);
	struct spot b = spot_at(first, first->page + i);
	uint64_t wa = spot_word(&a), wb = spot_word(&b);
	bool sa = page_state(wa) == PAGE_SHARED;
	bool sb = page_state(wb) == PAGE_SHARED;

	if (sa && sb)
		return page_payload(wb) != page_payload(wa) + 1;
	return (sa || page_flags(wa) & PAGE_OVERLAY) !=
	       (sb || page_flags(wb) & PAGE_OVERLAY);
}

static void count_chunk(struct look *l, const struct spot *first)
{
	struct chunk *c = first->chunk;
	uint16_t vmas = 0, cold = 0;

	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(first, first->page + i);

		vmas = (uint16_t)(vmas + (i && starts_vma(first, i)));
		cold = (uint16_t)(cold + page_is_cold(spot_word(&s)));
	}
	COUNT(l->mm, vmas, (uint64_t)vmas - c->vmas);
	COUNT(l->mm, cold_pages, (uint64_t)cold - c->cold);
	c->vmas = vmas;
	c->cold = cold;
}

/* Pages [from, to) of the chunk whose first page is `first`. */
static int look_through(struct look *l, const struct spot *first, size_t from,
			size_t to)
{
	struct mm *mm = l->mm;
	int rc = -ENOENT;

	pthread_rwlock_rdlock(&mm->gate);
	pthread_mutex_lock(&first->chunk->lock);
	if (!first->chunk->managed)
		goto unlock;
	rc = mm->host->pagemap_read(hva_ptr(spot_hva(first)), CHUNK_PAGES,
				    l->pagemap);
	if (rc < 0)
		goto unlock;
	for (size_t i = from; i < to; i++) {
		struct spot s = spot_at(first, first->page + i);

		reconcile(l, &s, l->pagemap[i]);
		if (is_readable(l, &s, i))
			spot_set_word(mm, &s, look_at(l, &s));
	}
	if (!l->hint) {
		first->chunk->changed = (uint16_t)l->changed;
		first->chunk->huge = look_huge(l, first);
		if (chunk_may_break(mm, first->chunk))
			drop_zeros(l, first);
		take_chunk_settle(mm, first);
		count_chunk(l, first);
	}
	rc = (int)l->hashed;
unlock:
	pthread_mutex_unlock(&first->chunk->lock);
	releases_flush(mm, &l->rel);
	pthread_rwlock_unlock(&mm->gate);
	return rc;
}

size_t mm_chunks(const struct mm *mm)
{
	return mm->map.chunks;
}

int mm_scan_chunk(struct mm *mm, size_t chunk, const struct mm_scan_ops *ops)
{
	struct look l = {.mm = mm, .ops = ops};
	struct spot first;
	int n;

	if (!map_find_chunk(&mm->map, chunk, &first))
		return -ENOENT;
	n = look_through(&l, &first, 0, CHUNK_PAGES);
	if (n > 0)
		COUNT(mm, hashed_pages, (uint64_t)n);
	return n;
}

int mm_scan_hint(struct mm *mm, hva_t hva, size_t bytes,
		 const struct mm_scan_ops *ops)
{
	struct look l = {.mm = mm, .ops = ops, .hint = true};
	struct spot s, first;
	size_t from, to;
	int n;

	if (!map_find_hva(&mm->map, hva, &s))
		return -ENOENT;
	first = spot_at(&s, s.page & ~(CHUNK_PAGES - 1));
	from = s.page - first.page;
	to = min_u64(from + (bytes >> PAGE_SHIFT), CHUNK_PAGES);
	n = look_through(&l, &first, from, to);
	if (n > 0)
		COUNT(mm, hashed_pages, (uint64_t)n);
	return n;
}

static void offers_forget_chunk(struct mm *mm, const struct spot *first)
{
	pthread_mutex_lock(&first->chunk->lock);
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(first, first->page + i);
		uint64_t w = spot_word(&s);

		if (page_state(w) == PAGE_PRIVATE)
			spot_set_word(mm, &s, page_without(w, PAGE_OFFERED));
	}
	pthread_mutex_unlock(&first->chunk->lock);
}

void mm_offers_forget(struct mm *mm)
{
	struct spot first;

	for (size_t c = 0; c < mm->map.chunks; c++)
		if (map_find_chunk(&mm->map, c, &first))
			offers_forget_chunk(mm, &first);
}

void mm_break_huge(struct mm *mm, bool on)
{
	mm->break_huge = on;
}
