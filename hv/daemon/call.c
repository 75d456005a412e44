/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See call.h. A refusal is said once, where it is found: whoever passes its rc
 * on leaves the text alone, so the first reason is the one that is told.
 */
#include "hv/daemon/call.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void call_fini(struct call *call)
{
	json_decref(call->params);
	json_decref(call->result);
	json_decref(call->pending);
	if (call->fd >= 0)
		close(call->fd);
}

int call_refuse(struct call *call, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(call->text, sizeof(call->text), fmt, ap);
	va_end(ap);
	return rc;
}

int call_answer(struct call *call, json_t *result)
{
	call->result = result;
	return result ? 0 : call_refuse(call, -ENOMEM, "hvd has no memory");
}

int call_vm(struct call *call, struct vm **out)
{
	const char *name =
		json_string_value(json_object_get(call->params, "vm"));

	if (!name)
		return call_refuse(call, -EINVAL,
				   "vm: the name of a VM is needed");
	*out = vm_find(call->hvd, name);
	if (*out)
		return 0;
	return call_refuse(call, -ENOENT,
			   "no VM named %.63s; `hv list` shows them", name);
}

int call_vm_maybe(struct call *call, struct vm **out)
{
	*out = NULL;
	return json_object_get(call->params, "vm") ? call_vm(call, out) : 0;
}

int call_bool(struct call *call, const char *name, bool *out)
{
	const json_t *value = json_object_get(call->params, name);

	*out = json_is_true(value);
	if (value && !json_is_boolean(value))
		return call_refuse(call, -EINVAL, "%s: true or false", name);
	return 0;
}

int call_number(struct call *call, const char *name, uint64_t least,
		uint64_t most, uint64_t *out)
{
	const json_t *value = json_object_get(call->params, name);

	if (!value)
		return -ENOENT;
	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	    (uint64_t)json_integer_value(value) < least ||
	    (uint64_t)json_integer_value(value) > most)
		return call_refuse(call, -EINVAL,
				   "%s: a whole number from %llu to %llu", name,
				   (unsigned long long)least,
				   (unsigned long long)most);
	*out = (uint64_t)json_integer_value(value);
	return 0;
}

int call_connected(struct call *call, const struct vm *vm)
{
	if (vm_is_managed(vm))
		return 0;
	return call_refuse(call, -ENOTCONN, "VM %s is %s", vm->name,
			   vm_state(vm));
}

/* ---- asking agents ------------------------------------------------------ */

int call_ask(struct call *call, size_t most, call_finish_fn *finish)
{
	if (command_set_create(most, call->done, call->done_arg, &call->set))
		return call_refuse(call, -ENOMEM, "hvd has no memory");
	call->finish = finish;
	return 0;
}

int call_wait(struct call *call)
{
	return call->set ? METHOD_LATER : 0;
}

int call_ask_one(struct call *call, struct vm *vm, struct wire_command *command,
		 call_finish_fn *finish)
{
	int rc = call_ask(call, 1, finish);

	if (rc)
		return rc;
	command_set_add(call->set, vm, command, call->fd);
	return call_wait(call);
}

int call_refusal(struct call *call, const struct command_answer *a, size_t n)
{
	for (; n; n--, a++)
		if (a->rc)
			return call_refuse(
				call, a->rc, "VM %s: %.400s", a->name,
				a->text[0] ? a->text : strerror(-a->rc));
	return 0;
}

int call_nothing(struct call *call, const struct command_answer *a, size_t n)
{
	int rc = call_refusal(call, a, n);

	return rc ? rc : call_answer(call, json_object());
}
