/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames mapped over guest pages. mm_share and mm_unshare_all of mm.h are the
 * public half.
 */
#ifndef HV_MM_OVERLAY_H
#define HV_MM_OVERLAY_H

#include "hv/mm/core.h"

/*
 * Gives a SHARED page a copy of its own, inside its overlay's mapping, and
 * notes the reference to release. Chunk locked.
 */
void overlay_break(struct mm *mm, const struct spot *s, struct releases *rel);

#endif
