// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bench/fault_touch.c from inside a guest: the same memory is the RAM of a
 * small guest of KVM, which reads each page once and notes by its own time
 * stamp counter how long that took.
 *
 *   kvm_touch ours|swap [--mib N] [--order random|sequential] [--handlers N]
 *             [--seed N] [--touches N] [--poll MICROSECONDS]
 *             [--codec zstd|lz4]
 *
 * First while all of it is there: what a guest pays for the first touch of any
 * page, its exit and KVM's own tables ("first_"). Then all is compressed, and
 * the guest touches it again in the same order. The difference is what being
 * compressed costs. CPU counts the whole process, the guest's own included.
 *
 * The guest runs at CPL 3 (bench/lib/ring3.c). Where KVM does not run that
 * natively the exit code is 77: it would be an emulator that is measured.
 */
#include "bench/lib/cold.h"
#include "bench/lib/ring3.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NATIVE 100e6 /* instructions a second; an emulator has few millions */

static struct cold cold;

static struct ring3 *guest_make(void)
{
	struct ring3 *guest = NULL;
	const char *why;
	double speed;
	int rc = ring3_create(&cold.ram, &guest, &why);

	if (rc)
		tool_skip(why, rc);
	speed = ring3_speed(guest);
	if (speed < NATIVE) {
		fprintf(stderr,
			"kvm_touch: guest user mode runs %.1f million "
			"instructions a second\n",
			speed / 1e6);
		tool_skip("KVM does not run it natively", 0);
	}
	return guest;
}

static void touch(struct ring3 *guest, const uint32_t *order,
		  struct cold_took *took)
{
	uint64_t since = tool_now_ns(), wrong = 0;
	int rc;

	took->zswapped_kib = cold_zswapped_kib();
	took->cpu_s = cold_cpu_s();
	rc = ring3_touch(guest, order, took->n, took->ns, &wrong);
	took->wall_s = (double)(tool_now_ns() - since) / 1e9;
	took->cpu_s = cold_cpu_s() - took->cpu_s;
	if (rc) {
		errno = -rc;
		tool_fail("the guest did not come to its end");
	}
	if (wrong)
		tool_fail("pages came back with other bytes");
}

static void measure(struct ring3 *guest)
{
	uint32_t *order = cold_order(&cold);
	struct cold_took first = {
		.ns = calloc(cold.pages, sizeof(*first.ns)),
		.n = cold_touches(&cold),
	};
	struct cold_took took = {
		.ns = calloc(cold.pages, sizeof(*took.ns)),
		.n = first.n,
	};

	if (!first.ns || !took.ns)
		tool_fail("memory");
	memset(took.ns, 1, cold.pages * sizeof(*took.ns));
	touch(guest, order, &first);
	cold_begin(&cold);
	touch(guest, order, &took);
	printf("{\"first\": {");
	cold_print(&first);
	printf("}, ");
	cold_print(&took);
	printf("}\n");
	free(order);
	free(first.ns);
	free(took.ns);
}

int main(int argc, char **argv)
{
	bool good = argc >= 2 && argc % 2 == 0;
	struct ring3 *guest;

	good = cold_init(&cold, good ? argv[1] : "");
	for (int i = 2; good && i < argc; i += 2)
		good = cold_option(&cold, argv[i], argv[i + 1]);
	if (!good || cold.pages * PAGE_BYTES > RING3_RAM_MAX) {
		fprintf(stderr, "usage: kvm_touch ours|swap "
				"[--option value]...\n");
		return 2;
	}
	cold_fill(&cold);
	guest = guest_make();
	measure(guest);
	ring3_destroy(guest);
	cold_end(&cold);
	return 0;
}
