/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an agent and hvd say to each other, over one SOCK_SEQPACKET unix socket
 * per VM. A message is one packet: struct wire_head, then a body that is either
 * one fixed structure or an array. Both sides run on one host, so integers are
 * native. Nothing but the frame pool is shared memory: a packet received is a
 * copy, so it is checked once (wire_check) and then used.
 *
 *   agent                                   hvd
 *     HELLO name, domain, limits  --------->
 *     HAVE  frames I still map    --------->      (only after a restart of hvd)
 *       <---------  WELCOME secret + pool, userfaultfd, channel | REFUSE
 *     OFFER page, hash, was       --------->
 *       <---------  WANT page, frame, hash    (first of its content: send it)
 *     PUBLISH page, frame, bytes  --------->  (or DECLINE)
 *       <---------  GRANT page, frame         (verify, then map it)
 *     RELEASE frame               --------->  (not mapped, or gone private)
 *     STATS                       --------->  (once a second)
 *       <---------  TARGET resident bytes, what may be done
 *       <---------  COMMAND            RESULT --------->
 *
 * References. hvd counts one reference for each GRANT it sends and for each
 * frame of HAVE; the agent gives each back with one RELEASE. An agent's death
 * releases all. A reference may never be dropped while its page can still be
 * read through the frame.
 */
#ifndef SHARING_WIRE_H
#define SHARING_WIRE_H

#include "hv/base/types.h"
#include "hv/mm/stats.h"
#include "sharing/guest.h"
#include "tmem/tmem.h"

#define WIRE_VERSION	3
#define WIRE_MAX	((size_t)64 << 10) /* bytes of a whole message */
#define WIRE_NAME_MAX	64		   /* with the terminating 0 */
#define WIRE_PATH_MAX	108
#define WIRE_TEXT_MAX	1024
#define WIRE_FRAME_NONE UINT32_MAX

/* Only 48 bits of a content hash travel and are kept; it is only a hint. */
#define HASH_BITS 48
#define HASH_MASK (((uint64_t)1 << HASH_BITS) - 1)
#define HASH_NONE ((uint64_t)0) /* sharing_hash() never returns it */

enum wire_type {
	/* agent to hvd */
	WIRE_HELLO = 1,
	WIRE_HAVE,
	WIRE_OFFER,
	WIRE_PUBLISH,
	WIRE_DECLINE,
	WIRE_RELEASE,
	WIRE_STATS,
	WIRE_RESULT,
	/* hvd to agent */
	WIRE_WELCOME = 65,
	WIRE_REFUSE,
	WIRE_WANT,
	WIRE_GRANT,
	WIRE_TARGET,
	WIRE_COMMAND,
};

struct wire_head {
	uint16_t version;
	uint16_t type;
	uint32_t bytes; /* of the whole message, this head included */
};

enum wire_hello_flags {
	WIRE_HELLO_RECONNECT =
		1, /* HAVE follows; the old pool's fd is with it */
};

struct wire_hello {
	char name[WIRE_NAME_MAX];   /* [A-Za-z0-9][A-Za-z0-9._-]* */
	char domain[WIRE_NAME_MAX]; /* the same; empty: the VM's own */
	char qmp[WIRE_PATH_MAX];    /* QMP socket for the balloon, or empty */
	uint64_t ram_pages;	    /* may grow later: see STATS */
	uint64_t reservation_bytes; /* never taken below this */
	uint64_t limit_bytes;	    /* never above this; 0: none */
	uint32_t shares;	    /* proportional weight; default 1000 */
	uint32_t flags;		    /* enum wire_hello_flags */
	uint32_t features;	    /* enum host_feature */
	uint32_t page_bytes;	    /* 4096 */
};

/*
 * With SCM_RIGHTS: the domain's frame pool, read-only; then, if uffd_device is
 * set, an open /dev/userfaultfd; then, if channel is set, the VM's end of its
 * channel to its domain's shared pools (hv/line/channel.h).
 */
struct wire_welcome {
	uint8_t secret[192]; /* XXH3 secret of the domain */
	uint64_t pool_bytes; /* size of the frame pool's file */
	uint64_t era;	     /* of this hvd: another one has another */
	uint32_t vm;	     /* id in hvd's registry */
	uint32_t uffd_device;
	uint32_t channel;
	uint32_t reserved;
};

struct wire_refuse {
	int32_t rc; /* negative errno */
	char text[WIRE_TEXT_MAX];
};

struct wire_have { /* array; a message with no entry ends the list */
	uint32_t frame;
	uint32_t refs;
};

/*
 * hash HASH_NONE: the page left; was HASH_NONE: not offered before. hvd forgets
 * (page, was) and looks up hash.
 */
struct wire_offer { /* array */
	uint64_t page;
	uint64_t hash;
	uint64_t was;
};

struct wire_want { /* array, of WANT and of DECLINE */
	uint64_t page;
	uint64_t hash;
	uint32_t frame;
	uint32_t reserved;
};

/* count entries, then count pages of 4096 bytes. */
struct wire_publish {
	uint32_t count; /* 1 to WIRE_PUBLISH_MAX */
	uint32_t reserved;
	struct wire_want entry[];
};
#define WIRE_PUBLISH_MAX                                                       \
	((WIRE_MAX - sizeof(struct wire_head) - sizeof(struct wire_publish)) / \
	 (PAGE_BYTES + sizeof(struct wire_want)))

struct wire_grant { /* array, in the order of pages where that is possible */
	uint64_t page;
	uint32_t frame;
	uint32_t reserved;
};

struct wire_release { /* array */
	uint32_t frame;
};

struct wire_stats {
	struct mm_stats mm;
	struct tmem_stats tmem;	      /* the whole store: guest RAM and guest */
	struct guest_stats guest;     /* the guest's client alone; 0: none */
	uint8_t pool[TMEM_POOLS_MAX]; /* its enum tmem_pool_kind */
};

enum wire_target_flags {
	WIRE_MAY_SHARE = 1,    /* look for equal pages */
	WIRE_MAY_COMPRESS = 2, /* take cold pages to the store */
	WIRE_MAY_SWAP = 4,     /* and further to the swap file */
	WIRE_BREAK_HUGE = 8,   /* cold huge pages may be broken up */
	WIRE_WANT_OFFERS = 16, /* a guest may offer its balloon memory */
};

struct wire_target {
	uint64_t resident_bytes; /* meet this: private + store bytes */
	uint64_t store_bytes;	 /* cap of the compressed store; 0: none */
	uint64_t lent_bytes; /* most of the guest's ephemeral pages, at once */
	uint32_t flags;	     /* enum wire_target_flags */
	uint32_t refault_permille_min; /* of the working set, allowed */
	uint32_t scan_ms;  /* rest between two passes of the scanner */
	uint32_t pressure; /* enum pressure_state, for display */
};

/* Those from FREEZE on are about the guest's client of the store. */
enum wire_command_op {
	WIRE_CMD_CHECK = 1, /* verify every structure and checksum */
	WIRE_CMD_FLUSH,	    /* arg: ephemeral bytes to drop */
	WIRE_CMD_UNSHARE,   /* give every shared page a copy of its own */
	WIRE_CMD_TMEM_SET,  /* weight, cap, reserve, compress */
	WIRE_CMD_UNMANAGE,  /* restore everything, then let go */
	WIRE_CMD_FREEZE,    /* on: refuse new keys; off: take them again */
	WIRE_CMD_DESTROY,   /* pool, or all of them */
	WIRE_CMD_SAVE,	    /* to the descriptor that comes along */
	WIRE_CMD_RESTORE,   /* from the descriptor that comes along */
};

#define WIRE_POOL_ALL (-1)

/* Does a descriptor come with it? */
static inline bool wire_command_has_fd(uint32_t op)
{
	return op == WIRE_CMD_SAVE || op == WIRE_CMD_RESTORE;
}

struct wire_command {
	uint64_t id;
	uint32_t op;
	uint32_t weight;
	uint64_t arg; /* bytes */
	uint64_t cap_bytes;
	uint64_t reserve_bytes;
	uint32_t compress;
	uint32_t on;  /* FREEZE: 1, 0; DESTROY: 1 by force */
	int32_t pool; /* DESTROY: its id, or WIRE_POOL_ALL */
	uint32_t reserved;
};

struct wire_result {
	uint64_t id;
	int64_t value; /* bytes flushed; pages destroyed, saved, restored */
	int32_t rc;    /* 0 or negative errno */
	uint32_t reserved;
	char text[WIRE_TEXT_MAX];
};

/*
 * Is this packet of n bytes a well-formed message of a type that `from` may
 * send? Checks version, length, element size, counts, flags, strings (ended,
 * of the allowed characters), ranges of pages and hashes. Returns 0, -EPROTO
 * (malformed) or -EPROTONOSUPPORT (another version).
 */
enum wire_side { WIRE_AGENT, WIRE_HVD };
MUST_CHECK int wire_check(enum wire_side from, const void *msg, size_t n);

/* "OFFER" and the like, of a checked message. */
const char *wire_type_name(uint16_t type);

/* Elements in the body of a checked array message. */
size_t wire_count(const struct wire_head *head, size_t element_bytes);

#endif
