/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Equal pages, stored once. Two pages are equal if their stored forms are,
 * byte for byte; a hash only tells where to look. Sought among the pages of one
 * client and kind: a client is a trust domain of its own, and each object is
 * charged to exactly one account.
 *
 *   word A ---> object                     one key: as without all this
 *
 *   word A --.
 *   word B ---> content (refs, word) ---> object         several keys
 *
 * The index has an entry of 5 bytes for each object but same-filled ones, 12 in
 * a bucket (a cache line), which grow one at a time as in table.h. An
 * entry names a word and has 13 bits of its hash, enough to tell most others
 * apart and to split a bucket without looking at any page.
 *
 * Best effort in one thing only: without memory for an entry a page is stored
 * and not found again by others.
 *
 * Lock: a stripe's, for its entries, its contents, and the turning of words of
 * its hashes into references. An owner of a word holds its shard, too; others
 * may turn the word into a reference meanwhile, but it stays a word.
 */
#ifndef TMEM_CONTENT_H
#define TMEM_CONTENT_H

#include "tmem/pack.h"
#include "tmem/slab.h"

struct shelf;
struct tmem_client;

struct content {
	pack_word_t word;
	uint64_t hash;
	uint32_t refs;
	uint32_t unused;
};

/* A bucket, a cache line, has 12 slots; what hangs on to it, 4. */
struct content_line {
	uint32_t next;	  /* unit of another line */
	uint32_t entry[]; /* of each slot: tag 5 bits | unit 27; 0: free */
			  /* and behind them a byte each: 8 more bits of tag */
};

struct stripe {
	_Alignas(64) struct lock lock;
	struct arena *arena;
	struct slab lines;    /* beyond the first of each bucket */
	struct slab contents; /* struct content */
	uint32_t *block;      /* numbers; of 64 buckets each */
	uint32_t blocks;
	uint32_t blocks_max; /* room in block[] */
	uint32_t buckets;
	uint64_t entries;
	uint64_t refs;	 /* of all contents */
	uint64_t shared; /* of these, of contents with more than one */
};

void stripe_init(struct stripe *st, struct arena *arena, unsigned n);
void stripe_fini(struct stripe *st);

/* Whose pages may be one. */
struct content_scope {
	struct shelf *shelf;
	const struct tmem_client *cl;
};

/*
 * Stores the item for a word that is 0, or refers to an equal page.
 * *stored_out: it took memory. -ENOSPC, -ENOMEM. Lock: shard.
 */
MUST_CHECK int content_put(const struct content_scope *scope, uint32_t name,
			   const struct pack_item *item, bool *stored_out);

/* Refers to an equal page if there is one, which takes no memory. */
bool content_join(const struct content_scope *scope, uint32_t name,
		  const struct pack_item *item);

/*
 * Replaces the word's own object in its place, if the item is of its class and
 * equal to no other page. false: try otherwise. Lock: shard.
 */
bool content_overwrite(const struct content_scope *scope, uint32_t name,
		       const struct pack_item *item);

/* The word becomes 0. true: its object's memory is free. Lock: shard. */
bool content_drop(const struct content_scope *scope, uint32_t name);

/*
 * Gives what the word holds to the word `to`, which is 0, and where nobody
 * finds it; content_return gives it back, content_drop_hidden does as
 * content_drop. true: no other word refers to it. Lock: shard.
 */
bool content_hide(const struct content_scope *scope, uint32_t name,
		  uint32_t to);
bool content_drop_hidden(const struct content_scope *scope, uint32_t name);
void content_return(const struct content_scope *scope, uint32_t from,
		    uint32_t name);

/* Bytes of blocks taken, and of these in use for anything. */
uint64_t stripe_blocks(const struct stripe *st);
uint64_t stripe_live_bytes(const struct stripe *st);

/* Counts anew. 0 or -EUCLEAN. Takes the stripe's lock. */
MUST_CHECK int stripe_check(struct stripe *st);

#endif
