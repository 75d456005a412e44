/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who gets how much memory: a pure function of what the VMs may, want and do.
 */
#ifndef HV_DAEMON_ARBITER_H
#define HV_DAEMON_ARBITER_H

#include "hv/base/types.h"

struct arbiter_vm {
	uint64_t reservation_bytes; /* never below this (or its demand) */
	uint64_t limit_bytes;	    /* never above this; 0: none */
	uint64_t demand_bytes;	    /* what it would use if it could */
	uint64_t idle_bytes;	    /* of what it uses: cold */
	uint64_t used_bytes;	    /* resident now */
	uint32_t shares;	    /* weight; 0 counts as 1 */
	uint64_t target_bytes;	    /* out */
};

/*
 * Fills in every target. tax_percent (0 to 99): how much dearer an idle page is
 * than a page in use. Returns 0, or -ENOSPC where the reservations alone are
 * more than the budget: targets are the reservations then.
 */
int arbiter_divide(struct arbiter_vm *vms, size_t n, uint64_t budget_bytes,
		   uint32_t tax_percent);

#endif
