/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The line between a guest and its host's page store: what lies in the shared
 * memory (BAR2) of an ivshmem-doorbell PCI device (1af4:1110), and what its
 * doorbells mean. The one header both sides are built from: plain C99, no
 * other header of the project, integers little endian. Operations, laws and
 * results are those of docs/tmem.md.
 *
 *   page 0        struct line_host     written by the host
 *   page 1        struct line_guest    written by the guest
 *   then, for each queue, line_queue_bytes(entries):
 *     page        struct line_queue    indexes, each word with one writer
 *     entries x   struct line_entry    requests, results written in place
 *     entries x   4096 bytes           entry i's page: its slot
 *
 * Slots are page-aligned, since LINE_ENTRIES_MIN entries fill a page.
 *
 * A queue. Indexes run freely and wrap at 2^32; position p is entry p modulo
 * entries (a power of two). The guest fills the entry at tail, and its slot for
 * a put, then stores tail + 1 (release). The host takes requests in order: it
 * copies the entry once, checks the copy, acts, writes result, and stores head
 * (release), at least once per LINE_BATCH requests. Always
 *
 *   tail - head <= entries
 *
 * and a guest reuses an entry only once it is done with its result and slot. So
 * a put that wants no answer costs the guest nothing further, and requests for
 * one key keep their order if they go through one queue.
 *
 * Doorbells. Both sides sleep when idle. The host looks for the next request
 * for a short while, then sets sleeping, looks once more, and sleeps; the
 * guest, having stored tail, rings vector 1 + queue of peer host_peer if
 * sleeping is set (full fence between). The guest sets wake_at to the head it
 * waits for, looks once more, and sleeps; the host interrupts (the guest's own
 * vector 1 + queue) when a store of head passes wake_at, which is when
 * (u32)(new - wake_at) < (u32)(new - old): virtio's rule.
 *
 * Beginning. The guest checks magic, version and features, stores its own
 * features and a new epoch that is not 0, and rings vector 0. The host destroys
 * all pools and clears every queue, then stores the same epoch; nothing moves
 * before. Epoch 0 ends it: the pools are gone when the host's is 0, too. So a
 * guest that was reset never meets its earlier life's pages.
 *
 * A guest that breaks these rules gets state LINE_BROKEN, with its pools gone,
 * until it begins again. The host trusts nothing it reads here.
 */
#ifndef TMEM_LINE_H
#define TMEM_LINE_H

#ifdef __KERNEL__
#include <linux/types.h>
typedef u8 line_u8;
typedef u16 line_u16;
typedef u32 line_u32;
typedef s32 line_s32;
typedef u64 line_u64;
#else
#include <stdint.h>
typedef uint8_t line_u8;
typedef uint16_t line_u16;
typedef uint32_t line_u32;
typedef int32_t line_s32;
typedef uint64_t line_u64;
#endif

#define LINE_MAGIC	 0x454e494c4d454d54ull /* "TMEMLINE" */
#define LINE_VERSION	 1
#define LINE_PAGE_BYTES	 4096u
#define LINE_QUEUES_MAX	 16u
#define LINE_ENTRIES_MIN 64u
#define LINE_ENTRIES_MAX 1024u
#define LINE_BATCH	 16u /* requests done before head is stored, at most */
#define LINE_FLUSH_MAX	 65536u /* pages of one LINE_OP_FLUSH_RANGE */

/* PCI: registers of BAR0, and the identity the device is found by. */
#define LINE_PCI_VENDOR 0x1af4
#define LINE_PCI_DEVICE 0x1110
#define LINE_REG_POSITION                                                      \
	8		     /* read: our own peer number; negative: none yet  \
			      */
#define LINE_REG_DOORBELL 12 /* write: peer << 16 | vector */
#define LINE_VECTOR_CONTROL                                                    \
	0		    /* epoch (to the host), settings (to the guest)    \
			     */
#define LINE_VECTOR_QUEUE 1 /* + queue */

/* Features: what both sides offer is in force. */
#define LINE_FEATURE_FLUSH_RANGE 1u /* LINE_OP_FLUSH_RANGE */
#define LINE_FEATURE_STATS	 2u /* struct line_guest.stats is kept */
#define LINE_FEATURE_BALLOON	 4u /* offer_pages is kept; balloon_pages told */

enum line_state {
	LINE_READY = 1,
	LINE_BROKEN = 2, /* the guest broke the rules: begin again */
	LINE_CLOSED = 3, /* the host serves no more (for now) */
};

/* Page 0. The first 64 bytes never change while the device is there. */
struct line_host {
	line_u64 magic;
	line_u32 version;
	line_u32 bytes;	    /* of all shared memory in use */
	line_u32 queues;    /* 1 to LINE_QUEUES_MAX */
	line_u32 entries;   /* of a queue: a power of two, MIN to MAX */
	line_u32 host_peer; /* whom to ring */
	line_u32 features;
	line_u32 reserved[8];

	line_u32 epoch;	   /* the guest's, once all is ready */
	line_u32 state;	   /* enum line_state */
	line_u32 settings; /* +1, and vector 0 rung, when one below changed */
	line_s32 swap_priority;
	line_u64 swap_pages;	/* size of the swap device; 0: none wanted */
	line_u64 balloon_pages; /* the most the guest may offer */
	line_u64 ephemeral;	/* 1: cleancache wanted, 0: not */
	line_u64 reserved2[3];
};

/* The guest's own counters, for `tmem-ctl why`. All but two only ever grow. */
struct line_stats {
	line_u64 swap_writes, swap_reads, swap_refused, swap_errors;
	line_u64 cache_puts, cache_dropped; /* dropped: the ring was full */
	line_u64 cache_hits, cache_misses, cache_flushes;
	line_u64 wait_ns;	    /* of threads that waited for an answer */
	line_u64 refaults;	    /* workingset_refault_file + _anon */
	line_u64 psi_some_permille; /* of time, 10 s; 0: none or unknown */
	line_u64 offer_pages;	    /* it can do without, now; not a counter */
	line_u64 reserved[19];
};

/* Page 1. */
struct line_guest {
	line_u32 epoch; /* 0: no driver */
	line_u32 features;
	line_u32 reserved[14];
	struct line_stats stats;
};

/* A queue's first page; each word on a cache line of its own. */
struct line_queue {
	line_u32 tail; /* guest: next position to fill */
	line_u32 pad0[15];
	line_u32 wake_at; /* guest: interrupt when head passes this */
	line_u32 pad1[15];
	line_u32 head; /* host: next position to do */
	line_u32 pad2[15];
	line_u32 sleeping; /* host: 1: ring me */
	line_u32 pad3[15];
};

/* What a request's fields beyond op mean, and its result. */
enum line_op {
	LINE_OP_NOP = 0,	  /* 0 */
	LINE_OP_POOL_CREATE = 1,  /* pool: flags; oid w[0..1]: uuid. The id */
	LINE_OP_POOL_DESTROY = 2, /* pool */
	LINE_OP_PUT = 3,	  /* pool, oid, index, slot */
	LINE_OP_GET = 4,	  /* pool, oid, index; the slot is written */
	LINE_OP_FLUSH_PAGE = 5,	  /* pool, oid, index */
	LINE_OP_FLUSH_OBJECT = 6, /* pool, oid */
	LINE_OP_FLUSH_RANGE = 7,  /* pool, oid, index, count */
};

/* Flags of a pool: as TMEM_PERSISTENT and TMEM_SHARED. */
#define LINE_POOL_EPHEMERAL  0u
#define LINE_POOL_PERSISTENT 1u
#define LINE_POOL_SHARED     2u

/*
 * result: 0 or more, or one of these whatever errno is called in the guest.
 * They are Linux's numbers.
 */
#define LINE_ENOENT  (-2)   /* no such page, or no such pool */
#define LINE_ENOMEM  (-12)  /* not stored */
#define LINE_EACCES  (-13)  /* may not join this shared pool, or not now */
#define LINE_EBUSY   (-16)  /* frozen, and the key is new */
#define LINE_EINVAL  (-22)  /* unknown op or flag, count too large */
#define LINE_ENOSPC  (-28)  /* no pool left */
#define LINE_EUCLEAN (-117) /* the stored copy is damaged: host's fault */

struct line_entry {
	line_u8 op; /* enum line_op */
	line_u8 reserved[3];
	line_s32 pool;
	line_u64 oid[3];
	line_u32 index;
	line_u32 count;	 /* of LINE_OP_FLUSH_RANGE */
	line_s32 result; /* host */
	line_u32 reserved2[3];
	line_u64
		cookie; /* the guest's own; the host neither reads nor writes */
};

#define LINE_ASSERT(name, what) typedef char line_assert_##name[(what) ? 1 : -1]
LINE_ASSERT(host, sizeof(struct line_host) == 128);
LINE_ASSERT(stats, sizeof(struct line_stats) == 256);
LINE_ASSERT(guest, sizeof(struct line_guest) == 320);
LINE_ASSERT(queue, sizeof(struct line_queue) == 256);
LINE_ASSERT(entry, sizeof(struct line_entry) == 64);

static inline line_u64 line_queue_bytes(line_u32 entries)
{
	return LINE_PAGE_BYTES + (line_u64)entries * sizeof(struct line_entry) +
	       (line_u64)entries * LINE_PAGE_BYTES;
}

static inline line_u64 line_queue_at(line_u32 entries, line_u32 queue)
{
	return 2 * LINE_PAGE_BYTES + queue * line_queue_bytes(entries);
}

/* From the queue's first byte. */
static inline line_u64 line_entry_at(line_u32 i)
{
	return LINE_PAGE_BYTES + (line_u64)i * sizeof(struct line_entry);
}

static inline line_u64 line_slot_at(line_u32 entries, line_u32 i)
{
	return line_entry_at(entries) + (line_u64)i * LINE_PAGE_BYTES;
}

/* Of all of it; the device's BAR is the next power of two. */
static inline line_u64 line_bytes(line_u32 queues, line_u32 entries)
{
	return line_queue_at(entries, queues);
}

#endif
