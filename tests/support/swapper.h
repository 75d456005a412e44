/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM in one process: memory announced as a VMM announces guest RAM, a device
 * that reaches the agent as QEMU's does, and behind it the guest, which puts
 * and gets pages when it is told to. The agent is the real one, preloaded; so
 * what tests ask of hvd goes all the way to the store and back.
 *
 * The guest knows nothing but the ABI header, and polls: it is what a driver
 * would look like that was written from that header alone.
 */
#ifndef TESTS_SUPPORT_SWAPPER_H
#define TESTS_SUPPORT_SWAPPER_H

#include "guest-drivers/abi/tmem_line.h"
#include "hv/base/types.h"

#include <sys/types.h>

#define SWAPPER_RAM_BYTES ((size_t)48 << 20)

struct swapper {
	pid_t pid;
	int in, out;
};

/* What it can be told besides the operations of enum line_op. */
enum swapper_order {
	SWAPPER_BEGIN = 100, /* a new epoch */
	SWAPPER_END,	     /* epoch 0 */
	SWAPPER_STATS,	     /* says that it waited for seed ns */
	SWAPPER_WISH,	     /* how many pages the host lets it offer */
};

/* The child's main, after exec with the agent preloaded; never returns. */
_Noreturn void swapper_main(void);

/*
 * Runs this program with the one argument "--swapper" and the agent preloaded
 * (preload_find came before). tmem: the most its guest may hold, as in the
 * agent's configuration. Fails the running check by itself, as all of these do.
 */
void swapper_start(struct swapper *s, const char *run_dir, const char *name,
		   const char *tmem);
void swapper_stop(struct swapper *s); /* kill -9 */

/*
 * One request or order; returns its result. A page put or got is the one of
 * this seed; got another: -EBADMSG. Of POOL_CREATE, index is the flags and
 * seed the first byte of the uuid.
 */
int swapper_do(struct swapper *s, int op, int pool, uint32_t index,
	       uint64_t seed);

/* The page of a seed: nothing that compresses or is equal to another's. */
void swapper_page(uint64_t seed, void *page_out);

/* Puts pages [first, +n), the seed of each its index + base. */
void swapper_put_many(struct swapper *s, int pool, uint32_t first, uint32_t n,
		      uint64_t base);

#endif
