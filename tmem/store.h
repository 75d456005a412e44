/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of the store: what a key leads to.
 *
 *   (client, pool, object, index)
 *      | hash of all but the index's low 9 bits
 *      v
 *   shard (lock) --- shelf's part --- table --> object (oid)
 *                         |              \----> leaf (8 indexes) of the object
 *                         '-- counters            | a word each
 *                                                 v
 *                                               packed payload, see pack.h
 *
 * A shelf has the pages of one kind, persistent or ephemeral, and all that
 * leads to them; so all that is ephemeral can go at once, as memory (take.c).
 * Each shard locks its part of both shelves.
 *
 * 512 consecutive indexes of an object are in one shard, so that a small
 * object has one descriptor; an object of more has one in each shard it
 * reaches. Object and leaf are found through one table; they never move and
 * are named by unit (arena.h).
 *
 * Cost of a stored page, metadata alone: an eighth of a leaf (11 bytes,
 * persistent; 20, ephemeral), 8 in front of the payload, 0.25 to 1 for the
 * table, 7 to 8 in the index of contents (content.h): 28 bytes where indexes
 * are dense (37 if ephemeral).
 *
 * A page is reached only under its shard's lock. A pool that ends first leaves
 * its slot, then each shard is locked and cleared of it; after that no thread
 * can be using it, and its id may be given out again. Pools have a name that
 * never returns, so a key made of the slot's earlier pool reaches nothing.
 *
 * In a shared pool each page belongs to the member who put it: its charge, its
 * age and its end are that client's. What leads to the page (leaf, object) is
 * nobody's there, and counted in shared_bytes.
 */
#ifndef TMEM_STORE_H
#define TMEM_STORE_H

#include "tmem/codec.h"
#include "tmem/content.h"
#include "tmem/lock.h"
#include "tmem/pack.h"
#include "tmem/slab.h"
#include "tmem/table.h"
#include "tmem/tmem.h"

#define SHARDS_MAX  32
#define LEAF_SHIFT  3
#define LEAF_PAGES  (1u << LEAF_SHIFT)
#define SHARD_SHIFT 9 /* indexes that stay in one shard */

enum pool_kind { KIND_EPHEMERAL, KIND_PERSISTENT, KINDS };

/* Kinds of slab cells. */
enum cell_kind {
	CELL_LEAF,
	CELL_OBJECT,
	CELL_KINDS, /* of a part; those of stripes follow */
	CELL_LINE = CELL_KINDS,
	CELL_CONTENT
};

struct object {
	struct table_node node;
	struct tmem_oid oid;
	struct tmem_pool *pool;
	uint32_t next; /* of the pool in this shard */
	uint32_t prev;
	uint32_t leaf_first; /* newest */
	uint32_t leaf_last;
	uint32_t leaves;
	uint32_t unused;
};

struct leaf {
	struct table_node node;
	uint32_t object;
	uint32_t base; /* index of word[0] */
	uint32_t next; /* of the object */
	uint32_t prev;
	pack_word_t word[LEAF_PAGES];
};

/* The client's next older and newer: units of words, 0 at the ends. Lock: age.
 */
struct link {
	uint32_t older;
	uint32_t newer;
};

struct leaf_ephemeral {
	struct leaf leaf;
	struct link link[LEAF_PAGES];
	uint8_t member[LEAF_PAGES]; /* of a shared pool: who put it */
};

_Static_assert(sizeof(struct leaf) == 88, "see the cost above");
_Static_assert(sizeof(struct leaf_ephemeral) == 160, "see the cost above");

struct tmem_pool {
	struct tmem *tm;
	struct tmem_client *cl;	     /* NULL: it is a shared pool */
	uint64_t name;		     /* no other pool ever had it */
	enum pool_kind kind;	     /* lock of it and the name: shard 0 */
	uint32_t object[SHARDS_MAX]; /* first of each; lock: that shard */
};

/* What a client's pool id stands for. Changed under the client's lock. */
struct pool_slot {
	_Atomic(struct tmem_pool *) pool; /* NULL: nothing */
	_Atomic uint64_t name;
	_Atomic uint8_t kind; /* enum tmem_pool_kind */
	uint8_t member;	      /* this client's number in a shared pool */
};

struct shared_pool {
	struct tmem_pool pool;
	struct shared_pool *next; /* lock: shared, as all below */
	uint8_t uuid[16];
	unsigned members;
	struct tmem_client *member[TMEM_MEMBERS_MAX];
};

/*
 * What is there, counted. An object that several pages share is counted where
 * it was stored first and discounted where it is dropped last: so all but pages
 * is right only in sum over all parts.
 */
struct tally {
	uint64_t pages;
	uint64_t same_filled; /* of these */
	uint64_t raw;
	uint64_t dense;
	uint64_t objects;
	uint64_t object_bytes; /* as packed */
	uint64_t stored_bytes;
};

/* What a shard has on a shelf. Lock: the shard's. */
struct part {
	_Alignas(64) struct shelf *shelf;
	unsigned n;	  /* of the shard */
	uint32_t scratch; /* unit of a word: see page_replace() */
	struct table table;
	struct slab slab[CELL_KINDS];
	struct tally tally;
};

/* The pages of one kind. Units are of its tables. */
struct shelf {
	struct tmem *tm;
	enum pool_kind kind;
	struct arena tables;
	struct pack pack;
	uint32_t scratch_block;
	struct part *part; /* as many as shards */
	struct stripe *stripe;
	void *memory; /* of these two */
};

struct shard {
	_Alignas(64) struct lock lock;
	unsigned n;
	struct tmem_stats stats; /* what was done; gauges are 0 */
};

struct client_auth {
	uint8_t uuid[16];
};

struct tmem_client {
	struct tmem *tm;
	struct tmem_client *next; /* lock: clients */
	uint64_t salt; /* its contents are hashed apart from others' */
	char name[TMEM_NAME_MAX];
	_Atomic uint32_t weight;
	_Atomic uint64_t cap;
	_Atomic uint64_t reserve;
	_Atomic bool compress;
	_Atomic(const struct tmem_dense_ops *) dense; /* set once */
	_Atomic bool frozen;
	_Atomic uint64_t bytes; /* charged, both kinds */
	_Atomic uint64_t bytes_ephemeral;
	_Atomic uint64_t lent;
	_Atomic uint64_t pages[KINDS];
	_Atomic uint64_t evicted[TMEM_EVICT_WHYS];
	struct lock lock;
	_Atomic bool moving; /* a save or restore is under way */
	bool restoring;	     /* lock: client */
	struct pool_slot slot[TMEM_POOLS_MAX];
	struct tmem_pool own[TMEM_POOLS_MAX];
	unsigned auths;
	struct client_auth auth[TMEM_AUTHS_MAX];
	struct lock age_lock;
	uint32_t oldest;
	uint32_t newest;
	uint64_t aged; /* pages in the list */
};

struct tmem {
	struct budget budget;
	/*
	 * NULL until a pool is of this kind. Changed with the clients' lock and
	 * all shards held: any one of these is enough to use it.
	 */
	struct shelf *shelf[KINDS];
	struct lock take_lock;
	_Atomic uint64_t leaving; /* bytes used by what was taken: take.c */
	pthread_rwlock_t clients_lock;
	struct tmem_client *clients;
	struct lock shared_lock;
	struct shared_pool *shared;
	_Atomic uint64_t shared_bytes; /* leaves and objects in shared pools */
	_Atomic uint64_t pool_names;
	uint64_t client_ids;	      /* lock: clients */
	_Atomic uint64_t empty_bytes; /* used while nothing is stored */
	uint64_t secret;
	unsigned shards; /* a power of two */
	struct shard *shard;
	void *shards_memory;
};

struct key {
	struct tmem_client *cl;
	uint32_t pool;
	uint32_t index;
	struct tmem_oid oid;
	uint64_t name;		  /* of the pool; 0: there is none */
	struct tmem_pool *staged; /* a pool that is not shown yet, or NULL */
	uint64_t hash;		  /* of all but the index */
};

enum clients_access { CLIENTS_READ, CLIENTS_CHANGE };

/* What clients are charged for the part's pages. */
static inline uint64_t part_charged(const struct part *part)
{
	const struct slab *slab = part->slab;
	uint64_t bytes = part->tally.object_bytes;

	for (unsigned k = 0; k < CELL_KINDS; k++)
		bytes += (uint64_t)slab[k].cells * slab[k].cell_bytes;
	return bytes;
}

/* Of the pools of one kind, in this shard. */
static inline struct part *part_at(const struct tmem *tm, enum pool_kind kind,
				   unsigned n)
{
	return &tm->shelf[kind]->part[n];
}

/* ---- tmem.c ------------------------------------------------------------ */

/* tmem_create with the world injected. */
MUST_CHECK int tmem_create_on(const struct memory_ops *ops,
			      uint64_t budget_bytes, struct tmem **tm_out);
void clients_take(struct tmem *tm, enum clients_access access);
void clients_drop(struct tmem *tm);

/* As tmem_put, with the page encoded already. */
MUST_CHECK int key_put(const struct key *key, const struct codec_page *coded);

/* All shards at once: nothing moves. */
void shards_take(struct tmem *tm);
void shards_drop(struct tmem *tm);

/* ---- shelf.c ----------------------------------------------------------- */

/* Makes the store's shelf of this kind if there is none. -ENOMEM. No lock. */
MUST_CHECK int shelf_need(struct tmem *tm, enum pool_kind kind);

/* An empty one, which nobody sees yet. -ENOMEM. Lock: clients, to change. */
MUST_CHECK int shelf_create(struct tmem *tm, enum pool_kind kind,
			    struct shelf **shelf_out);

/* NULL is allowed. Lock: clients, to change, or nobody has the store. */
void shelf_destroy(struct shelf *shelf);

/*
 * Gives back the memory of a shelf that nobody sees any more, all but what
 * describes it; it stays charged, and shelf_destroy is all that may follow.
 */
void shelf_vacate(struct shelf *shelf);

/* Memory for its tables and payload. Lock: all shards. */
uint64_t shelf_bytes(struct shelf *shelf);

/* Gives idle memory back. Lock: clients. */
void shelves_trim(const struct tmem *tm);

/* ---- take.c ------------------------------------------------------------ */

/*
 * Takes all ephemeral pages of the store at once, as memory: because they must
 * go by cl's bounds, and are all cl's; because somebody said so, if cl is NULL.
 * Returns bytes freed; 0: it cannot be, or they are few, or memory for an empty
 * shelf is not to be had. No lock held.
 */
uint64_t take_all(struct tmem *tm, const struct tmem_client *cl);

/* Waits for memory on its way back. No lock held. */
void take_wait(struct tmem *tm);

/* ---- all the others ---------------------------------------------------- */

/* A handle that promises not to change the store; its locks do change. */
static inline struct tmem *tmem_inside(const struct tmem *tm)
{
	return (struct tmem *)(uintptr_t)tm;
}

/* ---- client.c, pool.c, shared.c ----------------------------------------- */

/* All pages of the pool go; its id is free again. Lock: client. */
void pool_end(struct tmem_client *cl, struct pool_slot *slot);

/* All pages of a private pool that is in no slot go. */
void pool_clear(struct tmem_pool *pool);

/* The pool begins: a name, a kind, no pages. */
void pool_name(struct tmem_pool *pool, enum pool_kind kind);

/* Gives the slot the pool. Lock: client. */
void pool_show(struct pool_slot *slot, struct tmem_pool *pool);
void pool_hide(struct pool_slot *slot);

/*
 * The shared pool of this uuid for a slot that is free, made if nobody is in
 * it. -ENOSPC: too many members; -ENOMEM. Lock: client.
 */
MUST_CHECK int shared_join(struct tmem_client *cl, struct pool_slot *slot,
			   const uint8_t uuid[16]);

/* The client's pages go, and with the last member the pool. Lock: client. */
void shared_leave(struct tmem_client *cl, struct pool_slot *slot);
bool shared_is(const struct tmem_pool *pool, const uint8_t uuid[16]);
void shared_uuid(const struct tmem_pool *pool, uint8_t uuid_out[16]);
struct tmem_client *shared_member(struct tmem_pool *pool, uint8_t member);

/* Lock: client. */
bool client_is_authorised(const struct tmem_client *cl, const uint8_t uuid[16]);

/* Charges the client. -EDQUOT: over its cap or what it is lent. */
MUST_CHECK int client_charge(struct tmem_client *cl, enum pool_kind kind,
			     uint64_t bytes);
void client_uncharge(struct tmem_client *cl, enum pool_kind kind,
		     uint64_t bytes);

/* Charges beyond the cap: as much will be uncharged in a moment. */
void client_recharge(struct tmem_client *cl, enum pool_kind kind,
		     uint64_t bytes);

/* The same for what leads to pages of the pool. */
MUST_CHECK int pool_charge(struct tmem_pool *pool, uint64_t bytes);
void pool_uncharge(struct tmem_pool *pool, uint64_t bytes);

/* ---- key.c: objects and leaves; lock: shard; key: of a pool of the shelf's */

struct key key_make(struct tmem_client *cl, int pool,
		    const struct tmem_oid *oid, uint32_t index);
/* A bijection of 64 bits whose every output bit depends on every input bit. */
uint64_t key_mix(uint64_t x);
uint64_t key_hash(const struct tmem *tm, uint64_t pool_name,
		  const struct tmem_oid *oid);
struct shard *key_shard(const struct key *key);
struct leaf *leaf_at(const struct shelf *shelf, uint32_t unit);
struct object *object_at(const struct shelf *shelf, uint32_t unit);
uint32_t leaf_find(const struct part *part, const struct key *key);
uint32_t object_find(const struct part *part, const struct key *key);

/* -ENOSPC: budget; -EDQUOT: cap; -ENOMEM. */
MUST_CHECK int leaf_create(struct part *part, struct tmem_pool *pool,
			   const struct key *key, uint32_t *unit_out);

/* Its words are 0. Ends its object with it if it is the last. */
void leaf_destroy(struct part *part, uint32_t unit);
bool leaf_is_empty(const struct leaf *leaf);
uint32_t key_leaf_hash(uint64_t hash, uint32_t base);

static inline uint32_t word_unit(uint32_t leaf, uint32_t n)
{
	return leaf +
	       (uint32_t)(offsetof(struct leaf, word) >> ARENA_UNIT_SHIFT) + n;
}

static inline size_t leaf_bytes(enum pool_kind kind)
{
	return kind == KIND_EPHEMERAL ? sizeof(struct leaf_ephemeral)
				      : sizeof(struct leaf);
}

static inline uint32_t word_leaf(const struct shelf *shelf, uint32_t word)
{
	return slab_cell_of(word, leaf_bytes(shelf->kind));
}

/* ---- page.c: the pages of a shard; lock: shard --------------------------- */

/* The client's pool, or NULL. */
struct tmem_pool *shard_pool(const struct key *key);

enum put_try {
	PUT_GENTLY,	 /* on failure the key keeps what it had */
	PUT_AT_ALL_COSTS /* gives up the old page first; never keeps it */
};

/* -EBUSY, -ENOENT, or -ENOSPC, -EDQUOT, -ENOMEM: no room. */
MUST_CHECK int page_put(struct shard *s, const struct key *key,
			const struct codec_page *page, enum put_try how);

/* Copies the stored form to buf; takes it away if the pool is ephemeral. */
MUST_CHECK int page_get(struct shard *s, const struct key *key, void *buf,
			struct pack_item *item_out);
void page_drop(struct part *part, uint32_t leaf, uint32_t n);
void page_flush(struct shard *s, const struct key *key);

/* Drops all pages of a leaf, and the leaf. */
void leaf_clear(struct part *part, uint32_t leaf);

/* Drops those without a mark. Returns how many stay. */
uint32_t leaf_clear_unmarked(struct part *part, uint32_t leaf);

/* Drops those that this member of a shared pool has put. */
void leaf_clear_member(struct part *part, uint32_t leaf, uint8_t member);

/* Who is charged for the page. */
struct tmem_client *page_client(const struct shelf *shelf, uint32_t leaf,
				uint32_t n);

/* ---- age.c: ephemeral pages by age --------------------------------------- */

void age_append(struct tmem_client *cl, uint32_t word);
void age_remove(struct tmem_client *cl, uint32_t word);
/* The page is now the newest. */
void age_renew(struct tmem_client *cl, uint32_t word);
/* All go; their leaves, too, before the lock of all shards does. */
void age_clear(struct tmem_client *cl);
/* The oldest page and its shard, or 0. */
uint32_t age_oldest(struct tmem_client *cl, unsigned *shard_out);
/* Verifies the list. 0 or -EUCLEAN. */
MUST_CHECK int age_check(struct tmem_client *cl);

/* ---- evict.c ------------------------------------------------------------- */

/*
 * After page_put said rc: drops ephemeral pages so that it may work. false:
 * there is nothing to drop for it. No lock held.
 */
bool evict_for_put(struct tmem_client *cl, int rc);

/* Drops the client's oldest until it is within its cap and what it is lent. */
void evict_to_cap(struct tmem_client *cl);

/* Must all of them go for that, and why? */
bool evict_wants_all(const struct tmem_client *cl,
		     enum tmem_evict_why *why_out);

/* As tmem_flush. */
uint64_t evict_bytes(struct tmem *tm, uint64_t bytes);

#endif
