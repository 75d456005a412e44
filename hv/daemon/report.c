/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON of the control socket. Counters come from the same lists as the
 * structures (MM_STATS, TMEM_STATS), so one that is added appears here by
 * itself.
 *
 * WHY says service time: agents report the median of a fault, not the sum, so
 * times are count * median and labelled so in tmem-ctl(1).
 */
#include "hv/daemon/report.h"
#include "hv/base/host.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/steer.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

/* An agent may say any number; JSON integers here end at 2^63. */
static json_t *integer(uint64_t n)
{
	return json_integer((json_int_t)min_u64(n, INT64_MAX));
}

static void set_integer(json_t *object, const char *key, uint64_t n)
{
	json_object_set_new(object, key, integer(n));
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
	return o;
}

/* ---- why ------------------------------------------------------------------
 */

struct cause {
	const char *name, *remedy;
	uint64_t count;
};

static uint64_t risen(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

#define RISEN(field) risen(now->field, was->field)

static json_t *causes_pack(const struct mm_stats *now,
			   const struct mm_stats *was)
{
	const struct cause cause[] = {
		{"swapped pages read back",
		 "raise its reservation or limit, or the budget",
		 RISEN(faults_swapped)},
		{"compressed pages read back",
		 "raise its reservation or limit, or lower the refault target",
		 RISEN(faults_compressed)},
		{"pages on trial touched again",
		 "none needed: they rest longer next time", RISEN(faults_held)},
		{"shared pages written to",
		 "none if it passes; else share=never for its domain",
		 RISEN(cow_breaks)},
		{"untouched or zero pages filled", "none needed: normal use",
		 RISEN(faults_zero)},
		{"pages busy with device I/O, left alone",
		 "use a kernel with UFFDIO_MOVE (6.8 or later)",
		 RISEN(take_busy)},
		{"store full", "raise the store's share of RAM, or allow swap",
		 RISEN(store_full)},
		{"swap file full", "give its disk room", RISEN(swap_full)}};
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < ARRAY_LEN(cause); i++)
		if (cause[i].count)
			json_array_append_new(
				list,
				json_pack("{s:s, s:o, s:f, s:s}", "cause",
					  cause[i].name, "count",
					  integer(cause[i].count), "ms",
					  (double)cause[i].count *
						  (double)now->fault_p50_ns /
						  1e6,
					  "remedy", cause[i].remedy));
	return list;
}

json_t *report_why(const struct vm *vm)
{
	const struct mm_stats *now = &vm->stats.mm, *was;
	uint64_t age_ns = 0, faults;
	double seconds;

	was = vm_stats_before(vm, &age_ns);
	if (!was)
		was = now;
	seconds = age_ns ? (double)age_ns / 1e9 : 1;
	faults = RISEN(faults);
	return json_pack(
		"{s:s, s:f, s:o, s:f, s:f, s:o, s:o}", "vm", vm->name,
		"since_s", (double)age_ns / 1e9, "faults", integer(faults),
		"faults_per_s", (double)faults / seconds, "wait_ms",
		(double)faults * (double)now->fault_p50_ns / 1e6,
		"refault_permille_min", integer(now->refault_permille_min),
		"causes", causes_pack(now, was));
}

json_t *report_freeable(const struct hvd *hvd)
{
	json_t *list = json_array();
	const struct vm *vm;
	uint64_t sum = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		if (!vm->link)
			continue;
		sum += vm_freeable_bytes(vm);
		json_array_append_new(
			list, json_pack("{s:s, s:o}", "name", vm->name, "bytes",
					integer(vm_freeable_bytes(vm))));
	}
	return json_pack("{s:o, s:o}", "total_bytes", integer(sum), "vms",
			 list);
}
