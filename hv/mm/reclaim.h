/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reclaim: mm_reclaim and mm_target_set of mm.h are its public half.
 */
#ifndef HV_MM_RECLAIM_H
#define HV_MM_RECLAIM_H

#include "hv/mm/core.h"

void reclaim_init(struct mm *mm);

/* No page of the chunk is HELD any more: ends its trial. Chunk locked. */
void reclaim_trial_clear(struct mm *mm, const struct spot *first);

#endif
