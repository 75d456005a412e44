/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answering page faults on pages that are out.
 *
 * Several threads can read one userfaultfd, and the kernel wakes all that wait
 * for it, for one event. So one thread watches and the others are parked: a
 * wake-up nobody needs costs more than the answer. Another is called when the
 * watcher may have to sleep with a fault in its hands (a chunk's lock, the swap
 * file), and when faults come faster than one answers them. Who watches beside
 * others and wakes in vain a few times parks again.
 *
 *   threads = watching + parked + away with a fault,  watching >= 1 unless
 *   every other one is away
 *
 * The chunk's lock orders an answer against a take: whoever holds it
 * decides, and a fault that finds its page already back only wakes. So an event
 * may come late, twice, or for a mapping long gone, and nothing is lost:
 *
 *   -EEXIST  the page is there already: wake
 *   -EAGAIN  the address space is changing under us: again
 *   -ENOENT  the mapping is gone: wake, the access will see what is there now
 *   -ENOMEM  the host is out of memory: wait, again
 *
 * While faults are frequent the watcher looks again without sleeping, for a
 * short while (fault_poll_ns): a sleeper's wake-up is most of what a fault
 * costs. It yields between two looks, since whoever waits for the answer may
 * need this very processor.
 *
 * Dropped: a thread bound to the processor of the one that faults. That is as
 * fast, until one of them must move: then a fault waits for its processor's
 * other tenants, milliseconds.
 *
 * A page whose bytes cannot be given back (a broken store or swap file) is
 * never replaced by zeros: its reader keeps waiting, and the log says so.
 */
#include "hv/mm/core.h"
#include "hv/mm/take.h"

#include "hv/base/log.h"
#include "hv/base/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BATCH		  2 /* the second shows that one is not enough */
#define VAIN_MAX	  4
#define FULL_MAX	  8
#define FREQUENT(poll_ns) (4 * (poll_ns))
#define YIELD_LONG_NS	  200000
#define YIELD_REST_NS	  100000000
#define POLL_REST_NS	  1000000
#define SLICE_NS	  100000 /* the shortest the kernel grants */
#define CPU_NOTE_NS	  1000000
#define NO_MEMORY_REST_NS 1000000

/* ---- the store ---- */

void store_drop(struct mm *mm, const struct spot *s)
{
	struct tmem_oid oid = store_oid();

	tmem_flush_page(mm->client, mm->store_pool, &oid, store_index(s));
}

int store_fetch(struct mm *mm, const struct spot *s, uint8_t *buf)
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

/*
 * Gone mapping or page already there: nothing more to do for it, but nobody has
 * woken who waits. (COPY, ZEROPAGE and MOVE do when they succeed.)
 */
static bool answered(struct mm *mm, const struct spot *s, int rc)
{
	if (rc == 0)
		return true;
	if (rc != -EEXIST && rc != -ENOENT && rc != -ESRCH)
		return false;
	mm->host->uffd_wake(mm->uffd, hva_ptr(spot_hva(s)), PAGE_BYTES);
	return true;
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
	if (!answered(mm, s, rc))
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
		if (!answered(mm, s, rc))
			return rc;
		set_private(mm, s, true);
		return 0;
	case PAGE_ZERO:
	case PAGE_ABSENT:
		COUNT(mm, faults_zero, 1);
		rc = zero_in(mm, s);
		if (!answered(mm, s, rc))
			return rc;
		set_private(mm, s, false);
		return 0;
	default:
		return -EEXIST;
	}
}

/*
 * A private page may be missing too: discarded where we could not see it.
 * Returns whether the kernel has woken who waits: COPY, ZEROPAGE and MOVE do.
 * buf: AHEAD_MAX pages.
 */
static bool answer_missing(struct mm *mm, const struct spot *s, uint8_t *buf)
{
	enum page_state state = page_state(spot_word(s));
	int rc = fault_bring_back(mm, s, buf);

	if (rc == 0 && (state == PAGE_COMPRESSED || state == PAGE_HELD))
		ahead_fetch(mm, s, state, buf);
	if (rc != -EEXIST)
		return rc == 0;
	COUNT(mm, faults_stale, 1);
	if (page_state(spot_word(s)) == PAGE_PRIVATE)
		zero_in(mm, s);
	return false;
}

/* ---- who watches ---- */

/* Lock held. The called one counts as watching from now on. */
static void watch_call_locked(struct mm *mm)
{
	for (unsigned i = 0; i < mm->fault_threads; i++) {
		struct fault_thread *t = &mm->fault[i];

		if (!t->parked)
			continue;
		t->parked = false;
		mm->watching++;
		pthread_cond_signal(&t->call);
		return;
	}
}

static void watch_call(struct mm *mm)
{
	pthread_mutex_lock(&mm->watch_lock);
	watch_call_locked(mm);
	pthread_mutex_unlock(&mm->watch_lock);
}

/* About to sleep with a fault in hand. */
static void watch_leave(struct fault_thread *me)
{
	struct mm *mm = me->mm;

	if (me->away)
		return;
	me->away = true;
	pthread_mutex_lock(&mm->watch_lock);
	if (--mm->watching == 0)
		watch_call_locked(mm);
	pthread_mutex_unlock(&mm->watch_lock);
}

static void watch_come_back(struct fault_thread *me)
{
	if (!me->away)
		return;
	me->away = false;
	pthread_mutex_lock(&me->mm->watch_lock);
	me->mm->watching++;
	pthread_mutex_unlock(&me->mm->watch_lock);
}

/* Unless nobody else watches. Returns when called. */
static void watch_park(struct fault_thread *me)
{
	struct mm *mm = me->mm;

	pthread_mutex_lock(&mm->watch_lock);
	if (mm->watching > 1) {
		mm->watching--;
		me->parked = true;
	}
	while (me->parked && !mm->stopping)
		pthread_cond_wait(&me->call, &mm->watch_lock);
	pthread_mutex_unlock(&mm->watch_lock);
}

/* ---- one fault ---- */

/* The store answers at once; the disk does not, nor does a chunk at work. */
static void chunk_enter(struct fault_thread *me, const struct spot *s)
{
	if (pthread_mutex_trylock(&s->chunk->lock)) {
		watch_leave(me);
		pthread_mutex_lock(&s->chunk->lock);
	}
	if (page_state(spot_word(s)) == PAGE_SWAPPED)
		watch_leave(me);
}

static void answer(struct fault_thread *me, const struct host_fault *f)
{
	struct mm *mm = me->mm;
	struct spot s;
	bool woken = false;

	COUNT(mm, faults, 1);
	if (!map_find_hva(&mm->map, f->hva, &s)) {
		COUNT(mm, faults_stale, 1);
		goto wake;
	}
	chunk_enter(me, &s);
	if (f->kind == HOST_FAULT_PROTECTED)
		mm->host->uffd_protect(mm->uffd, hva_ptr(f->hva), PAGE_BYTES,
				       false);
	else
		woken = answer_missing(mm, &s, me->page);
	pthread_mutex_unlock(&s.chunk->lock);
wake:
	if (!woken)
		mm->host->uffd_wake(mm->uffd, hva_ptr(f->hva), PAGE_BYTES);
}

/* ---- waiting for the next ---- */

static size_t faults_poll(struct fault_thread *me, struct host_fault *f)
{
	struct mm *mm = me->mm;
	uint64_t now = mm->host->now_ns(), until = now + mm->poll_ns, was;
	size_t n = 0;

	for (;;) {
		mm->host->uffd_read(mm->uffd, f, BATCH, &n);
		if (n)
			return n;
		was = now;
		mm->host->thread_yield();
		now = mm->host->now_ns();
		if (now - was >= YIELD_LONG_NS)
			me->poll_from_ns = now + YIELD_REST_NS;
		else if (now >= until)
			me->poll_from_ns = now + POLL_REST_NS;
		else
			continue;
		return 0;
	}
}

static size_t faults_next(struct fault_thread *me, struct host_fault *f)
{
	struct mm *mm = me->mm;
	size_t n = 0;

	if (me->frequent && me->answered_ns >= me->poll_from_ns)
		n = faults_poll(me, f);
	if (!n && mm->host->uffd_wait(mm->uffd, mm->stop_fd) == 0)
		mm->host->uffd_read(mm->uffd, f, BATCH, &n);
	return n;
}

/* ---- threads ---- */

static void batch_answer(struct fault_thread *me, const struct host_fault *f,
			 size_t n)
{
	struct mm *mm = me->mm;
	uint64_t since = mm->host->now_ns();

	me->frequent = n && since - me->answered_ns < FREQUENT(mm->poll_ns);
	for (size_t i = 0; i < n; i++) {
		answer(me, &f[i]);
		me->answered_ns = mm->host->now_ns();
		histogram_add(&me->wait, me->answered_ns - since);
	}
	/* A system call each time would be a part of every fault. */
	if (since - me->cpu_noted_ns >= CPU_NOTE_NS) {
		me->cpu_ns = mm->host->thread_cpu_ns();
		me->cpu_noted_ns = since;
	}
}

static void *fault_loop(void *arg)
{
	struct fault_thread *me = arg;
	struct mm *mm = me->mm;
	struct host_fault f[BATCH];
	unsigned vain = 0, full = 0;

	mm->host->thread_slice(SLICE_NS);
	watch_park(me);
	while (!mm->stopping) {
		size_t n = faults_next(me, f);

		vain = n ? 0 : vain + 1;
		full = n == BATCH ? full + 1 : 0;
		if (full == FULL_MAX)
			watch_call(mm);
		batch_answer(me, f, n);
		watch_come_back(me);
		if (vain >= VAIN_MAX) {
			vain = 0;
			watch_park(me);
		}
	}
	return NULL;
}

int fault_threads_start(struct mm *mm, unsigned n)
{
	int rc = 0;

	if (n > FAULT_THREADS_MAX)
		n = FAULT_THREADS_MAX;
	pthread_mutex_init(&mm->watch_lock, NULL);
	mm->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (mm->stop_fd < 0)
		return -errno;
	mm->fault = aligned_alloc(4096, n * sizeof(*mm->fault));
	if (!mm->fault) {
		close(mm->stop_fd);
		return -ENOMEM;
	}
	pthread_mutex_lock(&mm->watch_lock);
	for (unsigned i = 0; i < n && rc == 0; i++) {
		struct fault_thread *t = &mm->fault[i];

		/* Its buffer is memory only once it is used. */
		memset(t, 0, offsetof(struct fault_thread, page));
		t->mm = mm;
		pthread_cond_init(&t->call, NULL);
		rc = thread_start(&t->id, fault_loop, t);
		if (rc == 0) {
			mm->fault_threads++;
			mm->watching++;
		}
	}
	pthread_mutex_unlock(&mm->watch_lock);
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
	pthread_mutex_lock(&mm->watch_lock);
	for (unsigned i = 0; i < mm->fault_threads; i++)
		pthread_cond_signal(&mm->fault[i].call);
	pthread_mutex_unlock(&mm->watch_lock);
	for (unsigned i = 0; i < mm->fault_threads; i++) {
		pthread_join(mm->fault[i].id, NULL);
		pthread_cond_destroy(&mm->fault[i].call);
	}
	pthread_mutex_destroy(&mm->watch_lock);
	mm->fault_threads = 0;
	mm->watching = 0;
	free(mm->fault);
	mm->fault = NULL;
	close(mm->stop_fd);
}
