/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long processes of this guest wait for memory: PSI, which the kernel does
 * not tell modules. A process does, package/tmem-pressure.c, by writing
 *
 *	/sys/bus/pci/drivers/tidepool_tmem/psi_some_permille
 *
 * once there is pressure, every few seconds while it lasts, and 0 when it is
 * over. A value that nobody renewed for 30 s is not known any more, so that who
 * died under pressure cannot leave it behind.
 */
#ifndef TIDEPOOL_PSI_H
#define TIDEPOOL_PSI_H

#include <linux/types.h>

struct attribute_group;

/* Of the driver: there while it is registered, and no longer. */
extern const struct attribute_group *tm_psi_groups[];

/* At most 1000; 0: no pressure, or not known. Not in interrupts. */
u32 tm_psi_now(void);

#endif
