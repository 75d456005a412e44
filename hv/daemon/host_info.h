/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the daemon asks the kernel about the host and about processes. */
#ifndef HV_DAEMON_HOST_INFO_H
#define HV_DAEMON_HOST_INFO_H

#include "hv/base/types.h"

#include <sys/types.h>

/* MemTotal and MemAvailable. */
MUST_CHECK int host_memory(uint64_t *total_out, uint64_t *available_out);

MUST_CHECK int host_pidfd_open(pid_t pid, int *fd_out);
/* When the process started, in clock ticks since boot. */
MUST_CHECK int host_pid_start(pid_t pid, uint64_t *start_out);
/* Has the peer of this socket, of group primary, the group gid too? */
bool host_peer_in_group(int sock, gid_t primary, gid_t gid);

bool host_fd_is(int fd, dev_t dev, ino_t ino);
/* An open /dev/userfaultfd. */
MUST_CHECK int host_uffd_device_open(int *fd_out);

/* Raises vm.max_map_count to at least wanted; never lowers it. */
MUST_CHECK int host_map_count_raise(uint64_t wanted, uint64_t *was_out);

uint64_t host_cpu_ns(void); /* of this process */
/* 0, or -ENOENT. */
MUST_CHECK int host_group_find(const char *name, gid_t *out);

#endif
