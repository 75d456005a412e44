/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All ephemeral pages of a client at once, by several threads. */
#ifndef TMEM_DRAIN_H
#define TMEM_DRAIN_H

#include "tmem/store.h"

/* So much is worth threads of its own. */
#define DRAIN_BYTES ((uint64_t)32 << 20)

/*
 * Drops every ephemeral page that is in the client's own pools when it is
 * called; new ones may be there after it. Returns the bytes freed. No lock of
 * the client or of a shard held.
 */
uint64_t drain_client(struct tmem_client *cl, enum tmem_evict_why why);

#endif
