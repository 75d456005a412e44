/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The content index of one domain: which page or frame holds the content of a
 * hash. At most one entry per hash. Not thread safe: hvd has one thread.
 */
#ifndef SHARING_INDEX_H
#define SHARING_INDEX_H

#include "hv/base/types.h"

struct index;

#define INDEX_SLOT_MAX 32767 /* members a domain can name */

struct index_value {
	bool is_frame;
	uint32_t slot; /* of a candidate: the member's, 0 to INDEX_SLOT_MAX-1 */
	uint64_t page; /* of a candidate: under 2^40 */
	uint32_t frame; /* if is_frame */
};

/* seed: secret of hvd, so that no agent can choose hashes that pile up. */
MUST_CHECK int index_create(uint64_t seed, struct index **out);
void index_destroy(struct index *ix);

/* Soon this hash is looked for: its place is a cache miss, most of the cost. */
void index_prefetch(const struct index *ix, uint64_t hash);
/* 0, or -ENOENT. */
MUST_CHECK int index_get(const struct index *ix, uint64_t hash,
			 struct index_value *out);
/* Inserts or replaces. 0, or -ENOMEM with the index unchanged. */
MUST_CHECK int index_put(struct index *ix, uint64_t hash,
			 const struct index_value *value);
/* Nothing happens where there is no entry. */
void index_remove(struct index *ix, uint64_t hash);

/*
 * A member leaves, with so many candidates in the index: they are found no
 * more. They are cleared by index_sweep, some milliseconds at a time, and the
 * slot is not free for another member until all are.
 */
void index_leave(struct index *ix, uint32_t slot, uint64_t candidates);
void index_sweep(struct index *ix);
bool index_is_swept(const struct index *ix);
bool index_slot_is_free(const struct index *ix, uint32_t slot);

/* Those that can be found. */
uint64_t index_count(const struct index *ix);
/* All memory it occupies, spare room included. */
uint64_t index_bytes(const struct index *ix);
/* Is every entry where a search finds it, and is the count right? */
bool index_is_sound(const struct index *ix);

#endif
