/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The methods of the control socket, apart from any socket. */
#ifndef HV_DAEMON_METHOD_H
#define HV_DAEMON_METHOD_H

#include "hv/daemon/call.h"

/* 0, METHOD_LATER or -errno. Unknown methods and parameters are refused. */
MUST_CHECK int method_call(struct call *call, const char *method);

/* Does it want the descriptor that came along? */
bool method_takes_file(const char *method);

/*
 * A line of n bytes: {"id":, "method":, "params":}. On 0 the caller owns
 * *request_out, and *method_out and *params_out (maybe NULL) point into it.
 */
MUST_CHECK int method_parse(const char *line, size_t n, json_t **request_out,
			    const char **method_out, json_t **params_out);

#endif
