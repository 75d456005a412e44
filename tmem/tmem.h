/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TMEM_TMEM_H
#define TMEM_TMEM_H
#include <stdbool.h>
#include <stdint.h>
/* placeholder until the store lands in the same series */
#define TMEM_STATS(G, C)                                                       \
	G(stored_bytes, bytes, "payload")                                      \
	G(metadata_bytes, bytes, "descriptors and tables")                     \
	G(slack_bytes, bytes, "allocated, holding nothing")                    \
	G(used_bytes, bytes, "memory really used: the sum of the three")       \
	G(pages, pages, "pages stored")                                        \
	G(pages_ephemeral, pages, "that may be dropped")                       \
	G(pages_persistent, pages, "that must be kept")                        \
	G(pages_shared, pages, "stored once for several keys")                 \
	G(pages_same_filled, pages, "one repeated word")                       \
	G(pages_raw, pages, "kept uncompressed")                               \
	C(puts, count, "puts")                                                 \
	C(puts_failed, count, "puts refused")                                  \
	C(gets, count, "gets")                                                 \
	C(gets_missed, count, "gets that missed")                              \
	C(flushes, count, "flushes of a page or object")                       \
	C(evictions, pages, "ephemeral pages dropped by the host")

struct tmem_stats {
#define FIELD(name, unit, help) uint64_t name;
	TMEM_STATS(FIELD, FIELD)
#undef FIELD
};
#endif
