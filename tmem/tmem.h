/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page store: transcendent memory as a library. A client (one guest) puts
 * 4096-byte pages into its pools under a key (pool, object, index) and gets
 * them back by it. Pages of a persistent pool stay until they are flushed;
 * those of an ephemeral pool may be dropped at any time.
 *
 * Results are 0 or a negative errno. Every call is thread safe, with one
 * exception: while tmem_client_destroy or tmem_destroy runs, no other call may
 * use what it destroys. Puts and gets of different keys run in parallel. A
 * page's memory is touched with no lock held, and read once: it may be changed
 * under way by others, and a touch of it may itself fault into this store.
 * No call but tmem_check writes to the log.
 *
 * docs/tmem.md tells the laws and the policy.
 */
#ifndef TMEM_TMEM_H
#define TMEM_TMEM_H

#include "hv/base/types.h"

#include <stdbool.h>
#include <stdint.h>

#define TMEM_PAGE_BYTES	   4096
#define TMEM_POOLS_MAX	   16 /* of one client */
#define TMEM_NAME_MAX	   64 /* of a client, with the terminating 0 */
#define TMEM_AUTHS_MAX	   64 /* shared pools one client may join */
#define TMEM_MEMBERS_MAX   64 /* joins of one shared pool */
#define TMEM_WEIGHT_NORMAL 1000

/* G(name, unit, help): gauge.  C(name, unit, help): counter. */
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
	C(evictions, pages, "ephemeral pages dropped by the host")             \
	C(puts_poor, count, "puts kept raw because LZ4 saved too little")      \
	C(puts_frozen, count, "puts refused because the client is frozen")     \
	C(puts_full, count, "puts refused for want of memory")                 \
	G(pages_dense, pages, "kept by the denser codec")

struct tmem_stats {
#define FIELD(name, unit, help) uint64_t name;
	TMEM_STATS(FIELD, FIELD)
#undef FIELD
};

struct tmem;	    /* one store */
struct tmem_client; /* one guest's view */

struct tmem_oid {
	uint64_t w[3];
};

/* Flags of a pool. Shared pools are ephemeral. */
enum { TMEM_EPHEMERAL = 0, TMEM_PERSISTENT = 1, TMEM_SHARED = 2 };

/*
 * budget_bytes: the most memory the store may use, payload and everything else
 * of it included (struct tmem_stats.used_bytes); 0: no limit. -ENOMEM.
 */
MUST_CHECK int tmem_create(uint64_t budget_bytes, struct tmem **tm_out);

/* Destroys all clients, too. NULL is allowed. */
void tmem_destroy(struct tmem *tm);

/*
 * A client of normal weight, no cap, no reserve, compression on. The name is
 * copied. -EINVAL: empty or too long a name; -ENOMEM.
 */
MUST_CHECK int tmem_client_create(struct tmem *tm, const char *name,
				  struct tmem_client **cl_out);

/* Its pages are gone, and their memory free, when this returns. */
void tmem_client_destroy(struct tmem_client *cl);

/*
 * weight: share of the ephemeral memory under pressure, relative to the other
 * clients'. cap_bytes: hard maximum of the client's memory, metadata included;
 * 0: none. reserve_bytes: of ephemeral memory, not taken while another client
 * is above its own reserve. compress: for puts from now on. All take effect at
 * once: a cap below what the client has drops ephemeral pages before this
 * returns; persistent ones stay, and puts are refused until they fit.
 */
int tmem_client_set(struct tmem_client *cl, uint32_t weight, uint64_t cap_bytes,
		    uint64_t reserve_bytes, bool compress);

/*
 * The most bytes of the client's ephemeral pages, its cap apart: what the host
 * lends it for now. UINT64_MAX, as a client begins: no bound. What is above it
 * is dropped, oldest first, before this returns.
 */
int tmem_client_lend(struct tmem_client *cl, uint64_t bytes);

/* What one of a client's pools is; 0: no pool has this id. */
enum tmem_pool_kind {
	TMEM_POOL_NONE,
	TMEM_POOL_EPHEMERAL,
	TMEM_POOL_PERSISTENT,
	TMEM_POOL_SHARED,
	TMEM_POOL_KINDS
};

/* Why an ephemeral page was dropped. */
enum tmem_evict_why {
	TMEM_EVICT_CAP,	   /* its client was at its own cap */
	TMEM_EVICT_LENT,   /* the host lends its client no more than this */
	TMEM_EVICT_BUDGET, /* a put, of whatever client, needed room */
	TMEM_EVICT_FLUSH,  /* tmem_flush */
	TMEM_EVICT_WHYS
};

/* A client's charge and its knobs, each as it is at some time of the call. */
struct tmem_client_stats {
	uint64_t bytes;		  /* what its cap is compared with */
	uint64_t bytes_ephemeral; /* of them */
	uint64_t cap_bytes;
	uint64_t reserve_bytes;
	uint64_t lent_bytes; /* see tmem_client_lend */
	uint64_t pages_ephemeral;
	uint64_t pages_persistent;
	uint64_t evicted[TMEM_EVICT_WHYS]; /* pages, ever */
	uint32_t weight;
	bool compress;
	bool frozen;
	uint8_t pool[TMEM_POOLS_MAX]; /* enum tmem_pool_kind */
};
void tmem_client_stats(const struct tmem_client *cl,
		       struct tmem_client_stats *out);

/*
 * A denser codec than the store's own, which brings along LZ4 alone: the caller
 * has its library. Both calls come from any thread, several at a time, with no
 * lock of the store held and memory of the store's own to write to.
 *
 * encode: writes at most room bytes and returns how many; 0: it cannot, or they
 * are too few. decode: writes all of the page and returns 0, or says it cannot;
 * whatever the bytes are, it touches no other memory. What encode wrote must be
 * decodable for as long as the client lives.
 */
struct tmem_dense_ops {
	size_t (*encode)(void *arg, const void *page, void *out, size_t room);
	int (*decode)(void *arg, const void *data, size_t bytes,
		      void *page_out);
	void *arg;
};

/*
 * Gives the client a denser codec, for tmem_put_dense. ops stays the caller's
 * and in force until the client is destroyed. -EEXIST: it has one.
 */
int tmem_client_dense(struct tmem_client *cl, const struct tmem_dense_ops *ops);

/*
 * May the client join the shared pool of this uuid? What it no longer may join
 * it leaves at once. -ENOSPC: too many.
 */
int tmem_client_auth(struct tmem_client *cl, const uint8_t uuid[16], bool on);

/*
 * Returns the pool's id, 0 to TMEM_POOLS_MAX - 1. uuid may be NULL unless the
 * pool is shared. -EINVAL: unknown flags, or shared and persistent; -EACCES:
 * not authorised for this uuid; -ENOSPC: no pool left, or too many members;
 * -EBUSY: a restore of the client is under way;
 * -ENOMEM. A shared pool is there while any client is in it, and each sees what
 * the others put; a page belongs to the client that put it.
 */
int tmem_pool_create(struct tmem_client *cl, uint32_t flags,
		     const uint8_t uuid[16]);

/*
 * Of a shared pool, the client's own pages go, and the client leaves. -ENOENT:
 * no such pool.
 */
int tmem_pool_destroy(struct tmem_client *cl, int pool);

/*
 * Stores a copy of the page; replaces what the key had. -ENOMEM: not stored
 * (cap, budget or memory), -EBUSY: the client is frozen and the key is new,
 * -ENOENT: no such pool. After -ENOMEM the key holds nothing, neither the new
 * page nor an old one. -ENOENT and -EBUSY leave nothing behind either.
 */
int tmem_put(struct tmem_client *cl, int pool, const struct tmem_oid *oid,
	     uint32_t index, const void *page);

/*
 * The same for a page that will hardly be read soon: by the client's denser
 * codec, if it has one and compresses, and the pool is persistent. What that
 * codec refuses is put as tmem_put would.
 */
int tmem_put_dense(struct tmem_client *cl, int pool, const struct tmem_oid *oid,
		   uint32_t index, const void *page);

/*
 * -ENOENT: a miss, or no such pool; page_out is untouched. -EUCLEAN: the stored
 * copy is damaged (a bug or bad memory, never the guest's doing). From an
 * ephemeral pool the page is removed; in a shared one it stays, and is now the
 * newest of the client's that put it.
 */
int tmem_get(struct tmem_client *cl, int pool, const struct tmem_oid *oid,
	     uint32_t index, void *page_out);

/* 0, also where nothing was there. */
int tmem_flush_page(struct tmem_client *cl, int pool,
		    const struct tmem_oid *oid, uint32_t index);
int tmem_flush_object(struct tmem_client *cl, int pool,
		      const struct tmem_oid *oid);

/*
 * While frozen, a put to a new key is refused with -EBUSY; all else works. No
 * new key appears after tmem_freeze(cl, true) has returned.
 */
int tmem_freeze(struct tmem_client *cl, bool on);

/*
 * Drops ephemeral pages, as pressure would, until at least this many bytes
 * are free or none are left. Returns the bytes freed, counted as
 * tmem_freeable counts them.
 */
uint64_t tmem_flush(struct tmem *tm, uint64_t bytes);

/* Bytes of all ephemeral pages, their descriptors included. */
uint64_t tmem_freeable(const struct tmem *tm);

/*
 * What the host gets back if they all go: with them goes their part of what is
 * nobody's (waste, tables). Within 1 % of used_bytes before less after, where
 * that is tens of MiB.
 */
uint64_t tmem_freeable_used(const struct tmem *tm);

/*
 * Writes all pools and all persistent pages to fd, which stays the caller's.
 * The guest may run: each page is then one that was there at some time during
 * the call; freeze the client, or stop the guest, for one moment's state.
 * -EBUSY: another save of the client is under way; -ENOMEM; or what write says.
 */
int tmem_save(struct tmem_client *cl, int fd);

/*
 * The same in steps, while the guest runs. begin writes the head. Each pass
 * writes what was put since the last; the first, everything. end, with the
 * guest stopped, writes the rest and the list of all keys, and frees the saver,
 * whatever it returns. cancel gives up: what was written restores nothing.
 * Between begin and end the client must not be destroyed.
 */
struct tmem_saver;
MUST_CHECK int tmem_save_begin(struct tmem_client *cl, int fd,
			       struct tmem_saver **saver_out);
int tmem_save_pass(struct tmem_saver *saver, uint64_t *pages_out);
int tmem_save_end(struct tmem_saver *saver);
void tmem_save_cancel(struct tmem_saver *saver);

/*
 * Reads what tmem_save or tmem_save_end wrote, and not a byte more, into a
 * client without pools: -EEXIST if it has any. Pools come back under their ids.
 * -EBADMSG: cut, altered, or no such stream; -EPROTONOSUPPORT: a format of the
 * future; -EACCES: a shared pool the client is not authorised for; -ENOMEM: no
 * room within cap or budget; -EBUSY; or what read says. After an error the
 * client is as it was.
 */
int tmem_restore(struct tmem_client *cl, int fd);

/*
 * Verifies every structure, checksum and sum. 0, or -EUCLEAN and a log line
 * for what is wrong. Holds up puts and gets of a part of the keys at a time.
 */
int tmem_check(const struct tmem *tm);

/* A consistent snapshot: stored + metadata + slack = used, exactly. */
void tmem_stats(const struct tmem *tm, struct tmem_stats *out);

#endif
