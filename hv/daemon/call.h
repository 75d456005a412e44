/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One call of a method, and what all methods do with it: read parameters,
 * refuse with a reason, ask agents and wait for their answers.
 */
#ifndef HV_DAEMON_CALL_H
#define HV_DAEMON_CALL_H

#include "hv/daemon/command.h"
#include "hv/daemon/control.h"

#include <jansson.h>

#define METHOD_LATER	1 /* the answer comes through a command_set */
#define METHOD_TEXT_MAX 512

struct call;
typedef int call_finish_fn(struct call *call,
			   const struct command_answer *answers, size_t n);

/* One request and its answer to be. */
struct call {
	struct hvd *hvd;
	struct command_list *commands;
	enum control_right right;
	const char *by;		    /* who, for the log */
	json_t *params;		    /* an object */
	int fd;			    /* that came along, or -1 */
	json_t *result;		    /* out, if 0 */
	char text[METHOD_TEXT_MAX]; /* out, if -errno */

	/* If METHOD_LATER: what is waited for, and what makes the result. */
	struct command_set *set;
	call_finish_fn *finish;
	uint64_t patience_ns;  /* 0: as long as is usual */
	json_t *pending;       /* kept for finish */
	command_done_fn *done; /* in: called when the set is complete */
	void *done_arg;
};

void call_fini(struct call *call);

/* Returns rc. */
int PRINTF(3, 4) call_refuse(struct call *call, int rc, const char *fmt, ...);
/* Takes result; NULL: there was no memory for it. */
MUST_CHECK int call_answer(struct call *call, json_t *result);

/*
 * Parameters. 0, or -errno with the text said. maybe: NULL where it is not
 * given. number: a whole one from least to most; -ENOENT, without text, if it
 * is not given.
 */
MUST_CHECK int call_vm(struct call *call, struct vm **out);
MUST_CHECK int call_vm_maybe(struct call *call, struct vm **out);
MUST_CHECK int call_bool(struct call *call, const char *name, bool *out);
MUST_CHECK int call_number(struct call *call, const char *name, uint64_t least,
			   uint64_t most, uint64_t *out);

/* Can this VM be asked anything? -ENOTCONN. */
MUST_CHECK int call_connected(struct call *call, const struct vm *vm);

/* Room for the answers of so many. Then command_set_add, then call_wait. */
MUST_CHECK int call_ask(struct call *call, size_t most, call_finish_fn *finish);
MUST_CHECK int call_wait(struct call *call);
/* All three, for one VM. */
MUST_CHECK int call_ask_one(struct call *call, struct vm *vm,
			    struct wire_command *command,
			    call_finish_fn *finish);

/* ---- for finish --------------------------------------------------------- */

/* The first that an agent refused, with its words; 0: none did. */
MUST_CHECK int call_refusal(struct call *call, const struct command_answer *a,
			    size_t n);
/* A call_finish_fn whose result is {}. */
MUST_CHECK int call_nothing(struct call *call, const struct command_answer *a,
			    size_t n);

#endif
