/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tmemswap0: a block device whose pages lie in the host's store, made for
 * swap; see swap.c.
 */
#ifndef TIDEPOOL_SWAP_H
#define TIDEPOOL_SWAP_H

#include <linux/types.h>

int tm_swap_init(void);
void tm_swap_exit(void);

/* Is it swapped on, or open otherwise? Its pages do not survive hibernation. */
bool tm_swap_busy(void);

#endif
