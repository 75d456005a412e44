/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See extent.h. The life of an extent:
 *
 *   announced --> WAIT --judge--> FIT --adopt--> MANAGED
 *                  |               |                |
 *                  +---------------+----------------+--> LEFT (slot kept: not
 *                                                        announced twice)
 *   munmap, mmap over it: out of the table
 *
 * WAIT: QEMU says MADV_MERGEABLE, then MADV_HUGEPAGE, then MADV_DONTFORK. The
 * worker judges an extent once DONTFORK was seen, or after a second without;
 * what the kernel says of the memory then (maps.c) decides. FIT: it may be
 * managed as soon as hvd and a manager are there.
 *
 *   [mlo, mhi) = [lo, hi) trimmed to whole chunks, once mm has it; else empty
 *
 * mm never forgets memory but by munmap: a page that went private in an overlay
 * would show the frame again if it were discarded behind mm's back. So discards
 * of [mlo, mhi) go to mm for ever, in state LEFT as well.
 *
 * The lock is held for reading while a thread is inside mm on an extent's
 * behalf, for writing when the table changes or the worker needs quiet. It is
 * never held over a guest's or a device's wait, with one bounded exception:
 * extent_adopt waits a few ms for direct reads in flight, since one that began
 * before mm knew the memory could land in a page that mm has copied away.
 *
 * Lock order: extent lock, then everything of mm. mm's own threads never take
 * it. A writer goes first, or a balloon at work would keep it out.
 */
#include "hv/agent/extent.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "hv/agent/agent.h"
#include "hv/agent/maps.h"
#include "hv/agent/real.h"
#include "hv/base/log.h"
#include "hv/mm/page.h"
#include "sharing/share.h"

#define EXTENTS_MAX    64
#define KEEP_WAIT_NS   ((uint64_t)1000000000) /* for MADV_DONTFORK */
#define READS_WAIT_MS  20
#define HINT_BYTES_MIN 4096

enum state { EXTENT_WAIT, EXTENT_FIT, EXTENT_MANAGED, EXTENT_LEFT };

struct extent {
	uintptr_t lo, hi;
	uintptr_t mlo, mhi;
	enum state state;
	enum extent_origin origin;
	bool kept;   /* MADV_DONTFORK was seen */
	bool pinned; /* by a device, before it was managed */
	uint64_t since_ns;
};

static pthread_rwlock_t lock =
	PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static struct extent table[EXTENTS_MAX];
static unsigned count;
static struct mm *manager;
static _Atomic(struct share *) sharer;
static atomic_uint reads_waiting; /* direct, into extents not yet managed */
static atomic_bool copy_takes_off;

atomic_uintptr_t extent_lowest = UINTPTR_MAX;
atomic_uintptr_t extent_highest = 0;

/* ---- the table [lock held] ---------------------------------------------- */

static bool overlaps(const struct extent *e, uintptr_t lo, uintptr_t hi)
{
	return e->lo < hi && lo < e->hi;
}

static uintptr_t chunk_up(uintptr_t at)
{
	return (at + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1);
}

static uintptr_t chunk_down(uintptr_t at)
{
	return at & ~(CHUNK_BYTES - 1);
}

static int min_int(int a, int b)
{
	return a < b ? a : b;
}

static uintptr_t page_end(uintptr_t at, size_t bytes)
{
	return (at + bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

static struct extent *extent_find(uintptr_t lo, uintptr_t hi)
{
	for (unsigned i = 0; i < count; i++)
		if (overlaps(&table[i], lo, hi))
			return &table[i];
	return NULL;
}

static void bounds_widen(uintptr_t lo, uintptr_t hi)
{
	if (lo < extent_lowest)
		extent_lowest = lo;
	if (hi > extent_highest)
		extent_highest = hi;
}

static bool extent_insert(const struct extent *e)
{
	if (count == EXTENTS_MAX)
		return false;
	table[count++] = *e;
	bounds_widen(e->lo, e->hi);
	return true;
}

static void extent_erase(struct extent *e)
{
	*e = table[--count];
}

/* Back to plain memory, for good. mm goes on answering for its pages. */
static int extent_restore(struct extent *e)
{
	int rc = 0;

	if (e->state == EXTENT_MANAGED)
		rc = mm_range_remove(manager, (hva_t){e->mlo}, e->mhi - e->mlo);
	if (!rc)
		e->state = EXTENT_LEFT;
	return rc;
}

/* ---- what the VMM says [any] --------------------------------------------- */

static uint64_t clock_ns(void)
{
	return host_real.now_ns();
}

bool extent_announce(const void *addr, size_t bytes, enum extent_origin origin)
{
	struct extent fresh = {.lo = (uintptr_t)addr,
			       .hi = (uintptr_t)addr + bytes,
			       .origin = origin,
			       .since_ns = clock_ns()};
	struct extent *old;
	bool ours;

	pthread_rwlock_wrlock(&lock);
	old = extent_find(fresh.lo, fresh.hi);
	if (old)
		ours = old->state != EXTENT_LEFT && old->lo <= fresh.lo &&
		       fresh.hi <= old->hi;
	else
		ours = extent_insert(&fresh);
	pthread_rwlock_unlock(&lock);
	return ours;
}

void extent_kept_from_children(const void *addr, size_t bytes)
{
	uintptr_t lo = (uintptr_t)addr, hi = page_end(lo, bytes);

	pthread_rwlock_wrlock(&lock);
	for (unsigned i = 0; i < count; i++)
		if (lo <= table[i].lo && table[i].hi <= hi)
			table[i].kept = true;
	pthread_rwlock_unlock(&lock);
	agent_wake();
}

/* The end of the piece that begins at `at`, all of it with mm or none. */
static uintptr_t piece_end(uintptr_t at, uintptr_t hi, bool *with_mm_out)
{
	uintptr_t end = hi;

	*with_mm_out = false;
	for (unsigned i = 0; i < count; i++) {
		const struct extent *e = &table[i];

		if (e->mhi <= at || e->mlo >= hi)
			continue;
		if (e->mlo <= at) {
			*with_mm_out = true;
			return min_u64(hi, e->mhi);
		}
		end = min_u64(end, e->mlo);
	}
	return end;
}

static int piece_discard(uintptr_t lo, uintptr_t hi, bool with_mm, int advice)
{
	int rc = -ENOENT;

	if (with_mm)
		rc = mm_discard(manager, (hva_t){lo}, hi - lo, true);
	if (rc == -ENOENT)
		return real.madvise((void *)lo, hi - lo, advice);
	errno = -rc;
	return rc ? -1 : 0;
}

int extent_discard(void *addr, size_t bytes, int advice)
{
	uintptr_t at = (uintptr_t)addr, hi = page_end(at, bytes), end;
	bool with_mm;
	int r = 0;

	if (at % PAGE_BYTES || hi < at)
		return real.madvise(addr, bytes, advice);
	pthread_rwlock_rdlock(&lock);
	for (; !r && at < hi; at = end) {
		end = piece_end(at, hi, &with_mm);
		r = piece_discard(at, end, with_mm, advice);
	}
	pthread_rwlock_unlock(&lock);
	return r;
}

/* Brings back what touches [lo, hi). 0 or -errno. [lock held] */
static int extents_restore(uintptr_t lo, uintptr_t hi, bool *hit_out)
{
	int rc = 0;

	*hit_out = false;
	for (unsigned i = 0; i < count; i++) {
		if (!overlaps(&table[i], lo, hi))
			continue;
		*hit_out |= table[i].state != EXTENT_LEFT;
		rc = min_int(rc, extent_restore(&table[i]));
	}
	return rc;
}

int extent_leave(const void *addr, size_t bytes, const char *why)
{
	uintptr_t lo = (uintptr_t)addr;
	bool hit;
	int rc;

	pthread_rwlock_wrlock(&lock);
	rc = extents_restore(lo, page_end(lo, bytes), &hit);
	pthread_rwlock_unlock(&lock);
	if (rc)
		log_error("guest RAM cannot be brought back: %s",
			  strerror(-rc));
	else if (hit && why)
		agent_unmanaged_say("%s", why);
	errno = -rc;
	return rc ? -1 : 0;
}

int extent_leave_all(const char *why)
{
	return extent_leave((void *)0, UINTPTR_MAX - PAGE_BYTES, why);
}

/* Populates and locks guest RAM; errors are those of a machine short of it. */
static int extents_lock(void)
{
	int r = 0;

	pthread_rwlock_rdlock(&lock);
	for (unsigned i = 0; !r && i < count; i++)
		r = real.mlock((void *)table[i].lo, table[i].hi - table[i].lo);
	pthread_rwlock_unlock(&lock);
	return r;
}

/*
 * A plain mlockall would also fill all that mm has mapped for itself: the whole
 * frame pool, and bench memory that waits for pages to be moved there, for
 * ever. So everything is locked as it is touched, and guest RAM filled by hand.
 */
int extent_lock_all(int flags)
{
	if (extent_leave_all("all memory is locked (mlockall)"))
		return -1;
	if (!manager || flags & MCL_ONFAULT)
		return real.mlockall(flags);
	if (real.mlockall(flags | MCL_ONFAULT))
		return -1;
	return flags & MCL_CURRENT ? extents_lock() : 0;
}

static uintptr_t clamp(uintptr_t at, uintptr_t lo, uintptr_t hi)
{
	return at < lo ? lo : at > hi ? hi : at;
}

/* The part of e in [lo, hi), if any, becomes an extent of its own. */
static void extent_part_add(const struct extent *e, uintptr_t lo, uintptr_t hi)
{
	struct extent part = *e;

	if (hi <= lo)
		return;
	part.lo = lo;
	part.hi = hi;
	part.mlo = clamp(e->mlo, lo, hi);
	part.mhi = clamp(e->mhi, lo, hi);
	if (part.mlo == part.mhi && hi - lo < AGENT_RAM_MIN)
		return;
	if (!extent_insert(&part))
		log_error("guest RAM is in more pieces than can be followed");
}

/*
 * [lo, hi) is gone, or as good as. Its mappings are the caller's to end. mm is
 * told of all of it at once: it lets go of a range only when it hears it whole.
 */
static void extents_cut(uintptr_t lo, uintptr_t hi)
{
	struct extent *found, e;
	bool with_mm = false;

	while ((found = extent_find(lo, hi))) {
		e = *found;
		extent_erase(found);
		with_mm |= e.mlo < e.mhi;
		extent_part_add(&e, e.lo, lo);
		extent_part_add(&e, hi, e.hi);
	}
	if (with_mm)
		mm_range_forget(manager, (hva_t){lo}, hi - lo);
}

/* The kernel refuses other arguments before it unmaps anything. */
static bool span_is_good(uintptr_t at, size_t bytes)
{
	return bytes && at % PAGE_BYTES == 0 && page_end(at, bytes) > at;
}

int extent_unmap(void *addr, size_t bytes)
{
	uintptr_t at = (uintptr_t)addr;
	int r;

	if (!span_is_good(at, bytes))
		return real.munmap(addr, bytes);
	pthread_rwlock_wrlock(&lock);
	extents_cut(at, page_end(at, bytes));
	r = real.munmap(addr, bytes);
	pthread_rwlock_unlock(&lock);
	return r;
}

/*
 * The call may be refused with the old memory still in place, so that is
 * brought back first, and forgotten only after.
 */
void *extent_map_fixed(void *addr, size_t bytes, int prot, int flags, int fd,
		       off_t offset)
{
	uintptr_t at = (uintptr_t)addr, hi = page_end(at, bytes);
	void *r = MAP_FAILED;
	bool hit;
	int rc;

	if (!span_is_good(at, bytes))
		return real.mmap(addr, bytes, prot, flags, fd, offset);
	pthread_rwlock_wrlock(&lock);
	rc = extents_restore(at, hi, &hit);
	if (!rc)
		r = real.mmap(addr, bytes, prot, flags, fd, offset);
	if (r != MAP_FAILED)
		extents_cut(at, hi);
	pthread_rwlock_unlock(&lock);
	if (rc)
		errno = -rc;
	else if (hit)
		agent_unmanaged_say("guest RAM was mapped over");
	return r;
}

static void pages_copy(unsigned char *to, const unsigned char *from,
		       size_t bytes)
{
	for (size_t at = 0; at < bytes; at += PAGE_BYTES)
		if (!page_is_zero(from + at))
			memcpy(to + at, from + at, PAGE_BYTES);
}

/*
 * Guest RAM under management is many mappings, which mremap cannot move as one:
 * so it is copied. Nobody can be using memory that is about to move.
 */
static void *ram_move(void *old, size_t bytes, size_t now, void *to)
{
	const int prot = PROT_READ | PROT_WRITE;
	void *fresh =
		real.mmap(NULL, now, prot,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (fresh == MAP_FAILED)
		return fresh;
	pages_copy(fresh, old, min_u64(bytes, now));
	real.madvise(fresh, now, MADV_DONTFORK);
	if (to) {
		/* Over managed memory too: munmap is what ends that. */
		extent_unmap(to, now);
		to = real.mremap(fresh, now, now, MREMAP_MAYMOVE | MREMAP_FIXED,
				 to);
		if (to == MAP_FAILED) {
			real.munmap(fresh, now);
			return to;
		}
	}
	extent_unmap(old, bytes);
	return to ? to : fresh;
}

void *extent_remap(void *old, size_t bytes, size_t now, int flags, void *to)
{
	static const char why[] = "guest RAM was moved (mremap)";
	uintptr_t at = (uintptr_t)old;
	size_t tail = (bytes - now) & ~(PAGE_BYTES - 1);

	if (!span_is_good(at, bytes) || !now || now % PAGE_BYTES ||
	    bytes % PAGE_BYTES || (uintptr_t)to % PAGE_BYTES ||
	    flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	if (now <= bytes && !(flags & MREMAP_FIXED))
		return tail && extent_unmap((char *)old + now, tail)
			       ? MAP_FAILED
			       : old;
	if (!(flags & MREMAP_MAYMOVE)) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	if (extent_leave(old, bytes, why))
		return MAP_FAILED;
	return ram_move(old, bytes, now, flags & MREMAP_FIXED ? to : NULL);
}

void extent_pin(const void *addr, size_t bytes)
{
	uintptr_t lo = (uintptr_t)addr, hi = page_end(lo, bytes);
	bool hit = false;

	pthread_rwlock_wrlock(&lock);
	for (unsigned i = 0; i < count; i++) {
		if (!overlaps(&table[i], lo, hi))
			continue;
		hit = true;
		if (table[i].state == EXTENT_MANAGED)
			mm_pin(manager, (hva_t){max_u64(lo, table[i].lo)},
			       min_u64(hi, table[i].hi) -
				       max_u64(lo, table[i].lo));
		else
			table[i].pinned = true;
	}
	pthread_rwlock_unlock(&lock);
	if (hit)
		agent_unmanaged_say("a passthrough device (VFIO) pins guest "
				    "RAM; what it pins is left alone");
}

/* ---- reads from a device [any] ------------------------------------------- */

bool extent_iov_maybe(const struct iovec *iov, int n)
{
	for (int i = 0; i < n; i++)
		if (extent_maybe(iov[i].iov_base, iov[i].iov_len))
			return true;
	return false;
}

/* Begins or ends the part of a buffer that e manages. */
static void buffer_io(const struct extent *e, const struct iovec *v,
		      void (*io)(struct mm *mm, hva_t hva, size_t bytes))
{
	uintptr_t at = (uintptr_t)v->iov_base;
	uintptr_t lo = max_u64(at, e->mlo);
	uintptr_t hi = min_u64(at + v->iov_len, e->mhi);

	if (lo < hi)
		io(manager, (hva_t){lo}, hi - lo);
}

static void read_io(struct extent_read *rd,
		    void (*io)(struct mm *mm, hva_t hva, size_t bytes))
{
	for (int v = 0; v < rd->n; v++)
		for (unsigned i = 0; i < count; i++)
			buffer_io(&table[i], &rd->iov[v], io);
}

static bool read_finds(const struct extent_read *rd, bool managed)
{
	for (int v = 0; v < rd->n; v++) {
		uintptr_t at = (uintptr_t)rd->iov[v].iov_base;

		for (unsigned i = 0; i < count; i++)
			if ((table[i].mlo < table[i].mhi) == managed &&
			    overlaps(&table[i], at, at + rd->iov[v].iov_len))
				return true;
	}
	return false;
}

void extent_read_begin(struct extent_read *rd, const struct iovec *iov, int n,
		       bool direct)
{
	*rd = (struct extent_read){.iov = iov, .n = n};
	if (!direct)
		return;
	pthread_rwlock_rdlock(&lock);
	rd->managed = read_finds(rd, true);
	rd->waiting = read_finds(rd, false);
	if (rd->waiting)
		atomic_fetch_add(&reads_waiting, 1);
	if (rd->managed)
		read_io(rd, mm_io_begin);
	pthread_rwlock_unlock(&lock);
}

static void read_hint(const struct extent_read *rd, size_t got)
{
	struct share *sh = atomic_load(&sharer);

	for (int v = 0; sh && got && v < rd->n; v++) {
		size_t bytes = min_u64(got, rd->iov[v].iov_len);

		if (bytes >= HINT_BYTES_MIN &&
		    extent_maybe(rd->iov[v].iov_base, bytes))
			share_hint(sh, hva_of(rd->iov[v].iov_base), bytes);
		got -= bytes;
	}
}

void extent_read_end(struct extent_read *rd, ssize_t got)
{
	if (rd->waiting) /* not under the lock: see extent_adopt */
		atomic_fetch_sub(&reads_waiting, 1);
	if (rd->managed) {
		pthread_rwlock_rdlock(&lock);
		read_io(rd, mm_io_end);
		pthread_rwlock_unlock(&lock);
	}
	if (got >= HINT_BYTES_MIN)
		read_hint(rd, (size_t)got);
}

void extent_copy_takes_off(const char *why)
{
	pthread_rwlock_rdlock(&lock);
	if (!atomic_exchange(&copy_takes_off, true))
		log_warn("%s: pages that can only be taken by copying stay "
			 "where they are",
			 why);
	if (manager)
		mm_copy_takes_off(manager);
	pthread_rwlock_unlock(&lock);
}

bool extent_copy_takes_are_off(void)
{
	return atomic_load_explicit(&copy_takes_off, memory_order_relaxed);
}

/* ---- the worker's ----------------------------------------------------------
 */

/* What would the VM have had without us? The kernel's own page merging. */
static void extent_give_to_ksm(const struct extent *e)
{
	if (e->origin == EXTENT_MERGEABLE)
		real.madvise((void *)e->lo, e->hi - e->lo, MADV_MERGEABLE);
}

static void extent_reject(struct extent *e, unsigned flags, const char *why)
{
	e->state = EXTENT_LEFT;
	extent_give_to_ksm(e);
	if (e->origin == EXTENT_SLOT && (flags & MAPS_DEVICE))
		log_debug("a device's memory of %zu MiB is no guest RAM",
			  (e->hi - e->lo) >> 20);
	else
		agent_unmanaged_say("%s", why);
}

void extent_give_up(void)
{
	pthread_rwlock_wrlock(&lock);
	for (unsigned i = 0; i < count; i++) {
		if (table[i].state != EXTENT_WAIT &&
		    table[i].state != EXTENT_FIT)
			continue;
		table[i].state = EXTENT_LEFT;
		extent_give_to_ksm(&table[i]);
	}
	pthread_rwlock_unlock(&lock);
}

static uint64_t extent_look(struct extent *e, uint64_t now_ns)
{
	uint64_t due_ns = e->since_ns + KEEP_WAIT_NS;
	unsigned flags;
	const char *why;
	int rc;

	if (!e->kept && now_ns < due_ns && e->origin == EXTENT_MERGEABLE)
		return due_ns - now_ns;
	rc = maps_look(e->lo, e->hi, &flags);
	why = rc ? "/proc/self/smaps cannot be read" : maps_reason(flags);
	if (why)
		extent_reject(e, rc ? 0 : flags, why);
	else
		e->state = EXTENT_FIT;
	return UINT64_MAX;
}

uint64_t extent_judge(uint64_t now_ns)
{
	uint64_t wait_ns = UINT64_MAX;

	pthread_rwlock_wrlock(&lock);
	for (unsigned i = 0; i < count; i++)
		if (table[i].state == EXTENT_WAIT)
			wait_ns = min_u64(wait_ns,
					  extent_look(&table[i], now_ns));
	pthread_rwlock_unlock(&lock);
	return wait_ns;
}

void extent_manager_set(struct mm *mm, struct share *sh)
{
	pthread_rwlock_wrlock(&lock);
	manager = mm;
	atomic_store(&sharer, sh);
	if (atomic_load(&copy_takes_off))
		mm_copy_takes_off(mm);
	pthread_rwlock_unlock(&lock);
}

static bool reads_end_soon(void)
{
	const struct timespec ms = {.tv_nsec = 1000000};

	for (int i = 0; i < READS_WAIT_MS && atomic_load(&reads_waiting); i++)
		nanosleep(&ms, NULL);
	return !atomic_load(&reads_waiting);
}

static void extent_manage(struct extent *e)
{
	size_t bytes = e->hi - e->lo;
	int rc = mm_range_add(manager, (hva_t){e->lo}, bytes, true);

	if (rc) {
		e->state = EXTENT_LEFT;
		extent_give_to_ksm(e);
		agent_unmanaged_say("%zu MiB of guest RAM cannot be managed: "
				    "error %d",
				    bytes >> 20, -rc);
		return;
	}
	e->state = EXTENT_MANAGED;
	e->mlo = chunk_up(e->lo);
	e->mhi = chunk_down(e->hi);
	if (e->pinned)
		mm_pin(manager, (hva_t){e->lo}, bytes);
	agent_managed_say("managing %zu MiB of guest RAM", bytes >> 20);
}

static bool any_fit(void)
{
	for (unsigned i = 0; i < count; i++)
		if (table[i].state == EXTENT_FIT)
			return true;
	return false;
}

bool extent_adopt(void)
{
	bool ready;

	pthread_rwlock_wrlock(&lock);
	ready = !any_fit() || reads_end_soon();
	for (unsigned i = 0; ready && i < count; i++)
		if (table[i].state == EXTENT_FIT)
			extent_manage(&table[i]);
	pthread_rwlock_unlock(&lock);
	return ready;
}

uint64_t extent_ram_bytes(void)
{
	uint64_t bytes = 0;

	pthread_rwlock_rdlock(&lock);
	for (unsigned i = 0; i < count; i++)
		if (table[i].state == EXTENT_FIT ||
		    table[i].state == EXTENT_MANAGED)
			bytes += table[i].hi - table[i].lo;
	pthread_rwlock_unlock(&lock);
	return bytes;
}

void extent_forget_all(void)
{
	extent_lowest = UINTPTR_MAX;
	extent_highest = 0;
	atomic_store(&sharer, NULL);
}
