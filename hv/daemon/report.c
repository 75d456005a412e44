/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON of the control socket. Counters come from the same lists as the
 * structures (MM_STATS, TMEM_STATS, GUEST_STATS), so one that is added appears
 * here by itself.
 */
#include "hv/daemon/report.h"
#include "hv/base/host.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/steer.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

/* An agent may say any number; JSON integers here end at 2^63. */
json_t *report_integer(uint64_t n)
{
	return json_integer((json_int_t)min_u64(n, INT64_MAX));
}

static void set_integer(json_t *object, const char *key, uint64_t n)
{
	json_object_set_new(object, key, report_integer(n));
}

static json_t *mm_pack(const struct mm_stats *mm)
{
	json_t *o = json_object();

#define FIELD(name, unit, help) set_integer(o, #name, mm->name);
	MM_STATS(FIELD, FIELD)
#undef FIELD
	return o;
}

static json_t *tmem_pack(const struct tmem_stats *tm)
{
	json_t *o = json_object();

#define FIELD(name, unit, help) set_integer(o, #name, tm->name);
	TMEM_STATS(FIELD, FIELD)
#undef FIELD
	return o;
}

static json_t *guest_pack(const struct guest_stats *g)
{
	json_t *o = json_object();

#define FIELD(name, unit, help) set_integer(o, #name, g->name);
	GUEST_STATS(FIELD, FIELD)
#undef FIELD
	return o;
}

static json_t *pools_pack(const struct vm *vm)
{
	const uint8_t *pool = vm->stats.pool;
	static const char *const kind[TMEM_POOL_KINDS] = {
		[TMEM_POOL_EPHEMERAL] = "ephemeral",
		[TMEM_POOL_PERSISTENT] = "persistent",
		[TMEM_POOL_SHARED] = "shared"};
	json_t *list = json_array();
	int i;

	for (i = 0; i < TMEM_POOLS_MAX; i++)
		if (pool[i] != TMEM_POOL_NONE)
			json_array_append_new(list,
					      json_pack("{s:i, s:s}", "pool", i,
							"kind", kind[pool[i]]));
	for (i = 0; i < CHANNEL_POOLS_MAX; i++)
		if (vm->common_stats.pool[i])
			json_array_append_new(
				list, json_pack("{s:i, s:s}", "pool",
						CHANNEL_POOL_FIRST + i, "kind",
						kind[TMEM_POOL_SHARED]));
	return list;
}

/* Of one VM, in its domain's common store. */
static json_t *common_pack(const struct common_member_stats *st)
{
	json_t *o = json_object();

	set_integer(o, "pages", st->pages);
	set_integer(o, "bytes", st->bytes);
	set_integer(o, "lent_bytes", st->lent_bytes);
	set_integer(o, "puts", st->count.puts);
	set_integer(o, "puts_refused", st->count.puts_refused);
	set_integer(o, "gets", st->count.gets);
	set_integer(o, "gets_missed", st->count.gets_missed);
	set_integer(o, "flushes", st->count.flushes);
	set_integer(o, "evicted", st->evicted);
	return o;
}

static json_t *features_pack(uint32_t features)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} known[] = {{HOST_MOVE, "move"},
		     {HOST_WP, "wp"},
		     {HOST_WP_SHMEM, "wp-shmem"},
		     {HOST_SIGBUS, "sigbus"}};
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < ARRAY_LEN(known); i++)
		if (features & known[i].bit)
			json_array_append_new(list, json_string(known[i].name));
	return list;
}

json_t *report_vm(const struct vm *vm)
{
	json_t *o = json_object();

	json_object_set_new(o, "name", json_string(vm->name));
	json_object_set_new(o, "domain", json_string(vm->trust->name));
	set_integer(o, "pid", (uint64_t)vm->pid);
	set_integer(o, "vm", vm->id);
	json_object_set_new(o, "state", json_string(vm_state(vm)));
	set_integer(o, "reservation_bytes", vm->reservation_bytes);
	set_integer(o, "limit_bytes", vm->limit_bytes);
	set_integer(o, "shares", vm->shares);
	set_integer(o, "target_bytes", vm->target.resident_bytes);
	set_integer(o, "weight", vm->weight);
	set_integer(o, "cap_bytes", vm->cap_bytes);
	set_integer(o, "reserve_bytes", vm->reserve_bytes);
	json_object_set_new(o, "compress", json_boolean(vm->compress));
	json_object_set_new(o, "features", features_pack(vm->features));
	json_object_set_new(o, "mm", mm_pack(&vm->stats.mm));
	json_object_set_new(o, "tmem", tmem_pack(&vm->stats.tmem));
	json_object_set_new(o, "guest", guest_pack(&vm->stats.guest));
	json_object_set_new(o, "common", common_pack(&vm->common_stats));
	json_object_set_new(o, "pools", pools_pack(vm));
	return o;
}

json_t *report_host(const struct hvd *hvd)
{
	uint64_t frames = 0, entries = 0, index = 0, vms = 0, trusts = 0;
	const struct trust *trust;
	struct domain_stats ds;
	const struct vm *vm;
	json_t *o = json_object();

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		vms++;
	TAILQ_FOREACH (trust, &hvd->trusts, entry) {
		trusts++;
		if (!trust->domain)
			continue;
		domain_stats(trust->domain, &ds);
		frames += ds.frames;
		entries += ds.index_entries;
		index += ds.index_bytes;
	}
	set_integer(o, "memory_bytes", hvd->memory_bytes);
	set_integer(o, "available_bytes", hvd->available_bytes);
	set_integer(o, "budget_bytes", hvd->config.budget_bytes);
	json_object_set_new(
		o, "pressure",
		json_string(pressure_name(pressure_now(&hvd->pressure))));
	json_object_set_new(o, "pressure_forced",
			    json_boolean(hvd->pressure.is_forced));
	set_integer(o, "pool_frames", frames);
	set_integer(o, "pool_bytes", steer_pool_bytes(hvd));
	set_integer(o, "common_bytes", pools_sum(hvd).tmem.used_bytes);
	set_integer(o, "index_entries", entries);
	set_integer(o, "index_bytes", index);
	set_integer(o, "metadata_bytes", steer_metadata_bytes(hvd));
	set_integer(o, "hvd_cpu_ns", host_cpu_ns());
	set_integer(o, "round_ns", hvd->round_ns);
	set_integer(o, "vms", vms);
	set_integer(o, "domains", trusts);
	set_integer(o, "cow_reserve_bytes", steer_cow_reserve_bytes(hvd));
	return o;
}

json_t *report_domain(const struct trust *trust)
{
	struct domain_stats ds = {0};
	json_t *o = json_object(), *names = json_array();
	const struct vm *vm;

	TAILQ_FOREACH (vm, &trust->hvd->vms, entry)
		if (vm->trust == trust)
			json_array_append_new(names, json_string(vm->name));
	if (trust->domain)
		domain_stats(trust->domain, &ds);
	json_object_set_new(o, "name", json_string(trust->name));
	json_object_set_new(o, "vms", names);
	set_integer(o, "frames", ds.frames);
	set_integer(o, "frames_pending", ds.frames_pending);
	set_integer(o, "sharing_pages", ds.sharing_pages);
	set_integer(o, "saved_pages", ds.saved_pages);
	set_integer(o, "index_entries", ds.index_entries);
	set_integer(o, "index_bytes", ds.index_bytes);
	json_object_set_new(o, "common", tmem_pack(&trust->common_stats.tmem));
	return o;
}

json_t *report_freeable(const struct hvd *hvd)
{
	json_t *list = json_array();
	const struct vm *vm;
	uint64_t sum = 0, cold = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		if (!vm_is_managed(vm))
			continue;
		sum += vm_lent_bytes(vm);
		cold += vm_cold_bytes(vm);
		json_array_append_new(
			list,
			json_pack("{s:s, s:o, s:o}", "name", vm->name, "bytes",
				  report_integer(vm_lent_bytes(vm)),
				  "cold_bytes",
				  report_integer(vm_cold_bytes(vm))));
	}
	return json_pack("{s:o, s:o, s:o}", "total_bytes", report_integer(sum),
			 "total_cold_bytes", report_integer(cold), "vms", list);
}
