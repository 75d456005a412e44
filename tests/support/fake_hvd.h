/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A stand-in for hvd's control socket: a thread that answers each line with
 * what the test told it to, and remembers what it was asked.
 */
#ifndef TESTS_SUPPORT_FAKE_HVD_H
#define TESTS_SUPPORT_FAKE_HVD_H

#include "hv/base/types.h"

struct fake_hvd;

/* In a folder of its own under /tmp. Aborts where it cannot be set up. */
struct fake_hvd *fake_hvd_start(void);
void fake_hvd_stop(struct fake_hvd *fake);

const char *fake_hvd_dir(const struct fake_hvd *fake);
const char *fake_hvd_socket(const struct fake_hvd *fake);

/*
 * The reply to `method` from now on: JSON, as "result" ({...}), or, where it
 * begins with '!', the whole line as it is, without its '!'. In it %ID% stands
 * for the request's id. A reply of "!" closes the connection, "!!" says
 * nothing.
 */
void fake_hvd_reply(struct fake_hvd *fake, const char *method,
		    const char *reply);

/* Closes all connections, as a restart of hvd would. */
void fake_hvd_restart(struct fake_hvd *fake);

/*
 * Fails the running check unless these were the params of the last request:
 * JSON with sorted keys.
 */
void fake_hvd_heard(struct fake_hvd *fake, const char *params);
unsigned fake_hvd_requests(struct fake_hvd *fake);

#endif
