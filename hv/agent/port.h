/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port by which the guest's own driver reaches this process's page store:
 * one struct tmem, one line, one ivshmem device. See port.c.
 */
#ifndef HV_AGENT_PORT_H
#define HV_AGENT_PORT_H

#include "hv/agent/config.h"

struct channel;
struct line;
struct tmem;

#define PORT_SUFFIX   ".tmem"
#define PORT_PATH_MAX 108 /* as in struct sockaddr_un */

/*
 * The store of this process, made when first asked for, never destroyed. It is
 * mm's and the line's. -ENOMEM. [any]
 */
MUST_CHECK int port_store(struct tmem **out);

/* The line, or NULL while no device was ever attached. [any] */
struct line *port_line(void);

/*
 * hvd's end of its channel to shared pools; takes fd. See channel_attach. [any]
 */
void port_channel(int fd, uint64_t era);

/* There was such a channel, and it ended. [any] */
bool port_channel_is_broken(void);

/* In the child of a fork. */
void port_child_drop(void);

/* RUN_DIR/NAME.tmem; empty if that is too long for a socket. */
void port_path(const struct config *config, char out[PORT_PATH_MAX]);

/*
 * Connects fd, a stream socket of the VMM's that is not connected, to the
 * line. -EBUSY: another device is; or why it cannot be. [any]
 */
MUST_CHECK int port_connect(const struct config *config, int fd);

#endif
