/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What this guest could do without, for the host to take by virtio-balloon.
 */
#ifndef TIDEPOOL_OFFER_H
#define TIDEPOOL_OFFER_H

#include <linux/types.h>

/*
 * Pages, besides those in the balloon already, at most most. To be called every
 * few seconds, by one caller, with the refaults counted since boot, and how
 * many thousandths of the time processes wait for memory now: if any, it is 0.
 */
u64 tm_offer(u64 most, u64 refaults, u32 psi);

#endif
