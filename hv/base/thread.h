/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads of ours in a process that is not: a VMM steers its own by signals,
 * none of which may land on these, and pays for every stack.
 */
#ifndef HV_BASE_THREAD_H
#define HV_BASE_THREAD_H

#include "hv/base/types.h"

#include <pthread.h>

/*
 * Starts run(arg) with every signal blocked and a stack of 256 KiB. id_out
 * NULL: detached, else the caller joins it. 0 or -errno.
 */
MUST_CHECK int thread_start(pthread_t *id_out, void *(*run)(void *), void *arg);

#endif
