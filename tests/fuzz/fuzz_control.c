/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A line of the control socket, from text to answer: parsed, dispatched to the
 * method, run against an hvd without VMs (what needs agents ends at once).
 *
 * fuzz-max-len: 1024
 */
#include "hv/base/log.h"
#include "hv/daemon/hvd.h"
#include "hv/daemon/method.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing_done(void *arg, const struct command_answer *answers,
			 size_t n)
{
	struct call *call = arg;
	int rc = call->finish(call, answers, n);

	if (!rc != !!call->result)
		abort();
}

static void line_run(struct hvd *hvd, json_t *request, const char *method,
		     json_t *params, enum control_right right)
{
	struct command_list commands = TAILQ_HEAD_INITIALIZER(commands);
	struct call call = {.hvd = hvd,
			    .fd = -1,
			    .commands = &commands,
			    .right = right,
			    .by = "fuzz",
			    .params = params ? json_incref(params)
					     : json_object(),
			    .done = nothing_done};
	char *text;
	int rc;

	call.done_arg = &call;
	rc = method_call(&call, method);
	if (rc == METHOD_LATER)
		command_set_begin(&commands, call.set, 0);
	else if (rc < 0 ? call.result || !call.text[0] : !call.result)
		abort();
	text = call.result ? json_dumps(call.result, JSON_COMPACT) : NULL;
	if (call.result && !text)
		abort();
	free(text);
	call_fini(&call);
	json_decref(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct hvd *hvd;
	struct config config;
	const char *method;
	json_t *request, *params;

	if (!hvd) {
		log_init("fuzz", LOGL_ERROR);
		config_default(&config);
		if (hvd_create(&config, &hvd))
			abort();
	}
	if (!size || method_parse((const char *)data + 1, size - 1, &request,
				  &method, &params))
		return 0;
	line_run(hvd, request, method, params, data[0] % 3);
	return 0;
}
