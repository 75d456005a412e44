/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The channel: how a guest's requests for shared pools go from its VMM's
 * process to hvd, whose store they are in, and the VMM's end of it. It is one
 * SOCK_SEQPACKET socket a VM, made by hvd and given to the agent with WELCOME.
 *
 *   request   struct line_entry                 + 4096 bytes with a put
 *   reply     struct channel_reply              + 4096 bytes of a get's page
 *
 * A request is a guest's entry with three fields of other meaning: cookie is
 * its sequence number, pool is the channel's own number of the pool, 0 to
 * CHANNEL_POOLS_MAX - 1, and for LINE_OP_POOL_CREATE, whose pool is
 * LINE_POOL_SHARED, index says which number it is to have. All are done in
 * order, and each but a put has one reply.
 *
 * The guest knows the pools as CHANNEL_POOL_FIRST and up. Functions marked
 * [any] may be called by any thread.
 */
#ifndef HV_LINE_CHANNEL_H
#define HV_LINE_CHANNEL_H

#include "guest-drivers/abi/tmem_line.h"
#include "hv/base/types.h"
#include "tmem/tmem.h"

#define CHANNEL_POOLS_MAX  4
#define CHANNEL_POOL_FIRST TMEM_POOLS_MAX
#define CHANNEL_RANGE_MAX  1024u /* pages of one LINE_OP_FLUSH_RANGE */
#define CHANNEL_BYTES_MAX  (sizeof(struct line_entry) + LINE_PAGE_BYTES)

struct channel_reply {
	uint64_t sequence;
	int32_t result; /* as of struct line_entry */
	uint32_t reserved;
};

/*
 * Are these n bytes a well-formed request? Length, operation, numbers of pools,
 * ranges. 0 or -EPROTO. For who receives it, on a copy of its own.
 */
MUST_CHECK int channel_check(const void *msg, size_t n);

struct channel;

MUST_CHECK int channel_create(struct channel **out);
void channel_destroy(struct channel *ch);

/*
 * A new connection takes the place of the one before; takes fd. era: of whom it
 * leads to. Pools of the same era are gone, since requests for them may have
 * been lost with the old connection; those of an earlier one died with it, and
 * are joined anew when they are next used. May wait as long as a request does.
 * [any]
 */
void channel_attach(struct channel *ch, int fd, uint64_t era);

/* Is this a request for a shared pool? */
bool channel_wants(const struct line_entry *entry);

/*
 * Does it: 0, the new pool's id, or -errno as tmem.h has it. entry and slot as
 * of request_do. A put is on its way when this returns 0, and may yet be
 * refused; all others are done. Without a connection a pool is not to be had
 * (-EACCES), gets miss, puts are refused (-ENOMEM), and there is nothing to
 * flush. Waits for the answer, but not for ever: see channel.c. [any]
 */
MUST_CHECK int channel_do(struct channel *ch, const struct line_entry *entry,
			  uint8_t *slot);

/* There was a connection, and it ended: another would be of use. [any] */
bool channel_is_broken(const struct channel *ch);

/* The guest is gone: so are its pools. [any] */
void channel_leave(struct channel *ch);

/* In the child of a fork: the connection is the parent's alone. */
void channel_child_drop(struct channel *ch);

#endif
