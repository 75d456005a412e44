/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An agent answers when it can: a check of a large VM takes a while, a stopped
 * one never answers. So nothing waits: a set of commands counts its open
 * answers and calls back at none.
 *
 *   open = number of answers with id != 0;  done is called when open = 0
 */
#include "hv/daemon/command.h"
#include "hv/daemon/link.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command_set {
	TAILQ_ENTRY(command_set) entry;
	command_done_fn *done;
	void *arg;
	uint64_t deadline_ns;
	size_t n, most, open;
	struct command_answer answer[];
};

int command_set_create(size_t most, command_done_fn *done, void *arg,
		       struct command_set **out)
{
	struct command_set *set;

	set = calloc(1, sizeof(*set) + most * sizeof(set->answer[0]));
	if (!set)
		return -ENOMEM;
	set->done = done;
	set->arg = arg;
	set->most = most;
	*out = set;
	return 0;
}

static void answer_close(struct command_set *set, struct command_answer *a,
			 int rc, const char *text)
{
	a->id = 0;
	a->rc = rc;
	snprintf(a->text, sizeof(a->text), "%s", text);
	set->open--;
}

static struct command_answer *answer_open(struct command_set *set,
					  const struct vm *vm)
{
	struct command_answer *a = &set->answer[set->n++];

	snprintf(a->name, sizeof(a->name), "%s", vm->name);
	a->id = ++vm->hvd->command_last;
	set->open++;
	return a;
}

uint64_t command_set_expect(struct command_set *set, const struct vm *vm)
{
	return set->n == set->most ? 0 : answer_open(set, vm)->id;
}

/* True: it is one of this set's. */
static bool expected(struct command_set *set, uint64_t id, int rc,
		     int64_t value)
{
	struct command_answer *a;

	for (a = set->answer; a < set->answer + set->n; a++) {
		if (!id || a->id != id || a->vm)
			continue;
		a->value = value;
		answer_close(set, a, rc, "");
		return true;
	}
	return false;
}

void command_set_answer(struct command_set *set, uint64_t id, int rc,
			int64_t value)
{
	(void)expected(set, id, rc, value);
}

void command_set_add(struct command_set *set, struct vm *vm,
		     struct wire_command *command, int fd)
{
	struct command_answer *a;

	if (set->n == set->most)
		return;
	a = answer_open(set, vm);
	a->vm = vm->id;
	command->id = a->id;
	if (link_send_control(vm->link, WIRE_COMMAND, command, sizeof(*command),
			      fd))
		answer_close(set, a, -ENOTCONN,
			     "its agent is not connected or does not read");
}

static void set_end_if_done(struct command_list *list, struct command_set *set)
{
	if (set->open)
		return;
	TAILQ_REMOVE(list, set, entry);
	set->done(set->arg, set->answer, set->n);
	free(set);
}

void command_set_begin(struct command_list *list, struct command_set *set,
		       uint64_t deadline_ns)
{
	set->deadline_ns = deadline_ns;
	TAILQ_INSERT_TAIL(list, set, entry);
	set_end_if_done(list, set);
}

int command_answered(struct command_list *list, const struct vm *vm,
		     const struct wire_result *result)
{
	struct command_answer *a;
	struct command_set *set;

	TAILQ_FOREACH (set, list, entry) {
		for (a = set->answer; a < set->answer + set->n; a++) {
			if (!a->id || a->id != result->id || a->vm != vm->id)
				continue;
			a->value = result->value;
			answer_close(set, a, result->rc, result->text);
			set_end_if_done(list, set);
			return 0;
		}
	}
	/* Perhaps one that came too late; an id never given is a lie. */
	return result->id && result->id <= vm->hvd->command_last ? 0 : -EPROTO;
}

void command_answer(struct command_list *list, uint64_t id, int rc,
		    int64_t value)
{
	struct command_set *set;

	TAILQ_FOREACH (set, list, entry) {
		if (!expected(set, id, rc, value))
			continue;
		set_end_if_done(list, set);
		return;
	}
}

/* Closes the open answers of one VM, or of all (NULL). */
static void set_give_up(struct command_set *set, const struct vm *vm, int rc,
			const char *text)
{
	struct command_answer *a;

	for (a = set->answer; a < set->answer + set->n; a++)
		if (a->id && (!vm || a->vm == vm->id))
			answer_close(set, a, rc, text);
}

void command_vm_gone(struct command_list *list, const struct vm *vm)
{
	struct command_set *set, *next;

	for (set = TAILQ_FIRST(list); set; set = next) {
		next = TAILQ_NEXT(set, entry);
		set_give_up(set, vm, -ENOTCONN, "its agent went away");
		set_end_if_done(list, set);
	}
}

void command_expire(struct command_list *list, uint64_t now_ns)
{
	struct command_set *set, *next;

	for (set = TAILQ_FIRST(list); set; set = next) {
		next = TAILQ_NEXT(set, entry);
		if (now_ns < set->deadline_ns)
			continue;
		set_give_up(set, NULL, -ETIMEDOUT, "no answer in time");
		set_end_if_done(list, set);
	}
}

void command_clear(struct command_list *list, command_done_fn *instead)
{
	struct command_set *set;

	while ((set = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, set, entry);
		instead(set->arg, set->answer, set->n);
		free(set);
	}
}
