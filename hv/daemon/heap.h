/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What hvd's allocator has free goes back to the host. */
#ifndef HV_DAEMON_HEAP_H
#define HV_DAEMON_HEAP_H

/* Once a second. Does nothing where the allocator is not jemalloc. */
void heap_tick(void);
/* A burst is over: what it needed goes back now. */
void heap_purge(void);

#endif
