/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control socket: docs/control.md. */
#ifndef HV_DAEMON_CONTROL_H
#define HV_DAEMON_CONTROL_H

#include "hv/daemon/hvd.h"

struct control;
struct vm;

/* Who asks. */
enum control_right {
	CONTROL_NOTHING,
	CONTROL_LOOK,
	CONTROL_CHANGE,
};

/* Listens on RUN_DIR/control.sock. */
MUST_CHECK int control_create(struct hvd *hvd, struct control **out);
void control_destroy(struct control *control);
/* Once a second: commands that took too long. */
void control_tick(struct control *control);

/* An agent's answer to a COMMAND. -EPROTO: nothing was asked. */
MUST_CHECK int control_result(struct vm *vm, const struct wire_result *result);
/* The answer to what a call asked somebody else than an agent. */
void control_answer(struct hvd *hvd, uint64_t id, int rc, int64_t value);
/* It will answer no more. */
void control_vm_gone(struct hvd *hvd, struct vm *vm);

#endif
