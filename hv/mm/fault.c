/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answering page faults on pages that are out.
 *
 * Several threads read one userfaultfd; the kernel gives each event to one of
 * them. The chunk's lock orders an answer against a take: whoever holds it
 * decides, and a fault that finds its page already back only wakes. So an event
 * may come late, twice, or for a mapping long gone, and nothing is lost:
 *
 *   -EEXIST  the page is there already: wake
 *   -EAGAIN  the address space is changing under us: again
 *   -ENOENT  the mapping is gone: wake, the access will see what is there now
 *   -ENOMEM  the host is out of memory: wait, again
 *
 * A thread that answered a fault a moment ago looks again without sleeping, for
 * a short while: a sleeper's wake-up is most of what a fault costs.
 *
 * A page whose bytes cannot be given back (a broken store or swap file) is
 * never replaced by zeros: its reader keeps waiting, and the log says so.
 */
#include "hv/mm/core.h"
#include "hv/mm/take.h"

#include "hv/base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BATCH		  16
#define STACK_BYTES	  ((size_t)128 << 10)
#define SPIN_NS		  30000
#define NO_MEMORY_REST_NS 1000000

/* ---- the store ---- */

void store_drop(struct mm *mm, const struct spot *s)
{
	struct tmem_oid oid = store_oid();

	tmem_flush_page(mm->client, mm->store_pool, &oid, store_index(s));
}

static int store_fetch(struct mm *mm, const struct spot *s, uint8_t *buf)
{
	struct tmem_oid oid = store_oid();

	return tmem_get(mm->client, mm->store_pool, &oid, store_index(s), buf);
}

void page_let_go(struct mm *mm, const struct spot *s, struct releases *rel)
{
	uint64_t w = spot_word(s);

	if (page_state(w) == PAGE_SHARED)
		releases_add(rel, (uint32_t)page_payload(w));
	else if (page_state(w) == PAGE_COMPRESSED)
		store_drop(mm, s);
	else if (page_state(w) == PAGE_SWAPPED)
		swap_free(mm->swap, page_payload(w));
}

/* ---- one page ---- */

static void rest(uint64_t ns)
{
	struct timespec ts = {.tv_nsec = (long)ns};

	nanosleep(&ts, NULL);
}

int fault_copy_in(struct mm *mm, void *to, const void *from, size_t bytes)
{
	size_t done;
	int rc;

	for (;;) {
		rc = mm->host->uffd_copy(mm->uffd, to, from, bytes, &done);
		to = (uint8_t *)to + done;
		from = (const uint8_t *)from + done;
		bytes -= done;
		if (!bytes)
			return 0;
		if (rc == -ENOMEM)
			rest(NO_MEMORY_REST_NS);
		else if (rc != -EAGAIN && !done)
			return rc;
	}
}

static int copy_in(struct mm *mm, const struct spot *s, const uint8_t *buf)
{
	return fault_copy_in(mm, hva_ptr(spot_hva(s)), buf, PAGE_BYTES);
}

static int zero_in(struct mm *mm, const struct spot *s)
{
	void *to = hva_ptr(spot_hva(s));
	size_t done;
	int rc;

	for (;;) {
		rc = mm->host->uffd_zero(mm->uffd, to, PAGE_BYTES, &done);
		if (rc == -ENOMEM)
			rest(NO_MEMORY_REST_NS);
		else if (rc != -EAGAIN)
			return rc;
	}
}

static int held_in(struct mm *mm, const struct spot *s)
{
	void *to = hva_ptr(spot_hva(s));
	size_t done;
	int rc;

	do
		rc = mm->host->uffd_move(mm->uffd, to, held_ptr(s), PAGE_BYTES,
					 &done);
	while (rc == -EAGAIN);
	if (rc == -EBUSY || rc == -EINVAL)
		rc = copy_in(mm, s, held_ptr(s));
	return rc;
}

static void set_private(struct mm *mm, const struct spot *s, bool hotter)
{
	unsigned heat = page_heat(spot_word(s));

	if (hotter && heat < PAGE_HEAT_MAX)
		heat++;
	spot_set_word(mm, s, page_word(PAGE_PRIVATE, 0, heat, 0, 0));
}

/* Gone mapping or page already there: nothing more to do for it. */
static bool answered(int rc)
{
	return rc == 0 || rc == -EEXIST || rc == -ENOENT || rc == -ESRCH;
}

static int fetch_in(struct mm *mm, const struct spot *s, uint8_t *buf)
{
	uint64_t w = spot_word(s);
	bool swapped = page_state(w) == PAGE_SWAPPED;
	int rc = swapped ? swap_read(mm->swap, page_payload(w), buf)
			 : store_fetch(mm, s, buf);

	if (rc < 0) {
		COUNT(mm, faults_lost, 1);
		log_error("page %#lx cannot be read back from the %s (%d); "
			  "whoever needs it waits",
			  (unsigned long)range_gfn(s->range, s->page).n,
			  swapped ? "swap file" : "store", rc);
		return rc;
	}
	rc = copy_in(mm, s, buf);
	if (!answered(rc))
		return rc;
	if (swapped)
		swap_free(mm->swap, page_payload(w));
	else
		store_drop(mm, s);
	set_private(mm, s, true);
	return 0;
}

int fault_bring_back(struct mm *mm, const struct spot *s, uint8_t *buf)
{
	int rc;

	switch (page_state(spot_word(s))) {
	case PAGE_COMPRESSED:
		COUNT(mm, faults_compressed, 1);
		return fetch_in(mm, s, buf);
	case PAGE_SWAPPED:
		COUNT(mm, faults_swapped, 1);
		return fetch_in(mm, s, buf);
	case PAGE_HELD:
		COUNT(mm, faults_held, 1);
		s->chunk->returned++;
		rc = held_in(mm, s);
		if (answered(rc))
			set_private(mm, s, true);
		return answered(rc) ? 0 : rc;
	case PAGE_ZERO:
	case PAGE_ABSENT:
		COUNT(mm, faults_zero, 1);
		rc = zero_in(mm, s);
		if (answered(rc))
			set_private(mm, s, false);
		return answered(rc) ? 0 : rc;
	default:
		return -EEXIST;
	}
}

/* A private page may be missing too: discarded where we could not see it. */
static void answer_missing(struct mm *mm, const struct spot *s, uint8_t *buf)
{
	int rc = fault_bring_back(mm, s, buf);

	if (rc == -EEXIST) {
		COUNT(mm, faults_stale, 1);
		if (page_state(spot_word(s)) == PAGE_PRIVATE)
			zero_in(mm, s);
	}
}

static void answer(struct mm *mm, const struct host_fault *f, uint8_t *buf)
{
	struct spot s;

	COUNT(mm, faults, 1);
	if (!map_find_hva(&mm->map, f->hva, &s)) {
		COUNT(mm, faults_stale, 1);
		goto wake;
	}
	pthread_mutex_lock(&s.chunk->lock);
	if (f->kind == HOST_FAULT_PROTECTED)
		mm->host->uffd_protect(mm->uffd, hva_ptr(f->hva), PAGE_BYTES,
				       false);
	else
		answer_missing(mm, &s, buf);
	pthread_mutex_unlock(&s.chunk->lock);
wake:
	mm->host->uffd_wake(mm->uffd, hva_ptr(f->hva), PAGE_BYTES);
}

/* ---- threads ---- */

static size_t next_batch(struct mm *mm, struct host_fault *f, bool busy)
{
	uint64_t until = busy ? mm->host->now_ns() + SPIN_NS : 0;
	size_t n = 0;

	do {
		mm->host->uffd_read(mm->uffd, f, BATCH, &n);
	} while (!n && until && mm->host->now_ns() < until);
	if (!n && mm->host->uffd_wait(mm->uffd, mm->stop_fd) == 0)
		mm->host->uffd_read(mm->uffd, f, BATCH, &n);
	return n;
}

static void *fault_loop(void *arg)
{
	struct fault_thread *me = arg;
	struct mm *mm = me->mm;
	struct host_fault f[BATCH];
	bool busy = false;

	while (!mm->stopping) {
		size_t n = next_batch(mm, f, busy);
		uint64_t since = mm->host->now_ns();

		for (size_t i = 0; i < n; i++) {
			answer(mm, &f[i], me->page);
			histogram_add(&me->wait, mm->host->now_ns() - since);
		}
		busy = n > 0;
		if (n || !me->cpu_ns)
			me->cpu_ns = mm->host->thread_cpu_ns();
	}
	return NULL;
}

static int thread_start(struct fault_thread *t, const pthread_attr_t *attr)
{
	sigset_t all, was;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	r = pthread_create(&t->id, attr, fault_loop, t);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	return -r;
}

int fault_threads_start(struct mm *mm, unsigned n)
{
	pthread_attr_t attr;
	int rc = 0;

	if (n > FAULT_THREADS_MAX)
		n = FAULT_THREADS_MAX;
	mm->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (mm->stop_fd < 0)
		return -errno;
	mm->fault = aligned_alloc(4096, n * sizeof(*mm->fault));
	if (!mm->fault) {
		close(mm->stop_fd);
		return -ENOMEM;
	}
	memset(mm->fault, 0, n * sizeof(*mm->fault));
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (unsigned i = 0; i < n && rc == 0; i++) {
		mm->fault[i].mm = mm;
		rc = thread_start(&mm->fault[i], &attr);
		if (rc == 0)
			mm->fault_threads++;
	}
	pthread_attr_destroy(&attr);
	if (rc < 0)
		fault_threads_stop(mm);
	return rc;
}

void fault_threads_stop(struct mm *mm)
{
	uint64_t one = 1;

	mm->stopping = true;
	if (write(mm->stop_fd, &one, sizeof(one)) < 0)
		log_error("cannot stop the fault threads");
	for (unsigned i = 0; i < mm->fault_threads; i++)
		pthread_join(mm->fault[i].id, NULL);
	mm->fault_threads = 0;
	free(mm->fault);
	mm->fault = NULL;
	close(mm->stop_fd);
}
