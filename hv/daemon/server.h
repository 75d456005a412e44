/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listening sockets in the run directory. */
#ifndef HV_DAEMON_SERVER_H
#define HV_DAEMON_SERVER_H

#include "hv/daemon/hvd.h"

/*
 * Listens on path, removing what an earlier hvd left there (the caller holds
 * the run directory's lock). type: SOCK_SEQPACKET or SOCK_STREAM. group: may
 * be empty; given the socket if it exists.
 */
MUST_CHECK int server_listen(const char *path, int type, mode_t mode,
			     const char *group, int *fd_out);
/* Creates it if need be and takes its lock. -EBUSY: another hvd has it. */
MUST_CHECK int server_run_dir(const char *path, int *lock_fd_out);

#endif
