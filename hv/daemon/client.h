/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Methods about a guest's own pages in the store: its client there. */
#ifndef HV_DAEMON_CLIENT_H
#define HV_DAEMON_CLIENT_H

#include "hv/daemon/call.h"

/* Each is a method of docs/control.md: 0, METHOD_LATER or -errno. */
MUST_CHECK int client_flush(struct call *call);
MUST_CHECK int client_freeze(struct call *call);
MUST_CHECK int client_thaw(struct call *call);
MUST_CHECK int client_destroy(struct call *call);
MUST_CHECK int client_auth(struct call *call);
MUST_CHECK int client_save(struct call *call);
MUST_CHECK int client_restore(struct call *call);

/* 32 hexadecimal digits, with or without the usual dashes. -EINVAL. */
MUST_CHECK int client_uuid_parse(const char *text, uint8_t uuid_out[16]);

#endif
