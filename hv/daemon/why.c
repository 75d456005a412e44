/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counters of now against those of up to a minute ago. Times are estimates and
 * labelled so in tmem-ctl(1): of faults, agents report the median and not the
 * sum, so a cause's time is count * median; what a guest waited for its line it
 * counts itself; other causes of a guest have no time of their own, since
 * what a miss costs is a read of the guest's own disk.
 */
#include "hv/daemon/why.h"
#include "hv/daemon/report.h"
#include "hv/daemon/vm.h"

struct cause {
	const char *name, *remedy;
	uint64_t count;
	double ms;
};

static uint64_t risen(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

static void causes_append(json_t *list, const struct cause *cause, size_t n)
{
	for (; n; n--, cause++)
		if (cause->count)
			json_array_append_new(
				list,
				json_pack("{s:s, s:o, s:f, s:s}", "cause",
					  cause->name, "count",
					  report_integer(cause->count), "ms",
					  cause->ms, "remedy", cause->remedy));
}

#define RISEN(field) risen(now->field, was->field)

static void ram_causes(json_t *list, const struct mm_stats *now,
		       const struct mm_stats *was)
{
	struct cause cause[] = {
		{"swapped pages read back",
		 "raise its reservation or limit, or the budget",
		 RISEN(faults_swapped), 0},
		{"compressed pages read back",
		 "raise its reservation or limit, or lower the refault target",
		 RISEN(faults_compressed), 0},
		{"pages on trial touched again",
		 "none needed: they rest longer next time", RISEN(faults_held),
		 0},
		{"shared pages written to",
		 "none if it passes; else share=never for its domain",
		 RISEN(cow_breaks), 0},
		{"untouched or zero pages filled", "none needed: normal use",
		 RISEN(faults_zero), 0},
		{"pages busy with device I/O, left alone",
		 "use a kernel with UFFDIO_MOVE (6.8 or later)",
		 RISEN(take_busy), 0},
		{"store full", "raise the store's share of RAM, or allow swap",
		 RISEN(store_full), 0},
		{"swap file full", "give its disk room", RISEN(swap_full), 0}};

	for (size_t i = 0; i < ARRAY_LEN(cause); i++)
		cause[i].ms = (double)cause[i].count *
			      (double)now->fault_p50_ns / 1e6;
	causes_append(list, cause, ARRAY_LEN(cause));
}

static void guest_causes(json_t *list, const struct guest_stats *now,
			 const struct guest_stats *was)
{
	const struct cause cause[] = {
		{"guest's requests to the store waited for",
		 "none needed unless it is much: see its misses",
		 RISEN(driver_wait_ns) ? RISEN(gets) + RISEN(puts) : 0,
		 (double)RISEN(driver_wait_ns) / 1e6},
		{"guest's pages dropped: the host took memory back",
		 "raise its weight or reserve, or the budget",
		 RISEN(evicted_lent), 0},
		{"guest's pages dropped: at its own cap", "raise its cap",
		 RISEN(evicted_cap), 0},
		{"guest's pages dropped: flushed by hand", "none needed",
		 RISEN(evicted_flush), 0},
		{"guest's pages dropped: the store was full",
		 "raise the store's budget", RISEN(evicted_budget), 0},
		{"guest's pages not accepted",
		 now->frozen ? "it is frozen: thaw it" : "raise its cap",
		 RISEN(puts_refused), 0},
		{"guest's cached pages asked for in vain",
		 "none if it reads new files; else lend it more",
		 RISEN(gets_missed), 0},
		{"guest evicted pages it needed again",
		 "give it more RAM, or lend it more", RISEN(driver_refaults),
		 0},
		{"pages left with us lost to the guest's queue",
		 "give its line more queues", RISEN(cache_dropped), 0},
		{"guest's swap pages lost", "look into QEMU's log",
		 RISEN(swap_errors), 0},
		{"guest's driver broke the rules and was shut off",
		 "look into the guest", RISEN(breaks), 0}};

	causes_append(list, cause, ARRAY_LEN(cause));
}

static json_t *causes_pack(const struct vm *vm, const struct vm_sample *was)
{
	json_t *list = json_array();

	ram_causes(list, &vm->stats.mm, &was->mm);
	guest_causes(list, &vm->stats.guest, &was->guest);
	return list;
}

/* The guest's side, in the words of `why`. */
static json_t *guest_pack(const struct vm *vm, const struct guest_stats *was)
{
	const struct guest_stats *now = &vm->stats.guest;

	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "puts",
			 report_integer(RISEN(puts)), "gets",
			 report_integer(RISEN(gets)), "gets_missed",
			 report_integer(RISEN(gets_missed)), "refaults",
			 report_integer(RISEN(driver_refaults)), "psi_permille",
			 report_integer(now->driver_psi_permille),
			 "taken_bytes", report_integer(vm->lend.taken_bytes),
			 "taken_by", lend_takers_pack(vm));
}

json_t *why_pack(const struct vm *vm)
{
	const struct vm_sample latest = {.mm = vm->stats.mm,
					 .guest = vm->stats.guest};
	const struct vm_sample *sample;
	const struct mm_stats *now = &vm->stats.mm, *was;
	uint64_t age_ns = 0, faults, guest_ns;
	double seconds;

	sample = vm_sample_before(vm, &age_ns);
	if (!sample)
		sample = &latest;
	was = &sample->mm;
	seconds = age_ns ? (double)age_ns / 1e9 : 1;
	faults = RISEN(faults);
	guest_ns = risen(vm->stats.guest.driver_wait_ns,
			 sample->guest.driver_wait_ns);
	return json_pack("{s:s, s:f, s:o, s:f, s:f, s:f, s:o, s:o, s:o}", "vm",
			 vm->name, "since_s", (double)age_ns / 1e9, "faults",
			 report_integer(faults), "faults_per_s",
			 (double)faults / seconds, "wait_ms",
			 (double)faults * (double)now->fault_p50_ns / 1e6,
			 "guest_wait_ms", (double)guest_ns / 1e6,
			 "refault_permille_min",
			 report_integer(now->refault_permille_min), "guest",
			 guest_pack(vm, &sample->guest), "causes",
			 causes_pack(vm, sample));
}
