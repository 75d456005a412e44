/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Payload, packed without holes. Objects of one size class are one dense array;
 * when one goes, the class's last object moves into its place:
 *
 *   class   [ 0 | 1 | hole | 3 | ... | last ]        count objects
 *                     ^-----------------'
 *
 * so a class has no free objects, only a partly used last page, and
 *
 *   committed = pages of (count objects) + spare      spare: a few pages
 *
 * An object's place is told by one word of its owner, a cell in the tables'
 * arena. The object knows its owner, and the move rewrites the owner's word.
 * That is why words are atomic and belong to the lock of their class, while
 * an owner that is no object's (word 0), or a reference, belongs to its user.
 * A word's class changes only by its user's own calls, or by pack_share.
 *
 * No byte of an earlier object is ever readable: an object is written whole,
 * from the first byte to `bytes`, in the call that makes it, and read only that
 * far. Besides, what objects leave is zeroed at once, so committed memory
 * beyond the last object holds nothing of anybody's; pack_class_check
 * proves it.
 *
 * A general allocator (jemalloc) was the alternative: it cannot move objects,
 * and after churn holds 10 to 30 % of holes.
 */
#ifndef TMEM_PACK_H
#define TMEM_PACK_H

#include "tmem/arena.h"

/* In front of each object. */
struct pack_head {
	uint32_t owner; /* unit of its word in the owners' arena */
	uint32_t sum;	/* checksum of the data */
};

#define PACK_STEP	  16u	/* between classes */
#define PACK_SMALL_MAX	  3840u /* data bytes that sized classes take */
#define PACK_SMALL	  ((PACK_SMALL_MAX + sizeof(struct pack_head)) / PACK_STEP + 1)
#define PACK_WHOLE	  8u /* classes for whole pages: many use them at once */
#define PACK_CLASSES	  (PACK_SMALL + PACK_WHOLE)
#define PACK_EXTENT_SHIFT 20

/* What to store, and what was stored. */
struct pack_item {
	const void *data;
	uint32_t bytes;	 /* 1 to PACK_SMALL_MAX, or PAGE_BYTES */
	uint32_t tag;	 /* 1 to 7: the user's */
	uint32_t sum;	 /* the user's checksum of data */
	uint32_t spread; /* users of different numbers rarely meet */
};

typedef _Atomic uint64_t pack_word_t;

struct pack_class {
	struct lock lock;
	uint32_t bytes;	      /* of an object, head included */
	uint32_t per_extent;  /* objects */
	uint32_t count;	      /* objects */
	uint32_t extents;     /* the last of them may hold none */
	uint32_t extents_max; /* room in extent[] */
	uint32_t top_pages; /* committed of the last extent; others are full */
	uint32_t *extent;   /* block numbers */
};

struct pack {
	struct budget *budget;
	struct arena *owners;
	struct arena extents;
	_Atomic uint64_t spare_pages;
	struct pack_class class[PACK_CLASSES];
};

MUST_CHECK int pack_init(struct pack *pack, struct budget *budget,
			 struct arena *owners);
void pack_fini(struct pack *pack);

/*
 * Stores the item for an owner whose word is 0. -ENOSPC: over budget; -ENOMEM.
 */
MUST_CHECK int pack_put(struct pack *pack, uint32_t owner,
			const struct pack_item *item);

/*
 * Overwrites the owner's own object by one of the same class: cannot fail.
 * false: the class differs or it is a reference; nothing was done.
 */
bool pack_overwrite(struct pack *pack, uint32_t owner,
		    const struct pack_item *item);

/* Gives the object of `from` to `to`, whose word is 0. */
void pack_reown(struct pack *pack, uint32_t from, uint32_t to);

/*
 * References: a word that names another word, which owns the object for it.
 * share gives the object of `from` to `to`, whose word is 0, and makes `from` a
 * reference to it. refer makes one of a word that is 0, for an item equal to
 * the object of `to`; clear makes it 0 again. No reference leads to another.
 * reading follows them; dropping does not.
 */
void pack_share(struct pack *pack, uint32_t from, uint32_t to);
void pack_refer(struct pack *pack, uint32_t name, uint32_t to,
		const struct pack_item *item);
void pack_clear(struct pack *pack, uint32_t name);
/* The word referred to; 0: it is no reference. */
uint32_t pack_reference(const struct pack *pack, uint32_t name);

/* Is the object this item, in form and every byte? */
bool pack_equal(struct pack *pack, uint32_t owner,
		const struct pack_item *item);

/* Checksum and length of the word's own object. false: it is a reference. */
bool pack_sum(struct pack *pack, uint32_t owner, uint32_t *sum_out,
	      uint32_t *bytes_out);

/* Frees the owner's object; its word becomes 0. */
void pack_drop(struct pack *pack, uint32_t owner);

/* Copies the owner's object to buf (PAGE_BYTES) and describes it. */
void pack_read(struct pack *pack, uint32_t owner, void *buf,
	       struct pack_item *item_out);

/* Gives all spare pages back. */
void pack_trim(struct pack *pack);

/* Memory an object of so many data bytes takes. */
uint32_t pack_object_bytes(uint32_t bytes);

/*
 * Sets the word's mark, which says what its user wants; it stays with the
 * object, and any new object comes without.
 */
void pack_mark(struct pack *pack, uint32_t owner);

uint64_t pack_word(const struct pack *pack, uint32_t owner);

/* What a word says without asking the packer. */
bool pack_word_marked(uint64_t word);
uint32_t pack_word_bytes(uint64_t word);
uint32_t pack_word_tag(uint64_t word);

struct pack_usage {
	uint64_t committed_bytes;
	uint64_t object_bytes; /* of these, in objects */
	uint64_t objects;
};

void pack_usage(struct pack *pack, struct pack_usage *out);

/* Walks all objects of a class, and checks their owners' words. -EUCLEAN. */
MUST_CHECK int pack_class_check(struct pack *pack, uint32_t class);

#endif
