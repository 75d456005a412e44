/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See client.h. The pages are in the VM's own process, and those of shared
 * pools in hvd's common store; hvd asks the agent, the store's thread, or both,
 * and answers when they do. Saving and destroying take as long as they take:
 * such a call has hours, others keep coming through meanwhile.
 *
 * The file of save and restore is opened by whoever calls, with that user's
 * rights, and only its descriptor travels: through hvd, which neither reads nor
 * writes it, to the agent, which gets this one file and no name.
 */
#include "hv/daemon/client.h"
#include "hv/base/log.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/state.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <string.h>

#define LONG_NS	   (UINT64_C(6) * 3600 * 1000000000)
#define DASHES_MAX 4

/* ---- flush -------------------------------------------------------------- */

static int flush_finish(struct call *call, const struct command_answer *a,
			size_t n)
{
	int rc = call_refusal(call, a, n);
	json_int_t sum = 0;

	for (; n; n--, a++)
		if (a->value > 0 && a->value < INT64_MAX - sum)
			sum += a->value;
	return rc ? rc
		  : call_answer(call, json_pack("{s:I}", "flushed_bytes", sum));
}

static double over_weight(const struct vm *vm)
{
	return (double)vm_lent_bytes(vm) / (vm->weight + 1.0);
}

/* Who has most for its weight, of those behind `last`. NULL: nobody has any. */
static struct vm *furthest_over(struct hvd *hvd, const struct vm *last)
{
	struct vm *vm, *best = NULL;
	double over, most = 0, below = last ? over_weight(last) : 1e300;
	bool equal_too = false;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		over = over_weight(vm);
		if (vm_is_managed(vm) && over > most &&
		    (over < below || (equal_too && over == below))) {
			most = over;
			best = vm;
		}
		equal_too |= vm == last;
	}
	return best;
}

/* What it has in shared pools goes first, as under pressure. */
static uint64_t flush_one(struct call *call, struct vm *vm, uint64_t bytes,
			  bool dry)
{
	uint64_t all = min_u64(bytes, vm_lent_bytes(vm));
	struct wire_command command = {.op = WIRE_CMD_FLUSH};
	struct common_job job = {.op = COMMON_FLUSH};

	job.bytes = min_u64(all, vm->common_stats.bytes);
	command.arg = all - job.bytes;
	if (job.bytes && !dry)
		pools_ask(call->set, vm, &job);
	if ((command.arg || !job.bytes) && !dry)
		command_set_add(call->set, vm, &command, -1);
	return all;
}

/* Returns what is to be flushed. */
static uint64_t flush_all(struct call *call, struct vm *only, uint64_t bytes,
			  bool dry)
{
	uint64_t left = bytes;
	struct vm *vm = NULL;

	if (only)
		return flush_one(call, only, bytes, dry);
	while (left && (vm = furthest_over(call->hvd, vm)))
		left -= flush_one(call, vm, left, dry);
	return bytes - left;
}

int client_flush(struct call *call)
{
	struct vm *only = NULL;
	uint64_t bytes = 0;
	bool dry;
	int rc = call_bool(call, "dry_run", &dry);

	if (!rc)
		rc = call_vm_maybe(call, &only);
	if (!rc && only)
		rc = call_connected(call, only);
	if (!rc)
		rc = call_number(call, "bytes", 0, INT64_MAX, &bytes);
	if (rc == -ENOENT && !call->text[0])
		rc = call_refuse(call, -EINVAL, "bytes: how much is needed");
	if (!rc && !dry)
		rc = call_ask(call, 2 * vm_count(call->hvd), flush_finish);
	if (rc)
		return rc;
	bytes = flush_all(call, only, bytes, dry);
	return dry ? call_answer(call, json_pack("{s:I}", "flushed_bytes",
						 (json_int_t)bytes))
		   : call_wait(call);
}

/* ---- the others --------------------------------------------------------- */

/* The client this call is about; it has to be one that can be asked. */
static int client_param(struct call *call, struct vm **out, bool *dry_out)
{
	int rc = call_bool(call, "dry_run", dry_out);

	if (!rc)
		rc = call_vm(call, out);
	if (!rc)
		rc = call_connected(call, *out);
	if (rc || !(*out)->have_stats || (*out)->stats.guest.lines)
		return rc;
	return call_refuse(call, -ENXIO,
			   "VM %s has no tmem device: all its pages here are "
			   "its own RAM, compressed; `hv qemu --tmem` starts a "
			   "VM with one",
			   (*out)->name);
}

static int freeze(struct call *call, const char *what, uint32_t on)
{
	struct wire_command command = {.op = WIRE_CMD_FREEZE, .on = on};
	struct common_job job = {.op = COMMON_FREEZE, .on = on};
	struct vm *vm = NULL;
	bool dry;
	int rc = client_param(call, &vm, &dry);

	if (rc)
		return rc;
	if (dry)
		return call_answer(call, json_object());
	log_info("vm %s: %s, by %s", vm->name, what, call->by);
	rc = call_ask(call, 2, call_nothing);
	if (rc)
		return rc;
	command_set_add(call->set, vm, &command, -1);
	pools_ask(call->set, vm, &job);
	return call_wait(call);
}

int client_freeze(struct call *call)
{
	return freeze(call, "frozen", 1);
}

int client_thaw(struct call *call)
{
	return freeze(call, "thawed", 0);
}

static int pages_finish(struct call *call, const struct command_answer *a,
			size_t n)
{
	int rc = call_refusal(call, a, n);
	json_int_t pages = 0;

	for (; n; n--, a++)
		if (a->value > 0 && a->value < INT64_MAX - pages)
			pages += a->value;
	return rc ? rc : call_answer(call, json_pack("{s:I}", "pages", pages));
}

static json_t *pages_pack(uint64_t pages)
{
	return json_pack("{s:I}", "pages",
			 (json_int_t)min_u64(pages, INT64_MAX));
}

/* A pool's number; "ram" is not one of the guest's, and said to be so. */
static int pool_param(struct call *call, const struct vm *vm, int32_t *out)
{
	const json_t *value = json_object_get(call->params, "pool");
	uint64_t pool = 0;
	int rc;

	*out = WIRE_POOL_ALL;
	if (!value)
		return 0;
	if (json_is_string(value) && !strcmp(json_string_value(value), "ram"))
		return call_refuse(call, -EPERM,
				   "the compressed tier of %s is guest RAM: to "
				   "destroy it would lose the guest's memory; "
				   "`hv unmanage` restores it",
				   vm->name);
	rc = call_number(call, "pool", 0,
			 CHANNEL_POOL_FIRST + CHANNEL_POOLS_MAX - 1, &pool);
	*out = (int32_t)pool;
	return rc;
}

/* By its last STATS; the agent judges by what is true then. */
static uint64_t pages_doomed(const struct vm *vm, int32_t pool)
{
	const struct guest_stats *g = &vm->stats.guest;
	uint64_t pages = 0;
	bool dropped = false, kept = false;
	int32_t id;

	if (pool == WIRE_POOL_ALL || pool >= CHANNEL_POOL_FIRST)
		pages = vm->common_stats.pages;
	for (id = 0; id < TMEM_POOLS_MAX; id++) {
		if (pool != WIRE_POOL_ALL && pool != id)
			continue;
		kept |= vm->stats.pool[id] == TMEM_POOL_PERSISTENT;
		dropped |= vm->stats.pool[id] == TMEM_POOL_EPHEMERAL ||
			   vm->stats.pool[id] == TMEM_POOL_SHARED;
	}
	if (kept)
		pages += min_u64(g->persistent_pages, INT64_MAX / 2);
	if (dropped)
		pages += min_u64(g->ephemeral_pages, INT64_MAX / 2);
	return pages;
}

static bool pool_is_there(const struct vm *vm, int32_t pool)
{
	if (pool >= CHANNEL_POOL_FIRST)
		return vm->common_stats.pool[pool - CHANNEL_POOL_FIRST];
	return pool < 0 || vm->stats.pool[pool] || !vm->have_stats;
}

/*
 * Shared pools are for the common store, the others for the agent. If it is
 * going to refuse, nothing goes.
 */
static int destroy_ask(struct call *call, struct vm *vm,
		       struct wire_command *command)
{
	bool all = command->pool == WIRE_POOL_ALL;
	bool refused = all && !command->on && vm->stats.guest.persistent_pages;
	struct common_job job = {
		.op = COMMON_DESTROY,
		.pool = all ? -1 : command->pool - CHANNEL_POOL_FIRST};
	int rc = call_ask(call, 2, pages_finish);

	if (rc)
		return rc;
	if (command->pool < CHANNEL_POOL_FIRST)
		command_set_add(call->set, vm, command, -1);
	if (job.pool >= 0 || (all && !refused))
		pools_ask(call->set, vm, &job);
	return call_wait(call);
}

int client_destroy(struct call *call)
{
	struct wire_command command = {.op = WIRE_CMD_DESTROY};
	struct vm *vm = NULL;
	bool dry, force = false;
	int rc = client_param(call, &vm, &dry);

	if (!rc)
		rc = call_bool(call, "force", &force);
	if (!rc)
		rc = pool_param(call, vm, &command.pool);
	if (rc)
		return rc;
	if (!pool_is_there(vm, command.pool))
		return call_refuse(call, -ENOENT, "VM %s has no pool %d",
				   vm->name, (int)command.pool);
	if (dry)
		return call_answer(call,
				   pages_pack(pages_doomed(vm, command.pool)));
	command.on = force;
	call->patience_ns = LONG_NS;
	log_info("vm %s: destruction of pools asked for, by %s", vm->name,
		 call->by);
	return destroy_ask(call, vm, &command);
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int client_uuid_parse(const char *text, uint8_t uuid_out[16])
{
	unsigned n = 0, dashes = 0;

	for (; *text; text++) {
		if (*text == '-' && n && n < 32 && dashes < DASHES_MAX) {
			dashes++;
			continue;
		}
		if (n == 32 || nibble(*text) < 0)
			return -EINVAL;
		uuid_out[n / 2] = (uint8_t)(n % 2 ? uuid_out[n / 2] << 4 : 0) |
				  (uint8_t)nibble(*text);
		n++;
	}
	return n == 32 ? 0 : -EINVAL;
}

int client_auth(struct call *call)
{
	const char *uuid =
		json_string_value(json_object_get(call->params, "uuid"));
	struct common_job job = {.op = COMMON_AUTH};
	struct vm *vm = NULL;
	bool dry, on = false;
	int rc = client_param(call, &vm, &dry);

	if (!rc)
		rc = call_bool(call, "on", &on);
	if (rc)
		return rc;
	if (!json_object_get(call->params, "on"))
		return call_refuse(call, -EINVAL, "on: true or false");
	if (!uuid || client_uuid_parse(uuid, job.uuid))
		return call_refuse(call, -EINVAL,
				   "uuid: 32 hexadecimal digits");
	if (dry)
		return call_answer(call, json_object());
	if (pools_auth_set(vm, job.uuid, on))
		return call_refuse(call, -ENOSPC,
				   "VM %s is authorised for as many pools as "
				   "it can be",
				   vm->name);
	job.on = on;
	log_info("vm %s: shared pool %.36s %s, by %s", vm->name, uuid,
		 on ? "allowed" : "forbidden", call->by);
	state_save(call->hvd);
	rc = call_ask(call, 1, call_nothing);
	if (rc)
		return rc;
	pools_ask(call->set, vm, &job);
	return call_wait(call);
}

static int stream(struct call *call, uint32_t op)
{
	struct wire_command command = {.op = op};
	bool dry, saving = op == WIRE_CMD_SAVE;
	struct vm *vm = NULL;
	int rc = client_param(call, &vm, &dry);

	if (rc)
		return rc;
	if (dry)
		return call_answer(
			call,
			pages_pack(saving ? vm->stats.guest.persistent_pages
					  : 0));
	if (call->fd < 0)
		return call_refuse(call, -EBADF,
				   "an open file has to come with the call");
	call->patience_ns = LONG_NS;
	log_info("vm %s: %s, by %s", vm->name,
		 saving ? "being saved" : "being restored", call->by);
	return call_ask_one(call, vm, &command, pages_finish);
}

int client_save(struct call *call)
{
	return stream(call, WIRE_CMD_SAVE);
}

int client_restore(struct call *call)
{
	return stream(call, WIRE_CMD_RESTORE);
}
