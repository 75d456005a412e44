/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's half of page sharing: it scans guest RAM, offers hashes of stable
 * pages to hvd, sends contents hvd wants, and maps what hvd grants. It knows
 * sockets only as a function that sends a message; all calls come from the one
 * worker thread, except share_hint.
 */
#ifndef SHARING_SHARE_H
#define SHARING_SHARE_H

#include "hv/mm/mm.h"
#include "sharing/wire.h"

struct share;

/* Queues one whole message for hvd. Returns 0, or -EAGAIN: try later. */
typedef int share_send_fn(void *arg, const struct wire_head *msg);

MUST_CHECK int share_create(struct mm *mm, share_send_fn *send, void *arg,
			    struct share **out);
void share_destroy(struct share *sh);

/* hvd accepted us: secret of the domain. Starts with a full pass. */
void share_start(struct share *sh, const uint8_t secret[192]);

/*
 * hvd is gone: what was offered is forgotten and will be offered again; frames
 * mapped stay mapped; releases wait. share_start follows.
 */
void share_stop(struct share *sh);

/* Sends HAVE for all frames mapped, then the empty HAVE. */
int share_send_have(struct share *sh);

/* A checked WANT or GRANT message. */
void share_want(struct share *sh, const struct wire_head *msg);
void share_grant(struct share *sh, const struct wire_head *msg);

/* May it look for pages; rest between two passes. */
void share_policy(struct share *sh, bool may_share, bool break_huge,
		  uint32_t scan_ms);

/*
 * Scans a bounded slice (about 2 ms). Returns the ns until it wants to be
 * called again (0: at once).
 */
uint64_t share_scan(struct share *sh);

/*
 * Freshly read from a disk: [hva, +bytes) is likely equal to another guest's
 * copy of the same blocks and likely stable. Any thread; never blocks; may be
 * dropped.
 */
void share_hint(struct share *sh, hva_t hva, size_t bytes);

/* The counters of mm_stats that sharing keeps (scans, hashed_pages, ...). */
void share_stats(const struct share *sh, struct mm_stats *out);

#endif
