/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sharing end to end in one process: several guests' memory, each with its own
 * manager and its own half of sharing, and a real domain between them, joined
 * by queues instead of sockets. What is equal ends in one frame; what any guest
 * reads is what it wrote, at every moment.
 *
 * SHARE_MB=n runs the packing test on n MiB a guest and prints what it cost.
 */
#include "sharing/domain.h"
#include "sharing/frames.h"
#include "sharing/hash.h"
#include "sharing/share.h"
#include "tests/support/fault_host.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUESTS_MAX 4
#define QUEUE_MAX  4096

/* Messages on their way to one agent. */
struct queue_of_msgs {
	struct wire_head *msg[QUEUE_MAX];
	unsigned head, tail;
};

struct guest {
	struct mm *mm;
	struct share *sh;
	struct domain_member *member;
	struct queue_of_msgs in;
	uint8_t *ram;
	size_t pages;
};

static struct domain *dom;
static struct guest guest[GUESTS_MAX];
static unsigned guests;

static struct wire_head *msg_copy(const struct wire_head *msg)
{
	struct wire_head *copy = malloc(msg->bytes);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, msg, msg->bytes);
	return copy;
}

static int to_agent(void *cookie, const struct wire_head *msg)
{
	struct queue_of_msgs *q = &((struct guest *)cookie)->in;

	ck_assert_int_eq(wire_check(WIRE_HVD, msg, msg->bytes), 0);
	if (q->head - q->tail == QUEUE_MAX)
		return -EAGAIN;
	q->msg[q->head++ % QUEUE_MAX] = msg_copy(msg);
	return 0;
}

static int to_domain(void *arg, const struct wire_head *msg)
{
	struct guest *g = arg;

	ck_assert_int_eq(wire_check(WIRE_AGENT, msg, msg->bytes), 0);
	ck_assert_int_eq(domain_message(g->member, msg, host_real.now_ns()), 0);
	return 0;
}

static void release_hook(void *arg, const uint32_t *frames, size_t n)
{
	struct {
		struct wire_head head;
		uint32_t frame[CHUNK_PAGES];
	} msg;

	if (!n)
		return;
	msg.head = (struct wire_head){WIRE_VERSION, WIRE_RELEASE,
				      (uint32_t)(sizeof(msg.head) + 4 * n)};
	memcpy(msg.frame, frames, 4 * n);
	ck_assert_int_eq(to_domain(arg, &msg.head), 0);
}

static void guest_start(struct guest *g, size_t bytes)
{
	struct mm_config config = {.host = &fault_host, .uffd_device = -1};
	size_t room = bytes + CHUNK_BYTES;
	uint8_t *at = mmap(NULL, room, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd;

	ck_assert_ptr_ne(at, MAP_FAILED);
	at += CHUNK_BYTES - ((uintptr_t)at & (CHUNK_BYTES - 1));
	madvise(at, bytes, MADV_NOHUGEPAGE);
	*g = (struct guest){.ram = at, .pages = bytes >> PAGE_SHIFT};
	ck_assert_int_eq(mm_create(&config, &g->mm), 0);
	ck_assert_int_eq(mm_range_add(g->mm, hva_of(at), bytes, true), 0);
	ck_assert_int_eq(frames_fd_open(domain_frames(dom), &fd), 0);
	ck_assert_int_eq(
		mm_pool_attach(g->mm, fd, (uint64_t)lseek(fd, 0, SEEK_END)), 0);
	close(fd);
	ck_assert_int_eq(domain_join(dom, g, g->pages, &g->member), 0);
	mm_release_hook(g->mm, release_hook, g);
	ck_assert_int_eq(share_create(g->mm, to_domain, g, &g->sh), 0);
	share_policy(g->sh, true, true, 1000);
	share_start(g->sh, domain_secret(dom));
}

static void machine_start(unsigned n, size_t bytes)
{
	uint8_t secret[192];
	struct frames *fr;

	fault_host_reset(~0u);
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)(i * 37 + 11);
	ck_assert_int_eq(frames_create("test", 1 << 20, &fr), 0);
	ck_assert_int_eq(domain_create(secret, 1, fr, to_agent, &dom), 0);
	guests = n;
	for (unsigned i = 0; i < n; i++)
		guest_start(&guest[i], bytes);
}

static void guest_stop(struct guest *g)
{
	share_stop(g->sh);
	mm_destroy(g->mm);
	share_destroy(g->sh);
	while (g->in.tail != g->in.head)
		free(g->in.msg[g->in.tail++ % QUEUE_MAX]);
	domain_leave(g->member);
	munmap(g->ram, g->pages * PAGE_BYTES);
}

static void machine_stop(void)
{
	for (unsigned i = 0; i < guests; i++)
		guest_stop(&guest[i]);
	domain_destroy(dom);
}

static bool guest_read(struct guest *g)
{
	struct wire_head *msg;

	if (g->in.tail == g->in.head)
		return false;
	msg = g->in.msg[g->in.tail++ % QUEUE_MAX];
	if (msg->type == WIRE_WANT)
		share_want(g->sh, msg);
	else if (msg->type == WIRE_GRANT)
		share_grant(g->sh, msg);
	free(msg);
	return true;
}

/* Steps everybody for ms of the managers' time. */
static void run_ms(unsigned ms)
{
	for (unsigned t = 0; t < ms; t++) {
		for (unsigned i = 0; i < guests; i++) {
			int spins = 0;

			while (guest_read(&guest[i]))
				;
			while (share_scan(guest[i].sh) == 0 && spins++ < 1000)
				;
		}
		domain_flush(dom, host_real.now_ns());
		fault_host_clock_add(1000000);
		if (t % 1000 == 999)
			domain_tick(dom, host_real.now_ns());
	}
}

static void page_fill(uint8_t *page, uint64_t seed)
{
	uint64_t *w = (uint64_t *)page;

	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		w[i] = (seed + 1) * 0x9e3779b97f4a7c15 + (i << 20);
}

static bool page_holds(const uint8_t *page, uint64_t seed)
{
	uint8_t want[PAGE_BYTES];

	page_fill(want, seed);
	return memcmp(page, want, PAGE_BYTES) == 0;
}

/*
 * What page p of guest g holds: a tenth zero, half the same in every guest (in
 * runs of 8, at other places), the rest its own. 0: all zero.
 */
static uint64_t content(unsigned g, size_t p, size_t pages)
{
	if (p % 80 < 8)
		return 0;
	if (p % 80 < 48) {
		size_t run = (p / 8 + g * 13 * 10) % (pages / 8);

		return 1 + (run * 8 + p % 8);
	}
	return ((uint64_t)(g + 1) << 40) + p;
}

static void guests_fill(void)
{
	for (unsigned g = 0; g < guests; g++)
		for (size_t p = 0; p < guest[g].pages; p++) {
			uint64_t seed = content(g, p, guest[g].pages);
			uint8_t *page = guest[g].ram + p * PAGE_BYTES;

			if (seed)
				page_fill(page, seed);
			else
				memset(page, 0, PAGE_BYTES);
		}
}

static size_t guests_wrong(void)
{
	size_t wrong = 0;

	for (unsigned g = 0; g < guests; g++)
		for (size_t p = 0; p < guest[g].pages; p++) {
			uint64_t seed = content(g, p, guest[g].pages);
			uint8_t *page = guest[g].ram + p * PAGE_BYTES;

			if (seed ? !page_holds(page, seed)
				 : page[0] | page[4095])
				wrong++;
		}
	return wrong;
}

/* Pages whose content some other page has too, counted without us. */
static size_t guests_equal(void)
{
	size_t pages = guest[0].pages, equal = 0;
	uint8_t *times = calloc(pages + 2, 1);

	for (unsigned g = 0; g < guests; g++)
		for (size_t p = 0; p < pages; p++)
			if (content(g, p, pages) <= pages)
				times[content(g, p, pages)]++;
	for (size_t seed = 1; seed <= pages; seed++)
		equal += times[seed] > 1 ? times[seed] : 0;
	free(times);
	return equal;
}

static struct mm_stats sum_stats(void)
{
	struct mm_stats all = {0}, one;

	for (unsigned g = 0; g < guests; g++) {
		mm_stats(guest[g].mm, &one);
#define FIELD(name, unit, help) all.name += one.name;
		MM_STATS(FIELD, FIELD)
#undef FIELD
	}
	return all;
}

static void print_cost(uint64_t cpu_ns)
{
	struct mm_stats st = sum_stats();
	struct domain_stats ds;

	domain_stats(dom, &ds);
	printf("pages %lu shared %lu frames %lu zero %lu private %lu vmas %lu; "
	       "cpu %.2f s, %.2f us a merged page; domain metadata %lu index "
	       "%lu for %lu\n",
	       st.ram_pages, st.shared_pages, ds.frames, st.zero_pages,
	       st.private_pages, st.vmas, (double)cpu_ns / 1e9,
	       (double)cpu_ns / 1e3 / (double)(st.merged_pages + 1),
	       ds.metadata_bytes, ds.index_bytes, ds.index_entries);
}

/* In any order, over chunks, and up to the first that is not there. */
START_TEST(pages_are_read_up_to_one_that_is_not_there)
{
	static const gfn_t gfn[] = {{5}, {3}, {CHUNK_PAGES + 7}, {4}, {9}, {6}};
	static uint8_t out[6][PAGE_BYTES];
	const gfn_t beyond = {(uint64_t)1 << 30}, gone[] = {{4}, {5}, {3}};

	machine_start(1, 2 * CHUNK_BYTES);
	for (size_t i = 0; i < 6; i++)
		if (gfn[i].n != 9)
			page_fill(guest[0].ram + gfn[i].n * PAGE_BYTES,
				  gfn[i].n);
	run_ms(100);
	ck_assert_uint_eq(mm_pages_read(guest[0].mm, gfn, 6, out), 4);
	for (size_t i = 0; i < 4; i++)
		ck_assert(page_holds(out[i], gfn[i].n));
	ck_assert_uint_eq(mm_pages_read(guest[0].mm, &gfn[5], 1, out), 1);
	ck_assert_uint_eq(mm_pages_read(guest[0].mm, &gfn[4], 2, out), 0);
	ck_assert_uint_eq(mm_pages_read(guest[0].mm, &beyond, 1, out), 0);
	/* Discarded, and not seen yet: whoever read it might wait for good. */
	ck_assert_int_eq(madvise(guest[0].ram + 5 * PAGE_BYTES, PAGE_BYTES,
				 MADV_DONTNEED),
			 0);
	ck_assert_uint_eq(mm_pages_read(guest[0].mm, gone, 3, out), 1);
	machine_stop();
}
END_TEST

/* hvd would see it too, but hold it against the agent. */
START_TEST(page_that_changed_is_declined)
{
	struct {
		struct wire_head head;
		struct wire_want want;
	} msg = {.head = {WIRE_VERSION, WIRE_WANT, sizeof(msg)},
		 .want = {.page = 3}};
	struct domain_stats ds;

	machine_start(1, CHUNK_BYTES);
	page_fill(guest[0].ram + 3 * PAGE_BYTES, 3);
	run_ms(100);
	msg.want.hash =
		sharing_hash(domain_secret(dom), guest[0].ram + 3 * PAGE_BYTES);
	page_fill(guest[0].ram + 3 * PAGE_BYTES, 4);
	share_want(guest[0].sh, &msg.head);
	run_ms(100);
	domain_stats(dom, &ds);
	ck_assert_uint_eq(ds.declines, 1);
	ck_assert_uint_eq(ds.publish_unwanted, 0);
	machine_stop();
}
END_TEST

START_TEST(equal_pages_end_in_one_frame)
{
	const char *mb = getenv("SHARE_MB");
	size_t bytes = (mb ? strtoul(mb, NULL, 10) : 16) << 20;
	struct domain_stats ds;
	struct mm_stats st;
	uint64_t cpu;

	machine_start(3, bytes);
	guests_fill();
	cpu = host_real.thread_cpu_ns();
	run_ms(mb ? 8000 : 8000);
	print_cost(host_real.thread_cpu_ns() - cpu);
	st = sum_stats();
	domain_stats(dom, &ds);
	ck_assert_uint_ge(st.zero_pages, 3 * guest[0].pages / 10 - 64);
	ck_assert_uint_eq(st.shared_pages, guests_equal());
	ck_assert_uint_eq(ds.sharing_pages, st.shared_pages);
	ck_assert_uint_le(ds.frames, guest[0].pages);
	ck_assert_uint_eq(guests_wrong(), 0);
	ck_assert(domain_is_sound(dom));
	for (unsigned g = 0; g < guests; g++)
		ck_assert_int_eq(mm_check(guest[g].mm), 0);
	machine_stop();
}
END_TEST

START_TEST(write_storm_on_shared_pages_loses_nothing)
{
	struct domain_stats ds;

	machine_start(2, 8 << 20);
	guests_fill();
	run_ms(8000);
	ck_assert_uint_gt(sum_stats().shared_pages, 1000);
	for (size_t p = 0; p < guest[0].pages; p++)
		page_fill(guest[0].ram + p * PAGE_BYTES, ~p);
	run_ms(4000);
	ck_assert_uint_gt(sum_stats().cow_breaks, 500);
	for (size_t p = 0; p < guest[0].pages; p++)
		ck_assert(page_holds(guest[0].ram + p * PAGE_BYTES, ~p));
	/* The other guest's pages are what they were. */
	guests_fill();
	ck_assert_uint_eq(guests_wrong(), 0);
	run_ms(20000);
	domain_stats(dom, &ds);
	ck_assert_uint_eq(ds.sharing_pages, sum_stats().shared_pages);
	ck_assert_uint_gt(sum_stats().collected_pages, 0);
	ck_assert_uint_eq(guests_wrong(), 0);
	machine_stop();
}
END_TEST

START_TEST(hint_is_offered_without_a_second_look)
{
	machine_start(2, 4 << 20);
	for (unsigned g = 0; g < 2; g++)
		for (size_t p = 0; p < 32; p++)
			page_fill(guest[g].ram + p * PAGE_BYTES, p + 1);
	for (unsigned g = 0; g < 2; g++)
		share_hint(guest[g].sh, hva_of(guest[g].ram), 32 * PAGE_BYTES);
	run_ms(1000); /* the second pass comes after two seconds */
	ck_assert_uint_eq(sum_stats().shared_pages, 64);
	machine_stop();
}
END_TEST

START_TEST(have_tells_every_reference)
{
	struct domain_stats before, after;

	machine_start(2, 8 << 20);
	guests_fill();
	run_ms(8000);
	domain_stats(dom, &before);
	for (unsigned g = 0; g < guests; g++)
		share_stop(guest[g].sh);
	/* The same domain counts them again on top of what it has. */
	for (unsigned g = 0; g < guests; g++)
		ck_assert_int_eq(share_send_have(guest[g].sh), 0);
	domain_stats(dom, &after);
	ck_assert_uint_eq(after.sharing_pages, 2 * before.sharing_pages);
	machine_stop();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("real_share");
	TCase *tc = tcase_create("end to end");

	fault_host_need();
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, pages_are_read_up_to_one_that_is_not_there);
	tcase_add_test(tc, page_that_changed_is_declined);
	tcase_add_test(tc, equal_pages_end_in_one_frame);
	tcase_add_test(tc, write_storm_on_shared_pages_loses_nothing);
	tcase_add_test(tc, hint_is_offered_without_a_second_look);
	tcase_add_test(tc, have_tells_every_reference);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
