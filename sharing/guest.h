/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one VM's guest does with the page store through its line: one list, from
 * which the wire format, the JSON, the tables and the metrics are made, as from
 * hv/mm/stats.h. The first part is the host's own count; what follows `swap_`,
 * `cache_` and `driver_` is what the guest's driver says of itself: shown,
 * never believed: the only decision that rests on it is how much of its own
 * memory the guest's balloon takes.
 */
#ifndef SHARING_GUEST_H
#define SHARING_GUEST_H

#include <stdint.h>

/* G(name, unit, help): gauge.  C(name, unit, help): counter. */
#define GUEST_STATS(G, C)                                                      \
	G(lines, count, "lines to the store: 0 or 1")                          \
	G(drivers, count, "drivers that began on it: 0 or 1")                  \
	G(frozen, count, "1: new keys are refused")                            \
	G(weight, count, "share of ephemeral memory under pressure")           \
	G(compress, count, "1: its pages are compressed")                      \
	G(cap_bytes, bytes, "most its pages may take; 0: no bound")            \
	G(reserve_bytes, bytes, "ephemeral bytes others cannot take")          \
	G(lent_bytes, bytes, "most its ephemeral pages may take now")          \
	G(used_bytes, bytes, "what its pages take")                            \
	G(ephemeral_bytes, bytes, "of them, what may be dropped")              \
	G(freeable_bytes, bytes, "what dropping all of that would free")       \
	G(ephemeral_pages, pages, "pages that may be dropped")                 \
	G(persistent_pages, pages, "pages that must be kept")                  \
	G(pools, count, "pools it has")                                        \
	C(begins, count, "times a driver began")                               \
	C(breaks, count, "times it was found to break the rules")              \
	C(puts, count, "put requests")                                         \
	C(puts_refused, count, "of them not stored")                           \
	C(gets, count, "get requests")                                         \
	C(gets_missed, count, "of them without a page")                        \
	C(flushes, count, "flush requests")                                    \
	C(rejects, count, "requests that made no sense")                       \
	C(evicted_cap, pages, "dropped: it was at its own cap")                \
	C(evicted_lent, pages, "dropped: the host took memory back")           \
	C(evicted_budget, pages, "dropped: a put needed room")                 \
	C(evicted_flush, pages, "dropped by hand")                             \
	C(swap_writes, pages, "written to its swap device")                    \
	C(swap_reads, pages, "read from it")                                   \
	C(swap_refused, pages, "not accepted, so written elsewhere")           \
	C(swap_errors, pages, "lost: the host's fault, or the line's")         \
	C(cache_puts, pages, "its page cache left with us")                    \
	C(cache_dropped, pages, "not left: the queue was full")                \
	C(cache_hits, pages, "its page cache took back")                       \
	C(cache_misses, pages, "it asked for in vain")                         \
	C(cache_flushes, count, "pages it made invalid")                       \
	C(driver_wait_ns, ns, "its threads waited for answers")                \
	C(driver_refaults, pages, "its kernel evicted too early")              \
	G(driver_psi_permille, permille, "of time it waited for memory")       \
	G(driver_offer_pages, pages, "it can do without now")

struct guest_stats {
#define FIELD(name, unit, help) uint64_t name;
	GUEST_STATS(FIELD, FIELD)
#undef FIELD
};

#endif
