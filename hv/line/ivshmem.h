/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device that shows a line's memory to a guest: QEMU's ivshmem-doorbell,
 * which asks a server for the memory and for eventfds. See ivshmem.c.
 */
#ifndef HV_LINE_IVSHMEM_H
#define HV_LINE_IVSHMEM_H

#include "hv/line/line.h"

/* Numbers of the only two peers there are. */
enum ivshmem_peer { IVSHMEM_GUEST = 0, IVSHMEM_HOST = 1 };

struct ivshmem;

MUST_CHECK int ivshmem_create(unsigned vectors, struct ivshmem **out);
void ivshmem_destroy(struct ivshmem *dev);

/* A line_kick_fn; arg is the device. Interrupts nobody while there is none. */
void ivshmem_kick(void *arg, unsigned vector);

/*
 * Says all that a server has to say on a fresh connection, which stays the
 * caller's, to be kept open for as long as the device may run. Does not wait:
 * -EAGAIN if it does not fit into the socket, or what the kernel says.
 */
MUST_CHECK int ivshmem_greet(const struct ivshmem *dev, const struct line *line,
			     int fd);

#endif
