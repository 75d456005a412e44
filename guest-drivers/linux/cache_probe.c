// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The two tracepoints the cache lives on.
 *
 * writeback_dirty_folio: a cached page becomes dirty, its flag is already set.
 * Whoever changes a page's content sets that flag before the page can be
 * reclaimed: write(2) and a write fault do both under the page's lock, who has
 * the page pinned sets it before letting go, and unmapping moves the page
 * table's dirty bit over while it still holds its reference. So an entry is
 * gone when a changed page comes to be removed.
 *
 * mm_filemap_delete_from_page_cache: a page leaves, locked, with its content
 * and its mapping still there, interrupts off, under the lock of the mapping's
 * tree: no sleeping and no waiting here. Its entry is taken in any case. The
 * page is put if its references are frozen: that is how reclaim and
 * drop_caches make sure that they are alone with it, and that it is clean.
 *
 * Both are found by name, since tracepoints are not exported to modules; that
 * their arguments are what we think is checked by the compiler.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/mm.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <trace/events/filemap.h>
#include <trace/events/writeback.h>

#include "cache.h"

/* Pages of one folio put with interrupts off: some 20 us. */
#define PROBE_PUTS_MAX 32

struct probe {
	const char *name;
	void *function;
	struct tracepoint *tp;
	bool on;
};

static void probe_dirty(void *data, struct folio *folio,
			struct address_space *mapping)
{
	struct tm_cache_place place;
	long i, n = folio_nr_pages(folio);

	if (!mapping || !tm_cache_mapping_fits(mapping))
		return;
	for (i = 0; i < n; i++)
		if (tm_learn_take(mapping, folio->index + i, &place))
			tm_cache_count(TM_CACHE_FORGOTTEN);
}

static bool probe_clean(struct folio *folio)
{
	return !folio_ref_count(folio) && folio_test_uptodate(folio) &&
	       !folio_test_dirty(folio) && !folio_test_writeback(folio);
}

static void probe_delete(void *data, struct folio *folio)
{
	struct address_space *mapping = folio->mapping;
	struct tm_cache_place place;
	long i, n = folio_nr_pages(folio), puts = 0;
	bool clean;

	if (!mapping || !tm_cache_mapping_fits(mapping))
		return;
	clean = probe_clean(folio);
	for (i = 0; i < n; i++) {
		if (!tm_learn_take(mapping, folio->index + i, &place))
			continue;
		if (!clean || puts == PROBE_PUTS_MAX) {
			tm_cache_count(TM_CACHE_REMOVED);
			continue;
		}
		tm_cache_put(&place, folio_page(folio, i));
		puts++;
	}
}

static struct probe probes[] = {
	{.name = "writeback_dirty_folio", .function = probe_dirty},
	{.name = "mm_filemap_delete_from_page_cache", .function = probe_delete},
};

static void probe_find(struct tracepoint *tp, void *unused)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		if (!strcmp(tp->name, probes[i].name))
			probes[i].tp = tp;
}

int tm_probe_start(void)
{
	struct probe *p;
	int rc;

	check_trace_callback_type_writeback_dirty_folio(probe_dirty);
	check_trace_callback_type_mm_filemap_delete_from_page_cache(
		probe_delete);
	for_each_kernel_tracepoint(probe_find, NULL);
	/* Dirtying first: nothing is put that it was not watched for. */
	for (p = probes; p < probes + ARRAY_SIZE(probes); p++) {
		rc = p->tp ? tracepoint_probe_register(p->tp, p->function, NULL)
			   : -ENOENT;
		if (rc) {
			pr_err("no tracepoint %s: %d\n", p->name, rc);
			tm_probe_stop();
			return rc;
		}
		p->on = true;
	}
	return 0;
}

void tm_probe_stop(void)
{
	struct probe *p;

	for (p = probes; p < probes + ARRAY_SIZE(probes); p++) {
		if (p->on)
			tracepoint_probe_unregister(p->tp, p->function, NULL);
		p->on = false;
	}
	tracepoint_synchronize_unregister();
}
