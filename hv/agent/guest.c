/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See guest.h. Three sources, one structure: the store's count of the client,
 * the line's count of its requests, and what the guest's driver wrote into the
 * shared memory, which is copied once and bounded, never believed.
 */
#include "hv/agent/guest.h"

#include "hv/agent/port.h"
#include "hv/line/line.h"

struct tmem_client *guest_client(void)
{
	struct line *line = port_line();

	return line ? line_client(line) : NULL;
}

void guest_lend(uint64_t bytes)
{
	struct tmem_client *cl = guest_client();
	struct tmem_client_stats st;

	if (!cl)
		return;
	tmem_client_stats(cl, &st);
	if (st.lent_bytes != bytes)
		tmem_client_lend(cl, bytes);
}

void guest_balloon(uint64_t pages)
{
	struct line *line = port_line();
	struct line_settings settings;

	if (!line)
		return;
	line_settings_get(line, &settings);
	if (settings.balloon_pages == pages)
		return;
	settings.balloon_pages = pages;
	line_settings_set(line, &settings);
}

static void client_fill(struct guest_stats *out, const struct tmem_client *cl,
			uint8_t pool_out[TMEM_POOLS_MAX])
{
	struct tmem_client_stats st;

	tmem_client_stats(cl, &st);
	out->frozen = st.frozen;
	out->weight = st.weight;
	out->compress = st.compress;
	out->cap_bytes = st.cap_bytes;
	out->reserve_bytes = st.reserve_bytes;
	out->lent_bytes = st.lent_bytes;
	out->used_bytes = st.bytes;
	out->ephemeral_bytes = st.bytes_ephemeral;
	out->ephemeral_pages = st.pages_ephemeral;
	out->persistent_pages = st.pages_persistent;
	out->evicted_cap = st.evicted[TMEM_EVICT_CAP];
	out->evicted_lent = st.evicted[TMEM_EVICT_LENT];
	out->evicted_budget = st.evicted[TMEM_EVICT_BUDGET];
	out->evicted_flush = st.evicted[TMEM_EVICT_FLUSH];
	for (int id = 0; id < TMEM_POOLS_MAX; id++) {
		pool_out[id] = st.pool[id];
		out->pools += st.pool[id] != TMEM_POOL_NONE;
	}
}

static void line_fill(struct guest_stats *out, struct line *line)
{
	struct line_counts n;

	line_counts(line, &n);
	out->lines = 1;
	out->drivers = line_phase(line) == LINE_SERVED;
	out->begins = n.begins;
	out->breaks = n.breaks;
	out->puts = n.puts;
	out->puts_refused = n.puts_refused;
	out->gets = n.gets;
	out->gets_missed = n.gets_missed;
	out->flushes = n.flushes;
	out->rejects = n.rejects;
}

static void driver_fill(struct guest_stats *out, const struct line *line)
{
	struct line_stats said;

	line_guest_stats(line, &said);
#define SAID(to, from) out->to = min_u64(said.from, INT64_MAX)
	SAID(swap_writes, swap_writes);
	SAID(swap_reads, swap_reads);
	SAID(swap_refused, swap_refused);
	SAID(swap_errors, swap_errors);
	SAID(cache_puts, cache_puts);
	SAID(cache_dropped, cache_dropped);
	SAID(cache_hits, cache_hits);
	SAID(cache_misses, cache_misses);
	SAID(cache_flushes, cache_flushes);
	SAID(driver_wait_ns, wait_ns);
	SAID(driver_refaults, refaults);
	SAID(driver_psi_permille, psi_some_permille);
	SAID(driver_offer_pages, offer_pages);
#undef SAID
	out->driver_psi_permille = min_u64(out->driver_psi_permille, 1000);
}

void guest_stats(struct guest_stats *out, uint8_t pool_out[TMEM_POOLS_MAX])
{
	struct line *line = port_line();
	struct tmem *tm;

	*out = (struct guest_stats){0};
	for (int id = 0; id < TMEM_POOLS_MAX; id++)
		pool_out[id] = TMEM_POOL_NONE;
	if (!line || port_store(&tm))
		return;
	client_fill(out, line_client(line), pool_out);
	line_fill(out, line);
	driver_fill(out, line);
	out->freeable_bytes = tmem_freeable_used(tm);
}
