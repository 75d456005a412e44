/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 *   has     = budget - pools - tables, or used by VMs + MemAvailable + lent,
 *             less what is set aside of the copy-on-write reserve
 *   free    = has - used by VMs, which is what the pressure is measured by
 *   for VMs = has - what has to be free (pressure_goal)
 *
 * What is lent to guests (lend.c) is theirs until it is wanted, so it counts as
 * free: pressure begins when it is used up, and not before.
 *
 * What has to be free is the reserve at least, so a storm of writes to shared
 * pages finds memory that nobody was given: of the reserve, what the pressure's
 * goal does not keep free anyway counts as used.
 *
 * A VM's target is the arbiter's where memory is short. Where it is not, there
 * is none, its own limit apart. A state forced by hand without a shortage asks
 * for what would be given up first: the cold pages.
 *
 * In hard and low a TARGET allows compression, in low it also keeps a VM from
 * growing beyond what it uses.
 */
#include "hv/daemon/steer.h"
#include "hv/base/log.h"
#include "hv/daemon/arbiter.h"
#include "hv/daemon/balloon.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/lend.h"
#include "hv/daemon/link.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

#include <stdlib.h>
#include <string.h>

/* Room to grow that demand includes: 1/16, at least this. */
#define GROWTH_MIN ((uint64_t)16 << 20)
/* A target that moved less than this is not worth a message: 1/64. */
#define NOISE_SHIFT 6

/* Over all domains. */
static struct domain_stats domains_sum(const struct hvd *hvd)
{
	struct domain_stats sum = {0}, one;
	const struct trust *trust;

	TAILQ_FOREACH (trust, &hvd->trusts, entry) {
		if (!trust->domain)
			continue;
		domain_stats(trust->domain, &one);
#define FIELD(name, unit, help) sum.name += one.name;
		DOMAIN_STATS(FIELD, FIELD)
#undef FIELD
	}
	return sum;
}

uint64_t steer_pool_bytes(const struct hvd *hvd)
{
	return domains_sum(hvd).pool_bytes;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* What hvd itself needs to keep pages shared: pages' own bytes apart. */
static uint64_t tables_bytes(const struct hvd *hvd)
{
	struct common_store_stats common = pools_sum(hvd);

	return domains_sum(hvd).metadata_bytes +
	       less(common.tmem.used_bytes, common.freeable_bytes);
}

uint64_t steer_metadata_bytes(const struct hvd *hvd)
{
	uint64_t sum = tables_bytes(hvd);
	const struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		sum += sizeof(*vm) + min_u64(vm->stats.mm.metadata_bytes,
					     vm->ram_pages << PAGE_SHIFT);
	return sum;
}

uint64_t steer_cow_reserve_bytes(const struct hvd *hvd)
{
	uint64_t shared = domains_sum(hvd).sharing_pages << PAGE_SHIFT;

	return min_u64(shared / 1000 * hvd->config.cow_permille,
		       hvd->config.cow_max_bytes);
}

uint64_t steer_memory_bytes(const struct hvd *hvd)
{
	return hvd->config.budget_bytes ? hvd->config.budget_bytes
					: hvd->memory_bytes;
}

static uint64_t vms_used(const struct hvd *hvd)
{
	const struct vm *vm;
	uint64_t sum = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		sum += vm_used_bytes(vm);
	return sum;
}

/* Of the reserve, what is not kept free anyway. */
static uint64_t set_aside_bytes(const struct hvd *hvd)
{
	return less(steer_cow_reserve_bytes(hvd),
		    pressure_goal(&hvd->pressure, steer_memory_bytes(hvd)));
}

/* What VMs can have in all, what they have now included. */
static uint64_t vms_bytes(const struct hvd *hvd)
{
	uint64_t reserve = set_aside_bytes(hvd);

	if (hvd->config.budget_bytes)
		return less(hvd->config.budget_bytes,
			    steer_pool_bytes(hvd) + tables_bytes(hvd) +
				    reserve);
	return vms_used(hvd) +
	       less(hvd->available_bytes + lend_sum(hvd), reserve);
}

static uint64_t free_bytes(const struct hvd *hvd)
{
	return less(vms_bytes(hvd), vms_used(hvd));
}

/*
 * What may be lent in all: what is free above the minimum. With a budget, what
 * the host itself has free is a bound as well. Pressure by hand takes it all
 * back, as its first step.
 */
static uint64_t lendable_bytes(const struct hvd *hvd)
{
	const struct pressure *p = &hvd->pressure;
	uint64_t bytes, host;

	if (p->is_forced && pressure_now(p) >= PRESSURE_SOFT)
		return 0;
	bytes = less(free_bytes(hvd), pressure_min(p, steer_memory_bytes(hvd)));
	host = less(hvd->available_bytes + lend_sum(hvd),
		    pressure_min(p, hvd->memory_bytes));
	return min_u64(bytes, host);
}

/* So many mappings may overlays cost at worst: one per page of all guests. */
static void map_count_raise(struct hvd *hvd)
{
	uint64_t wanted = 65530, was = 0;
	const struct vm *vm;
	int rc;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		wanted = max_u64(wanted, vm->ram_pages + 65530);
	if (!hvd->config.raise_map_count || wanted <= hvd->map_count_wanted)
		return;
	/* Twice, so that a VM's growth does not come back here each second. */
	if (hvd->map_count_wanted)
		wanted *= 2;
	hvd->map_count_wanted = wanted;
	rc = host_map_count_raise(wanted, &was);
	if (rc)
		log_warn("vm.max_map_count is %llu and cannot be raised to "
			 "%llu (%s): sharing ends where it is reached",
			 (unsigned long long)was, (unsigned long long)wanted,
			 strerror(-rc));
	else if (was < wanted)
		log_info("vm.max_map_count raised from %llu to %llu",
			 (unsigned long long)was, (unsigned long long)wanted);
}

void steer_look(struct hvd *hvd)
{
	int rc;

	rc = host_memory(&hvd->memory_bytes, &hvd->available_bytes);
	if (rc) {
		log_error("/proc/meminfo: %s", strerror(-rc));
		return;
	}
	map_count_raise(hvd);
	pools_look(hvd);
	if (pressure_update(&hvd->pressure, free_bytes(hvd),
			    steer_memory_bytes(hvd)))
		hvd_steer_soon(hvd);
}

/* ---- dividing --------------------------------------------------------- */

static uint64_t demand_bytes(const struct vm *vm)
{
	const struct mm_stats *mm = &vm->stats.mm;
	uint64_t ram = vm->ram_pages << PAGE_SHIFT, want;

	want = vm_used_bytes(vm) +
	       (min_u64(mm->compressed_pages + mm->swapped_pages, vm->ram_pages)
		<< PAGE_SHIFT);
	return min_u64(ram, want + max_u64(want / 16, GROWTH_MIN));
}

static size_t arbiter_fill(const struct hvd *hvd, struct arbiter_vm *row)
{
	const struct vm *vm;
	size_t n = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		row[n++] = (struct arbiter_vm){.reservation_bytes =
						       vm->reservation_bytes,
					       .limit_bytes = vm->limit_bytes,
					       .demand_bytes = demand_bytes(vm),
					       .idle_bytes = vm_cold_bytes(vm),
					       .used_bytes = vm_used_bytes(vm),
					       .shares = vm->shares};
	return n;
}

static uint64_t budget_for_vms(const struct hvd *hvd)
{
	uint64_t memory = steer_memory_bytes(hvd);
	uint64_t used = vms_used(hvd);
	uint64_t cold = 0, has;
	const struct vm *vm;

	has = less(vms_bytes(hvd), pressure_goal(&hvd->pressure, memory));
	if (!hvd->pressure.is_forced ||
	    pressure_now(&hvd->pressure) < PRESSURE_SOFT)
		return has;
	TAILQ_FOREACH (vm, &hvd->vms, entry)
		cold += vm_cold_bytes(vm);
	return min_u64(has, less(used, cold));
}

static void targets_divide(struct hvd *hvd)
{
	struct arbiter_vm *row = calloc(vm_count(hvd) + 1, sizeof(*row));
	struct vm *vm;
	size_t n, i = 0;

	if (!row)
		return; /* the targets of before hold */
	n = arbiter_fill(hvd, row);
	if (arbiter_divide(row, n, budget_for_vms(hvd),
			   hvd->config.tax_percent))
		log_debug("reservations exceed what there is");
	TAILQ_FOREACH (vm, &hvd->vms, entry)
		vm->target_bytes = row[i++].target_bytes;
	free(row);
}

/* ---- telling ---------------------------------------------------------- */

static uint32_t target_flags(const struct hvd *hvd, const struct vm *vm,
			     bool over_limit)
{
	enum pressure_state state = pressure_now(&hvd->pressure);
	enum share_mode mode = trust_share(vm->trust);
	uint32_t flags = 0;

	if (mode == SHARE_ALWAYS ||
	    (mode == SHARE_PRESSURE && state >= PRESSURE_CLEAR))
		flags |= WIRE_MAY_SHARE;
	if (state >= PRESSURE_CLEAR)
		flags |= WIRE_BREAK_HUGE | WIRE_WANT_OFFERS;
	if (state >= PRESSURE_HARD || over_limit) {
		flags |= WIRE_MAY_COMPRESS;
		if (hvd->config.swap)
			flags |= WIRE_MAY_SWAP;
	}
	return flags;
}

static uint64_t target_bytes(const struct hvd *hvd, const struct vm *vm)
{
	enum pressure_state state = pressure_now(&hvd->pressure);
	uint64_t bytes = 0;

	if (state >= PRESSURE_SOFT)
		bytes = max_u64(vm->target_bytes, PAGE_BYTES);
	if (state == PRESSURE_LOW && vm->have_stats)
		bytes = min_u64(bytes,
				max_u64(vm_used_bytes(vm),
					vm->reservation_bytes + PAGE_BYTES));
	if (vm->limit_bytes && (!bytes || vm->limit_bytes < bytes))
		bytes = vm->limit_bytes;
	return bytes;
}

/* With the host's last memory at stake the agents do not wait for trials. */
static uint32_t refaults_allowed(const struct hvd *hvd)
{
	return pressure_now(&hvd->pressure) == PRESSURE_LOW
		       ? 0
		       : hvd->config.refault_permille;
}

static void target_make(const struct hvd *hvd, const struct vm *vm,
			struct wire_target *out)
{
	uint64_t ram = vm->ram_pages << PAGE_SHIFT;
	uint64_t store = ram / 100 * hvd->config.store_percent;

	/* Of a guest with a line, the cap is its own client's. */
	if (vm->cap_bytes && !vm->stats.guest.lines)
		store = min_u64(store, vm->cap_bytes);
	*out = (struct wire_target){
		.resident_bytes = target_bytes(hvd, vm),
		.store_bytes = store,
		.lent_bytes = vm->lend.bytes,
		.flags = target_flags(hvd, vm,
				      vm->limit_bytes && vm->limit_bytes < ram),
		.refault_permille_min = refaults_allowed(hvd),
		.scan_ms = hvd->config.scan_ms,
		.pressure = pressure_now(&hvd->pressure)};
}

static bool moved(uint64_t x, uint64_t y)
{
	return !x != !y || (x > y ? x - y : y - x) > y >> NOISE_SHIFT;
}

static bool target_differs(const struct wire_target *a,
			   const struct wire_target *b)
{
	struct wire_target rest = *a;

	if (moved(a->resident_bytes, b->resident_bytes) ||
	    lend_moved(a->lent_bytes, b->lent_bytes))
		return true;
	rest.resident_bytes = b->resident_bytes;
	rest.lent_bytes = b->lent_bytes;
	return memcmp(&rest, b, sizeof(rest)) != 0;
}

static void target_send(struct hvd *hvd, struct vm *vm)
{
	struct wire_target target;

	if (!vm_is_managed(vm))
		return;
	target_make(hvd, vm, &target);
	if (vm->target_sent && !target_differs(&target, &vm->target))
		return;
	/* If it does not go out, the next second tries again. */
	vm->target_sent = !link_send_control(vm->link, WIRE_TARGET, &target,
					     sizeof(target), -1);
	vm->target = target;
}

void steer_apply(struct hvd *hvd)
{
	struct vm *vm;

	targets_divide(hvd);
	lend_divide(hvd, lendable_bytes(hvd));
	pools_lend(hvd);
	TAILQ_FOREACH (vm, &hvd->vms, entry)
		target_send(hvd, vm);
}

/* ---- balloons -------------------------------------------------------------
 */

/*
 * What a guest's driver offers is taken from the state clear on, before others
 * have to give. It may lie: about its own memory.
 */
static uint64_t balloon_need(const struct vm *vm, enum pressure_state state)
{
	const struct guest_stats *guest = &vm->stats.guest;
	uint64_t need = 0;

	if (state >= PRESSURE_SOFT)
		need = less(vm_used_bytes(vm), vm->target_bytes);
	if (guest->drivers)
		need = max_u64(need,
			       min_u64(guest->driver_offer_pages, vm->ram_pages)
				       << PAGE_SHIFT);
	return need;
}

/* An offer shrinks as the balloon grows: it stays until the host is at ease. */
static bool balloon_stays(const struct vm *vm, enum pressure_state state)
{
	return state >= PRESSURE_SOFT ||
	       (state == PRESSURE_CLEAR && vm->stats.guest.drivers);
}

void steer_balloons(struct hvd *hvd)
{
	enum pressure_state state = pressure_now(&hvd->pressure);
	struct vm *vm;

	if (!hvd->config.balloon)
		return;
	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		if (!vm_is_managed(vm) || !vm->have_stats)
			continue;
		if (!vm->balloon && vm->qmp[0])
			vm->balloon = balloon_create(hvd, vm->name, vm->qmp);
		if (balloon_stays(vm, state))
			balloon_take(vm->balloon, balloon_need(vm, state),
				     hvd->config.balloon_keep_bytes);
		else
			balloon_deflate(vm->balloon);
	}
}
