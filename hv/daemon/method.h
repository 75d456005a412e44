/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The methods of the control socket, apart from any socket. */
#ifndef HV_DAEMON_METHOD_H
#define HV_DAEMON_METHOD_H

#include "hv/daemon/command.h"
#include "hv/daemon/control.h"

#include <jansson.h>

#define METHOD_LATER	1 /* the answer comes through a command_set */
#define METHOD_TEXT_MAX 512

/* One request and its answer to be. */
struct call {
	struct hvd *hvd;
	struct command_list *commands;
	enum control_right right;
	const char *by;		    /* who, for the log */
	json_t *params;		    /* an object */
	json_t *result;		    /* out, if 0 */
	char text[METHOD_TEXT_MAX]; /* out, if -errno */

	/* If METHOD_LATER: what is waited for, and what makes the result. */
	struct command_set *set;
	int (*finish)(struct call *call, const struct command_answer *answers,
		      size_t n);
	json_t *pending;       /* kept for finish */
	command_done_fn *done; /* in: called when the set is complete */
	void *done_arg;
};

/* 0, METHOD_LATER or -errno. Unknown methods and parameters are refused. */
MUST_CHECK int method_call(struct call *call, const char *method);
void call_fini(struct call *call);

/*
 * A line of n bytes: {"id":, "method":, "params":}. On 0 the caller owns
 * *request_out, and *method_out and *params_out (maybe NULL) point into it.
 */
MUST_CHECK int method_parse(const char *line, size_t n, json_t **request_out,
			    const char **method_out, json_t **params_out);

#endif
