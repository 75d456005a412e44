/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands to agents that a caller waits for: one or several at once, done when
 * all have answered, are gone, or took too long.
 */
#ifndef HV_DAEMON_COMMAND_H
#define HV_DAEMON_COMMAND_H

#include "hv/daemon/hvd.h"

struct vm;

struct command_answer {
	char name[WIRE_NAME_MAX]; /* of the VM */
	uint32_t vm;		  /* 0: none is asked itself */
	uint64_t id;		  /* 0: answered */
	int rc;
	int64_t value;
	char text[WIRE_TEXT_MAX];
};

struct command_set;
/* All there; the set is freed after it. */
typedef void command_done_fn(void *arg, const struct command_answer *answers,
			     size_t n);

TAILQ_HEAD(command_list, command_set);

MUST_CHECK int command_set_create(size_t most, command_done_fn *done, void *arg,
				  struct command_set **out);
/*
 * Sends, with a duplicate of fd unless that is -1; a VM that cannot be asked
 * counts as having answered -ENOTCONN.
 */
void command_set_add(struct command_set *set, struct vm *vm,
		     struct wire_command *command, int fd);
/* Now it may end: at once, if nobody was asked. */
void command_set_begin(struct command_list *list, struct command_set *set,
		       uint64_t deadline_ns);
/*
 * Of somebody who is no agent, but answers for this VM: the id of the answer,
 * which no agent can give.
 */
uint64_t command_set_expect(struct command_set *set, const struct vm *vm);
/* That answer, before the set has begun. */
void command_set_answer(struct command_set *set, uint64_t id, int rc,
			int64_t value);
/* The same later. Ids of sets that are gone are passed over. */
void command_answer(struct command_list *list, uint64_t id, int rc,
		    int64_t value);
/* -EPROTO: nobody asked for it. */
MUST_CHECK int command_answered(struct command_list *list, const struct vm *vm,
				const struct wire_result *result);
void command_vm_gone(struct command_list *list, const struct vm *vm);
void command_expire(struct command_list *list, uint64_t now_ns);
/* Ends all, calling instead of each set's done this one, with its arg. */
void command_clear(struct command_list *list, command_done_fn *instead);

#endif
