/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From what is known to what each VM shall do: looks at the host, divides
 * memory, sends TARGETs that changed, and moves balloons.
 */
#ifndef HV_DAEMON_STEER_H
#define HV_DAEMON_STEER_H

#include "hv/daemon/hvd.h"

struct vm;

/* Reads the host's memory and updates the pressure. */
void steer_look(struct hvd *hvd);
/* Divides and sends. */
void steer_apply(struct hvd *hvd);
/* Once a second. */
void steer_balloons(struct hvd *hvd);

/* The memory hvd divides: the budget, or all of the host's. */
uint64_t steer_memory_bytes(const struct hvd *hvd);
/* Kept free for copy-on-write breaks. */
uint64_t steer_cow_reserve_bytes(const struct hvd *hvd);
/* hvd's own tables and all agents', frame pools not included. */
uint64_t steer_metadata_bytes(const struct hvd *hvd);
uint64_t steer_pool_bytes(const struct hvd *hvd);

#endif
