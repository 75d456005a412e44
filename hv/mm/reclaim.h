/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reclaim: mm_reclaim and mm_target_set of mm.h are its public half.
 */
#ifndef HV_MM_RECLAIM_H
#define HV_MM_RECLAIM_H

#include "hv/mm/core.h"

void reclaim_init(struct mm *mm);

/* Frees the chunk's held slot, if it has one: no page is HELD in it any more.
 * Chunk locked. */
void reclaim_slot_put(struct mm *mm, const struct spot *first);

#endif
