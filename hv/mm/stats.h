/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one VM's memory manager counts: one list, from which the structure, the
 * wire format, the JSON, the tables and the Prometheus metrics are made. Gauges
 * are what is true now; counters only rise. The ballast law:
 *
 *   ram_pages = absent + private + held + shared + zero + compressed + swapped
 *
 * (a ballooned page is absent; pages_pinned is a part of private).
 */
#ifndef HV_MM_STATS_H
#define HV_MM_STATS_H

#include <stdint.h>

/* G(name, unit, help): gauge.  C(name, unit, help): counter. */
#define MM_STATS(G, C)                                                         \
	G(ram_pages, pages, "guest RAM managed")                               \
	G(absent_pages, pages, "never touched, discarded or ballooned")        \
	G(private_pages, pages, "resident, the guest's own")                   \
	G(held_pages, pages, "taken on trial, still uncompressed")             \
	G(shared_pages, pages, "mapped from the domain's frame pool")          \
	G(zero_pages, pages, "all zero, dropped")                              \
	G(compressed_pages, pages, "in the compressed store")                  \
	G(swapped_pages, pages, "in the swap file")                            \
	G(pinned_pages, pages, "private, but pinned by a device")              \
	G(ballooned_pages, pages, "given back by the guest")                   \
	G(store_bytes, bytes, "page store, less what may be dropped")          \
	G(store_payload_bytes, bytes, "compressed store, payload alone")       \
	G(metadata_bytes, bytes, "agent's own memory, VMAs included")          \
	G(vmas, count, "mappings that overlays cost")                          \
	G(chunks_registered, count, "2 MiB chunks with pages out")             \
	G(cold_pages, pages, "private, unchanged for several scans")           \
	G(fault_p50_ns, ns, "median service time of a fault")                  \
	G(fault_p99_ns, ns, "99th percentile of the same")                     \
	G(refault_permille_min, permille, "of working set, last minute")       \
	C(cpu_ns, ns, "CPU time of the agent's threads")                       \
	C(scans, passes, "full passes of the scanner")                         \
	C(hashed_pages, pages, "pages hashed")                                 \
	C(merged_pages, pages, "pages mapped from a frame, ever")              \
	C(merge_mismatch, pages, "hash equal, content not: left alone")        \
	C(merge_changed, pages, "gone or changed before it was taken")         \
	C(cow_breaks, pages, "shared pages that went private")                 \
	C(collected_pages, pages, "pages gone private, merged again")          \
	C(takes, pages, "pages lifted out of the guest")                       \
	C(take_busy, pages, "refused: pinned or in flight")                    \
	C(take_raced, pages, "refused: changed under way")                     \
	C(take_failed, pages, "refused: the kernel said no")                   \
	C(faults, count, "page faults answered")                               \
	C(faults_zero, count, "of these: zero or absent page")                 \
	C(faults_held, count, "of these: page on trial")                       \
	C(faults_compressed, count, "of these: compressed page")               \
	C(ahead_pages, pages, "compressed, brought back before a fault")       \
	C(faults_swapped, count, "of these: page in the swap file")            \
	C(faults_stale, count, "of these: already answered")                   \
	C(faults_lost, count, "page that could not be given back")             \
	C(store_full, pages, "store refused a page")                           \
	C(swap_full, pages, "swap file refused a page")                        \
	C(discards, pages, "pages the guest or VMM discarded")                 \
	C(hint_pages, pages, "pages offered on a disk-read hint")

struct mm_stats {
#define FIELD(name, unit, help) uint64_t name;
	MM_STATS(FIELD, FIELD)
#undef FIELD
};

#endif
