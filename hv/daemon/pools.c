/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See pools.h.
 *
 *   trust --- common_store          made with the first VM, gone with the last
 *   vm ------ common_member         from WELCOME until the agent is gone
 *     `------ auth[]                as the administrator said; kept on record,
 *                                   since guests join anew after hvd restarts
 *
 * A store belongs to one trust group, and a VM to one group until it ends: so
 * guests of two groups never meet, whatever uuid they name.
 *
 * What is lent. A VM is lent so much for its ephemeral pages in all (lend.c).
 * Those in its own process come first, and what they leave is for the shared
 * ones:
 *
 *   shared pages <= lent - own ephemeral pages
 *
 * so weight, cap and reserve hold for the sum of both, and when the host takes
 * memory back the shared pages are the first to go.
 */
#include "hv/daemon/pools.h"
#include "hv/base/host.h"
#include "hv/base/log.h"
#include "hv/daemon/control.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <string.h>

/* ---- life -----------------------------------------------------------------
 */

static int answered(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct common_answer answer;
	struct hvd *hvd = arg;

	(void)source;
	(void)fd;
	(void)events;
	pools_look(hvd);
	while (common_answer_take(hvd->common, &answer))
		control_answer(hvd, answer.id, answer.rc, answer.value);
	return 0;
}

int pools_start(struct hvd *hvd)
{
	int rc = host_real.random(&hvd->era, sizeof(hvd->era));

	if (!rc)
		rc = common_create(&hvd->common);
	if (!rc)
		rc = sd_event_add_io(hvd->event, &hvd->common_source,
				     common_fd(hvd->common), EPOLLIN, answered,
				     hvd);
	return rc < 0 ? rc : 0;
}

void pools_stop(struct hvd *hvd)
{
	sd_event_source_disable_unref(hvd->common_source);
	common_destroy(hvd->common);
	hvd->common = NULL;
}

/* ---- a VM's connection ----------------------------------------------------
 */

static void ask(struct vm *vm, const struct common_job *job)
{
	if (vm->common && common_ask(vm->common, job))
		log_error("vm %s: no memory to tell its shared pools",
			  vm->name);
}

static void auth_tell(struct vm *vm, const uint8_t uuid[16], bool on)
{
	struct common_job job = {.op = COMMON_AUTH, .on = on};

	memcpy(job.uuid, uuid, sizeof(job.uuid));
	ask(vm, &job);
}

static int connect_try(struct vm *vm, int *fd_out)
{
	struct trust *trust = vm->trust;
	int rc = 0;

	if (!trust->common)
		rc = common_store_create(vm->hvd->common, &trust->common);
	if (!rc)
		rc = common_member_create(trust->common, vm->name, fd_out,
					  &vm->common);
	return rc;
}

void pools_connect(struct vm *vm, int *fd_out)
{
	int rc;

	*fd_out = -1;
	if (!vm->hvd->common)
		return;
	pools_disconnect(vm);
	rc = connect_try(vm, fd_out);
	if (rc) {
		log_warn("vm %s goes without shared pools: %s", vm->name,
			 strerror(-rc));
		*fd_out = -1;
		vm->common = NULL;
		return;
	}
	vm->common_tuned = false;
	for (unsigned n = 0; n < vm->auths; n++)
		auth_tell(vm, vm->auth[n], true);
}

void pools_disconnect(struct vm *vm)
{
	if (vm->common)
		common_member_drop(vm->common);
	vm->common = NULL;
	vm->common_stats = (struct common_member_stats){0};
}

void pools_trust_gone(struct trust *trust)
{
	if (trust->common)
		common_store_drop(trust->common);
	trust->common = NULL;
}

/* ---- authorisation and knobs ----------------------------------------------
 */

int pools_auth_set(struct vm *vm, const uint8_t uuid[16], bool on)
{
	unsigned n = 0;

	while (n < vm->auths && memcmp(vm->auth[n], uuid, 16))
		n++;
	if (on == (n < vm->auths))
		return 0;
	if (on && vm->auths == TMEM_AUTHS_MAX)
		return -ENOSPC;
	if (on)
		memcpy(vm->auth[vm->auths++], uuid, 16);
	else
		memmove(vm->auth[n], vm->auth[--vm->auths], 16);
	return 0;
}

/* Of a new connection; later changes are told as they are made. */
void pools_tune(struct vm *vm)
{
	struct common_job job = {.op = COMMON_COMPRESS,
				 .on = vm->stats.guest.compress};

	if (vm->common_tuned || !vm->stats.guest.lines)
		return;
	vm->common_tuned = true;
	ask(vm, &job);
	job.op = COMMON_FREEZE;
	job.on = vm->stats.guest.frozen;
	ask(vm, &job);
}

void pools_compress(struct vm *vm)
{
	const struct common_job job = {.op = COMMON_COMPRESS,
				       .on = vm->compress};

	ask(vm, &job);
}

void pools_ask(struct command_set *set, struct vm *vm, struct common_job *job)
{
	job->id = command_set_expect(set, vm);
	if (!vm->common)
		command_set_answer(set, job->id, 0, 0);
	else if (common_ask(vm->common, job))
		command_set_answer(set, job->id, -ENOMEM, 0);
}

/* ---- figures and lending --------------------------------------------------
 */

void pools_look(struct hvd *hvd)
{
	struct trust *trust;
	struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (vm->common)
			common_member_stats(vm->common, &vm->common_stats);
	TAILQ_FOREACH (trust, &hvd->trusts, entry)
		if (trust->common)
			common_store_stats(trust->common, &trust->common_stats);
}

void pools_lend(struct hvd *hvd)
{
	uint64_t own;
	struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		own = min_u64(vm->stats.guest.freeable_bytes, VM_LENT_MAX);
		if (vm->common)
			common_lend(vm->common, vm->lend.bytes > own
							? vm->lend.bytes - own
							: 0);
	}
}

struct common_store_stats pools_sum(const struct hvd *hvd)
{
	struct common_store_stats sum = {0};
	const struct trust *trust;

	TAILQ_FOREACH (trust, &hvd->trusts, entry) {
#define FIELD(name, unit, help) sum.tmem.name += trust->common_stats.tmem.name;
		TMEM_STATS(FIELD, FIELD)
#undef FIELD
		sum.freeable_bytes += trust->common_stats.freeable_bytes;
	}
	return sum;
}
