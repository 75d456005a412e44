/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hvd's end of an agent's socket: packets in, checked; packets out, queued. */
#ifndef HV_DAEMON_LINK_H
#define HV_DAEMON_LINK_H

#include "hv/daemon/hvd.h"

/* Takes fd, a connected socket, also on failure. */
MUST_CHECK int link_accept(struct hvd *hvd, int fd);

struct hvd *link_hvd(const struct link *link);
pid_t link_pid(const struct link *link); /* of who connected: SO_PEERCRED */
uid_t link_uid(const struct link *link);

/* Sends WELCOME; from now on messages go to vm. */
MUST_CHECK int link_welcome(struct link *link, struct vm *vm);
/* domain_send_fn; the cookie is a struct vm. */
int link_send_to_vm(void *vm, const struct wire_head *msg);
/*
 * TARGET and COMMAND: few, so not bounded like these. fd goes along, unless it
 * is -1, and stays the caller's. -ENOTCONN, -ENOMEM, -EMFILE.
 */
MUST_CHECK int link_send_control(struct link *link, enum wire_type type,
				 const void *body, size_t bytes, int fd);

/* Its VM wants no more of it: closes without telling the VM. */
void link_disown(struct link *link);
/* Those that wait for a domain try again; those that say nothing are closed. */
void link_waiting_retry(struct hvd *hvd);
void link_close_all(struct hvd *hvd);

#endif
