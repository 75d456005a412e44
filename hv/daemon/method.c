/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One row per method: what it is called, which parameters it knows, what right
 * it needs. A parameter that is not in the row is refused: a setting misspelt
 * must not seem to have been set.
 *
 * A method that asks agents returns METHOD_LATER; when the last has answered,
 * finish makes the result. With dry_run everything is checked and computed, and
 * nothing sent or changed.
 */
#include "hv/daemon/method.h"
#include "hv/base/log.h"
#include "hv/daemon/client.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/report.h"
#include "hv/daemon/state.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"
#include "hv/daemon/why.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SHARES_MAX 1000000
#define PARAMS_MAX 9

struct method {
	const char *name;
	int (*call)(struct call *call);
	enum control_right right;
	const char *param[PARAMS_MAX + 1]; /* ended by NULL */
};

/* ---- looking ---------------------------------------------------------- */

static int version_call(struct call *call)
{
	uint64_t up = hvd_now_ns() - call->hvd->start_ns;

	return call_answer(
		call, json_pack("{s:s, s:i, s:i, s:I}", "version", HVD_VERSION,
				"protocol", WIRE_VERSION, "pid", (int)getpid(),
				"uptime_s", (json_int_t)(up / 1000000000)));
}

static int list_call(struct call *call)
{
	json_t *list = json_array();
	const struct vm *vm;

	TAILQ_FOREACH (vm, &call->hvd->vms, entry)
		json_array_append_new(list, report_vm(vm));
	return call_answer(call, json_pack("{s:o}", "vms", list));
}

static int show_call(struct call *call)
{
	struct vm *vm;
	int rc = call_vm(call, &vm);

	return rc ? rc : call_answer(call, report_vm(vm));
}

static int host_call(struct call *call)
{
	return call_answer(call, report_host(call->hvd));
}

static int domains_call(struct call *call)
{
	json_t *list = json_array();
	const struct trust *trust;

	TAILQ_FOREACH (trust, &call->hvd->trusts, entry)
		json_array_append_new(list, report_domain(trust));
	return call_answer(call, json_pack("{s:o}", "domains", list));
}

static int why_call(struct call *call)
{
	struct vm *vm;
	int rc = call_vm(call, &vm);

	return rc ? rc : call_answer(call, why_pack(vm));
}

static int freeable_call(struct call *call)
{
	return call_answer(call, report_freeable(call->hvd));
}

/* ---- asking agents --------------------------------------------------------
 */

/* What an agent said, as JSON; its text may be no UTF-8. */
static json_t *text_pack(const char *text)
{
	char ascii[WIRE_TEXT_MAX];
	json_t *value = json_string(text);
	size_t i;

	if (value)
		return value;
	for (i = 0; text[i] && i < sizeof(ascii) - 1; i++)
		ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	ascii[i] = 0;
	return json_string(ascii);
}

static int check_finish(struct call *call, const struct command_answer *a,
			size_t n)
{
	json_t *list = json_array();
	const char *text;
	bool ok = true;

	for (; n; n--, a++) {
		ok &= !a->rc;
		text = a->text;
		if (!a->vm)
			text = a->rc ? "its domain's shared pools are damaged"
				     : "shared pools of its domain: ok";
		json_array_append_new(list, json_pack("{s:s, s:b, s:o}", "name",
						      a->name, "ok", !a->rc,
						      "text", text_pack(text)));
	}
	return call_answer(call,
			   json_pack("{s:b, s:o}", "ok", ok, "vms", list));
}

/* hvd's own structures first: they are as much what is asked about. */
static int domains_check(struct call *call)
{
	const struct trust *trust;

	TAILQ_FOREACH (trust, &call->hvd->trusts, entry)
		if (trust->domain && !domain_is_sound(trust->domain)) {
			log_error("domain %s: index, frames and references "
				  "disagree",
				  trust->name);
			return call_refuse(
				call, -EUCLEAN,
				"domain %s: index, frames and references "
				"disagree",
				trust->name);
		}
	return 0;
}

/*
 * Common stores: each once, by the first VM that is connected to it, whose
 * answer it is; of one VM, that VM's.
 */
static void stores_check(struct call *call, const struct vm *only)
{
	const struct trust *trust;
	struct vm *vm;

	TAILQ_FOREACH (trust, &call->hvd->trusts, entry) {
		if (!trust->common_stats.tmem.used_bytes)
			continue;
		TAILQ_FOREACH (vm, &call->hvd->vms, entry) {
			struct common_job job = {.op = COMMON_CHECK};

			if (vm->trust != trust || !vm->common ||
			    (only && vm != only))
				continue;
			pools_ask(call->set, vm, &job);
			break;
		}
	}
}

static int check_call(struct call *call)
{
	struct wire_command command = {.op = WIRE_CMD_CHECK};
	struct vm *only, *vm;
	int rc = call_vm_maybe(call, &only);

	if (!rc && only)
		rc = call_connected(call, only);
	if (!rc)
		rc = domains_check(call);
	if (!rc)
		rc = call_ask(call, 2 * vm_count(call->hvd), check_finish);
	if (rc)
		return rc;
	TAILQ_FOREACH (vm, &call->hvd->vms, entry)
		if ((!only || vm == only) && vm_is_managed(vm))
			command_set_add(call->set, vm, &command, -1);
	stores_check(call, only);
	return call_wait(call);
}

static int simple_command(struct call *call, uint32_t op,
			  call_finish_fn *finish)
{
	struct wire_command command = {.op = op};
	struct vm *vm = NULL;
	bool dry;
	int rc = call_bool(call, "dry_run", &dry);

	if (!rc)
		rc = call_vm(call, &vm);
	if (!rc)
		rc = call_connected(call, vm);
	if (rc)
		return rc;
	if (dry)
		return call_answer(call, json_object());
	return call_ask_one(call, vm, &command, finish);
}

static int unshare_call(struct call *call)
{
	return simple_command(call, WIRE_CMD_UNSHARE, call_nothing);
}

static int unmanage_finish(struct call *call, const struct command_answer *a,
			   size_t n)
{
	struct vm *vm = n == 1 ? vm_find_id(call->hvd, a->vm) : NULL;
	int rc = call_nothing(call, a, n);

	if (!rc && vm) {
		vm_let_go(vm);
		log_info("vm %s: unmanaged, by %s", vm->name, call->by);
	}
	return rc;
}

static int unmanage_call(struct call *call)
{
	return simple_command(call, WIRE_CMD_UNMANAGE, unmanage_finish);
}

/* ---- set ------------------------------------------------------------------
 */

struct wish {
	uint64_t reservation, limit, shares, weight, cap, reserve, compress;
};

static struct wish wish_of(const struct vm *vm)
{
	return (struct wish){vm->reservation_bytes,
			     vm->limit_bytes,
			     vm->shares,
			     vm->weight,
			     vm->cap_bytes,
			     vm->reserve_bytes,
			     vm->compress};
}

static const struct {
	const char *name;
	size_t offset;
	uint64_t least, most;
	bool agents; /* the agent has to be told */
} wish_field[] = {
	{"reservation_bytes", offsetof(struct wish, reservation), 0, INT64_MAX,
	 false},
	{"limit_bytes", offsetof(struct wish, limit), 0, INT64_MAX, false},
	{"shares", offsetof(struct wish, shares), 1, SHARES_MAX, false},
	{"weight", offsetof(struct wish, weight), 0, SHARES_MAX, true},
	{"cap_bytes", offsetof(struct wish, cap), 0, INT64_MAX, true},
	{"reserve_bytes", offsetof(struct wish, reserve), 0, INT64_MAX, true},
	{"compress", offsetof(struct wish, compress), 0, 1, true},
};

static uint64_t *wish_at(struct wish *w, size_t i)
{
	return (uint64_t *)((char *)w + wish_field[i].offset);
}

/* compress may be given as true and false too. */
static int wish_param(struct call *call, size_t i, struct wish *w)
{
	const json_t *value = json_object_get(call->params, wish_field[i].name);
	int rc;

	if (json_is_boolean(value) && wish_field[i].most == 1) {
		*wish_at(w, i) = json_is_true(value);
		return 0;
	}
	rc = call_number(call, wish_field[i].name, wish_field[i].least,
			 wish_field[i].most, wish_at(w, i));
	return rc == -ENOENT ? 0 : rc;
}

static json_t *wish_value(struct wish *w, size_t i)
{
	if (wish_field[i].most == 1)
		return json_boolean(*wish_at(w, i));
	return report_integer(*wish_at(w, i));
}

/* agents_out: does any of it concern the agent? */
static json_t *changes_pack(struct wish *old, struct wish *new,
			    bool *agents_out)
{
	json_t *changed = json_object();
	size_t i;

	*agents_out = false;
	for (i = 0; i < ARRAY_LEN(wish_field); i++) {
		if (*wish_at(old, i) == *wish_at(new, i))
			continue;
		*agents_out |= wish_field[i].agents;
		json_object_set_new(changed, wish_field[i].name,
				    json_pack("[o, o]", wish_value(old, i),
					      wish_value(new, i)));
	}
	return json_pack("{s:o}", "changed", changed);
}

static int wish_judge(struct call *call, const struct vm *vm,
		      const struct wish *w)
{
	uint64_t ram = vm->ram_pages << PAGE_SHIFT;

	if (w->limit && w->limit < w->reservation)
		return call_refuse(call, -EINVAL,
				   "the limit would be below the reservation");
	if (ram && w->reservation > ram)
		return call_refuse(
			call, -EINVAL,
			"the reservation would exceed its RAM, %llu bytes",
			(unsigned long long)ram);
	return 0;
}

static void wish_apply(struct vm *vm, const struct wish *w, const char *by)
{
	vm->reservation_bytes = w->reservation;
	vm->limit_bytes = w->limit;
	vm->shares = (uint32_t)w->shares;
	vm->weight = (uint32_t)w->weight;
	vm->cap_bytes = w->cap;
	vm->reserve_bytes = w->reserve;
	vm->compress = w->compress;
	vm->by_hand = true;
	pools_compress(vm);
	log_info("vm %s: settings changed by %s", vm->name, by);
	state_save(vm->hvd);
	hvd_steer_soon(vm->hvd);
}

/*
 * pending: {wish, result} so that nothing points anywhere. In wish is what the
 * agent was told, and what else is changed: of the rest, somebody else may have
 * set some meanwhile.
 */
static int set_finish(struct call *call, const struct command_answer *a,
		      size_t n)
{
	int rc = call_refusal(call, a, n);
	struct vm *vm = n == 1 ? vm_find_id(call->hvd, a->vm) : NULL;
	json_t *item, *list = json_object_get(call->pending, "wish");
	struct wish w;
	size_t i;

	if (!rc && !vm)
		rc = call_refuse(call, -ENOENT, "the VM is gone");
	if (rc)
		return rc;
	w = wish_of(vm);
	json_array_foreach (list, i, item)
		if (!json_is_null(item))
			*wish_at(&w, i) = (uint64_t)json_integer_value(item);
	wish_apply(vm, &w, call->by);
	return call_answer(
		call, json_incref(json_object_get(call->pending, "result")));
}

static json_t *wish_pack(struct wish *old, struct wish *new)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < ARRAY_LEN(wish_field); i++) {
		uint64_t value = *wish_at(new, i);
		bool said = wish_field[i].agents || value != *wish_at(old, i);

		json_array_append_new(list, said ? report_integer(value)
						 : json_null());
	}
	return list;
}

static int set_ask(struct call *call, struct vm *vm, struct wish *w,
		   json_t *result)
{
	struct wish old = wish_of(vm);
	struct wire_command command = {.op = WIRE_CMD_TMEM_SET,
				       .weight = (uint32_t)w->weight,
				       .cap_bytes = w->cap,
				       .reserve_bytes = w->reserve,
				       .compress = (uint32_t)w->compress};
	int rc = call_connected(call, vm);

	call->pending = json_pack("{s:o, s:o}", "wish", wish_pack(&old, w),
				  "result", result);
	if (!rc && !call->pending)
		rc = call_refuse(call, -ENOMEM, "hvd has no memory");
	return rc ? rc : call_ask_one(call, vm, &command, set_finish);
}

static int set_call(struct call *call)
{
	struct wish old, new;
	bool dry, agents;
	json_t *result;
	struct vm *vm = NULL;
	size_t i;
	int rc = call_bool(call, "dry_run", &dry);

	if (!rc)
		rc = call_vm(call, &vm);
	if (rc)
		return rc;
	old = new = wish_of(vm);
	for (i = 0; i < ARRAY_LEN(wish_field) && !rc; i++)
		rc = wish_param(call, i, &new);
	if (!rc)
		rc = wish_judge(call, vm, &new);
	if (rc)
		return rc;
	result = changes_pack(&old, &new, &agents);
	if (agents && !dry)
		return set_ask(call, vm, &new, result);
	if (!dry)
		wish_apply(vm, &new, call->by);
	return call_answer(call, result);
}

/* ---- the host -------------------------------------------------------------
 */

static const char *pressure_word(const struct hvd *hvd)
{
	return hvd->pressure.is_forced
		       ? pressure_name(pressure_now(&hvd->pressure))
		       : "auto";
}

static int pressure_call(struct call *call)
{
	const char *word =
		json_string_value(json_object_get(call->params, "state"));
	struct pressure *p = &call->hvd->pressure;
	const char *was = pressure_word(call->hvd);
	enum pressure_state state = PRESSURE_HIGH;
	bool dry, release;
	int rc = call_bool(call, "dry_run", &dry);

	if (rc)
		return rc;
	release = word && !strcmp(word, "auto");
	if (!word || (!release && pressure_parse(word, &state)))
		return call_refuse(
			call, -EINVAL,
			"state: auto, high, clear, soft, hard or low");
	if (!dry && (release ? pressure_release(p, call->by)
			     : pressure_force(p, state, call->by)))
		hvd_steer_soon(call->hvd);
	return call_answer(call,
			   json_pack("{s:s, s:s}", "was", was, "now",
				     release ? "auto" : pressure_name(state)));
}

static int budget_call(struct call *call)
{
	uint64_t *budget = &call->hvd->config.budget_bytes;
	uint64_t was = *budget, now = 0;
	bool dry;
	int rc = call_bool(call, "dry_run", &dry);

	if (!rc)
		rc = call_number(call, "bytes", 0, INT64_MAX, &now);
	if (rc == -ENOENT && !call->text[0])
		rc = call_refuse(
			call, -EINVAL,
			"bytes: how much is needed (0: the whole host)");
	if (rc)
		return rc;
	if (!dry) {
		*budget = now;
		log_info("budget: %llu -> %llu bytes, by %s",
			 (unsigned long long)was, (unsigned long long)now,
			 call->by);
		hvd_steer_soon(call->hvd);
	}
	return call_answer(call,
			   json_pack("{s:I, s:I}", "was_bytes", (json_int_t)was,
				     "now_bytes", (json_int_t)now));
}

/* ---- the table ------------------------------------------------------------
 */

static const struct method methods[] = {
	{"version", version_call, CONTROL_LOOK, {NULL}},
	{"list", list_call, CONTROL_LOOK, {NULL}},
	{"show", show_call, CONTROL_LOOK, {"vm"}},
	{"host", host_call, CONTROL_LOOK, {NULL}},
	{"domains", domains_call, CONTROL_LOOK, {NULL}},
	{"why", why_call, CONTROL_LOOK, {"vm"}},
	{"freeable", freeable_call, CONTROL_LOOK, {NULL}},
	{"check", check_call, CONTROL_LOOK, {"vm"}},
	{"set",
	 set_call,
	 CONTROL_CHANGE,
	 {"vm", "reservation_bytes", "limit_bytes", "shares", "weight",
	  "cap_bytes", "reserve_bytes", "compress", "dry_run"}},
	{"flush", client_flush, CONTROL_CHANGE, {"bytes", "vm", "dry_run"}},
	{"freeze", client_freeze, CONTROL_CHANGE, {"vm", "dry_run"}},
	{"thaw", client_thaw, CONTROL_CHANGE, {"vm", "dry_run"}},
	{"destroy",
	 client_destroy,
	 CONTROL_CHANGE,
	 {"vm", "pool", "force", "dry_run"}},
	{"auth", client_auth, CONTROL_CHANGE, {"uuid", "vm", "on", "dry_run"}},
	{"save", client_save, CONTROL_CHANGE, {"vm", "dry_run"}},
	{"restore", client_restore, CONTROL_CHANGE, {"vm", "dry_run"}},
	{"unshare", unshare_call, CONTROL_CHANGE, {"vm", "dry_run"}},
	{"unmanage", unmanage_call, CONTROL_CHANGE, {"vm", "dry_run"}},
	{"pressure", pressure_call, CONTROL_CHANGE, {"state", "dry_run"}},
	{"budget", budget_call, CONTROL_CHANGE, {"bytes", "dry_run"}},
};

static const struct method *method_find(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(methods); i++)
		if (!strcmp(methods[i].name, name))
			return &methods[i];
	return NULL;
}

bool method_takes_file(const char *name)
{
	const struct method *m = method_find(name);

	return m && (m->call == client_save || m->call == client_restore);
}

static bool param_known(const struct method *m, const char *name)
{
	const char *const *p;

	for (p = m->param; *p; p++)
		if (!strcmp(*p, name))
			return true;
	return false;
}

static int params_check(struct call *call, const struct method *m)
{
	const char *name;
	json_t *value;

	json_object_foreach (call->params, name, value) {
		if (!param_known(m, name))
			return call_refuse(call, -EINVAL,
					   "%s has no parameter %.60s", m->name,
					   name);
	}
	return 0;
}

int method_call(struct call *call, const char *name)
{
	const struct method *m = method_find(name);
	int rc;

	if (!m)
		return call_refuse(call, -ENOSYS, "no method %.60s", name);
	if (call->right < m->right)
		return call_refuse(
			call, -EACCES,
			call->right == CONTROL_NOTHING
				? "only root, hvd's user and members of "
				  "its group may ask"
				: "only root and hvd's own user may "
				  "change anything");
	rc = params_check(call, m);
	return rc ? rc : m->call(call);
}

int method_parse(const char *line, size_t n, json_t **request_out,
		 const char **method_out, json_t **params_out)
{
	json_t *request, *params;
	const char *method;

	request = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
	method = json_string_value(json_object_get(request, "method"));
	params = json_object_get(request, "params");
	if (!method || (params && !json_is_object(params))) {
		json_decref(request);
		return -EPROTO;
	}
	*request_out = request;
	*method_out = method;
	*params_out = params;
	return 0;
}
