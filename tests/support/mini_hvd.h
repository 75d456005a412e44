/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * As little of hvd as an agent needs to share pages: one socket, one trust
 * domain, no policy. A thread of the test runs it. It lets a test see and do
 * what hvd would not: hang up, fall silent, send anything at all.
 */
#ifndef TESTS_SUPPORT_MINI_HVD_H
#define TESTS_SUPPORT_MINI_HVD_H

#include "hv/base/types.h"
#include "sharing/domain.h"
#include "sharing/wire.h"

struct mini_hvd;

/* Listens at dir/agent.sock. Aborts where it cannot be set up. */
struct mini_hvd *mini_hvd_start(const char *dir);
void mini_hvd_stop(struct mini_hvd *h);

/* Whether WELCOME brings an open /dev/userfaultfd. Default: no. */
void mini_hvd_lend_uffd(struct mini_hvd *h, bool on);

/* Ends all connections, as if hvd were killed and started again. */
void mini_hvd_hang_up(struct mini_hvd *h);

/* Sends n bytes, whatever they are, to every agent. */
void mini_hvd_send_raw(struct mini_hvd *h, const void *msg, size_t n);

/* Sends TARGET: at most so many bytes resident; all else allowed. */
void mini_hvd_target(struct mini_hvd *h, uint64_t resident_bytes);

/* Runs a command on the one agent there is and returns its rc. */
int mini_hvd_command(struct mini_hvd *h, enum wire_command_op op);

void mini_hvd_domain(struct mini_hvd *h, struct domain_stats *out);
/* Of the agent that spoke last. */
void mini_hvd_stats(struct mini_hvd *h, struct mm_stats *out);

/* How often an agent said HELLO, and how many broke the protocol. */
unsigned mini_hvd_hellos(struct mini_hvd *h);
unsigned mini_hvd_liars(struct mini_hvd *h);

#endif
