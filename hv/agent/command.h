/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What hvd may have done to the store, and to the guest's client in it. None of
 * it knows the socket: who asked, and how the answer travels, is the worker's.
 *
 * The compressed tier of guest RAM is another client of the same store. No
 * command here reaches it but FLUSH, which finds nothing ephemeral of it, and
 * TMEM_SET where the VM has no line: its pages are guest memory.
 */
#ifndef HV_AGENT_COMMAND_H
#define HV_AGENT_COMMAND_H

#include "hv/base/types.h"
#include "sharing/wire.h"

struct mm;
struct tmem;
struct tmem_client;

struct command_env {
	struct mm *mm;
	struct tmem *tm;
	struct tmem_client *guest; /* NULL: the VM has no line */
};

/* Takes long enough to want a thread of its own? */
bool command_is_slow(uint32_t op);

/*
 * Runs a checked command; fd is its descriptor, or -1, and stays the caller's.
 * Slow ones may run in any thread, the others in the worker. *value_out is what
 * struct wire_result says; text_out, of WIRE_TEXT_MAX, is empty or a reason
 * better than errno's. -EOPNOTSUPP: no command of this kind; -ENXIO: there is
 * no line.
 */
MUST_CHECK int command_run(const struct command_env *env,
			   const struct wire_command *cmd, int fd,
			   int64_t *value_out, char *text_out);

#endif
