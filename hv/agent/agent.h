/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of the agent in its process: asleep until a guest's RAM is seen,
 * then one worker thread, and off for good in a forked child. The guest's line
 * to the page store does not wait for that, nor end with it. Also the one place
 * that says why a VM is left unmanaged.
 */
#ifndef HV_AGENT_AGENT_H
#define HV_AGENT_AGENT_H

#include "hv/base/types.h"

/* Memory smaller than this is a ROM or a device's, not worth a look. */
#define AGENT_RAM_MIN ((size_t)16 << 20)

/*
 * The first guest RAM was seen: reads the configuration and starts the worker,
 * once. False: the VM is to run as if we were not here. Keeps errno.
 */
bool agent_start(void);

/*
 * The VMM connects fd to path: is it the guest's line to the page store? 0: it
 * is connected; -ENOENT: not ours; else why it cannot be, which was said.
 */
MUST_CHECK int agent_connect(int fd, const char *path);

/* Off: a forked child, or given up. No memory is taken charge of any more. */
void agent_turn_off(void);

/* Makes the worker look now instead of at its next turn. Never blocks. */
void agent_wake(void);

/*
 * Says once why the VM, or a part of it, is unmanaged. The next reasons go to
 * the debug log only, until agent_managed_say ends the matter.
 */
void agent_unmanaged_say(const char *fmt, ...) PRINTF(1, 2);
void agent_managed_say(const char *fmt, ...) PRINTF(1, 2);

/*
 * Set while a thread is inside the agent: a call that the agent's own code (or
 * an allocator below it) makes then goes straight to the real function.
 */
extern __thread bool agent_inside __attribute__((tls_model("initial-exec")));

#endif
