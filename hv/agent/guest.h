/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest's own pages in this process's store, as hvd sees and bounds them.
 */
#ifndef HV_AGENT_GUEST_H
#define HV_AGENT_GUEST_H

#include "hv/base/types.h"
#include "sharing/guest.h"
#include "tmem/tmem.h"

/* Its client in the store; NULL: it has no line. [any] */
struct tmem_client *guest_client(void);

/* Bounds its ephemeral bytes; at once, and again only if they differ. [any] */
void guest_lend(uint64_t bytes);

/*
 * The most memory the guest's driver may offer to its balloon; 0: the host
 * wants none, and the driver need not reckon. [any]
 */
void guest_balloon(uint64_t pages);

/* All zero without a line. pool_out: enum tmem_pool_kind of each id. [any] */
void guest_stats(struct guest_stats *out, uint8_t pool_out[TMEM_POOLS_MAX]);

#endif
