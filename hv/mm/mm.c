/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The manager's life, its frame pool, and what it tells of itself. The map, the
 * takes, faults, overlays, scans and reclaim have files of their own.
 *
 * Equation that mm_check proves, chunk by chunk, against the kernel's pagemap:
 *
 *   page HELD, COMPRESSED or SWAPPED  =>  not present in the guest
 *   chunk.out = number of such pages, and out > 0 => the chunk is registered
 */
#include "hv/mm/overlay.h"
#include "hv/mm/reclaim.h"
#include "hv/mm/take.h"

#include "hv/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAULT_THREADS_DEFAULT 2
/* What one more mapping costs the kernel (struct vm_area_struct, a share of a
 * maple_node, an anon_vma_chain), from /proc/slabinfo of Linux 6.1 and 6.18. */
#define VMA_BYTES 280

/* ---- life ---- */

int bench_create(struct mm *mm, size_t bytes, uint8_t **out)
{
	void *at;
	int rc = mm->host->map_anon(NULL, bytes, &at);

	if (rc < 0)
		return rc;
	mm->host->advise(at, bytes, MADV_NOHUGEPAGE);
	mm->host->advise(at, bytes, MADV_DONTFORK);
	if (mm->features & HOST_MOVE)
		rc = mm->host->uffd_register(mm->uffd, at, bytes, HOST_MISSING);
	if (rc < 0) {
		mm->host->unmap(at, bytes);
		return rc;
	}
	*out = at;
	return 0;
}

static void bench_destroy(struct mm *mm, uint8_t *bench, size_t bytes)
{
	if (bench)
		mm->host->unmap(bench, bytes);
}

static unsigned fault_threads(const struct mm_config *config)
{
	return config->fault_threads ? config->fault_threads
				     : FAULT_THREADS_DEFAULT;
}

static void store_destroy(struct mm *mm)
{
	tmem_client_destroy(mm->client);
	if (mm->store_is_own)
		tmem_destroy(mm->tm);
	dense_destroy(mm->dense);
}

/* One reader for each thread that answers faults, and one for the worker. */
static int dense_begin(struct mm *mm, const struct mm_config *config)
{
	int rc = dense_create(config->host, fault_threads(config) + 1,
			      &mm->dense);

	return rc < 0 ? rc
		      : tmem_client_dense(mm->client, dense_ops(mm->dense));
}

static int store_create(struct mm *mm, const struct mm_config *config)
{
	int rc = 0;

	mm->tm = config->store;
	mm->store_is_own = !mm->tm;
	if (mm->store_is_own)
		rc = tmem_create(0, &mm->tm);
	if (rc < 0)
		return rc;
	rc = tmem_client_create(mm->tm, "mm", &mm->client);
	if (rc == 0)
		rc = tmem_client_set(mm->client, 1, config->store_bytes, 0,
				     true);
	if (rc == 0)
		rc = tmem_pool_create(mm->client, TMEM_PERSISTENT, NULL);
	if (rc < 0) {
		store_destroy(mm);
		return rc;
	}
	mm->store_pool = rc;
	rc = config->dense ? dense_begin(mm, config) : 0;
	if (rc < 0)
		log_warn("no denser codec for cold pages (%d): LZ4 it is", rc);
	return 0;
}

/* A swap file that cannot be had is no reason to refuse the VM. */
static void swap_open(struct mm *mm, const struct mm_config *config)
{
	int rc;

	if (!config->swap_path || !config->swap_bytes)
		return;
	rc = swap_create(config->swap_path, config->swap_bytes, &mm->swap);
	if (rc == 0)
		rc = mm->host->map_anon(NULL, SWAP_BATCH * PAGE_BYTES,
					(void **)&mm->swap_batch);
	if (rc < 0) {
		log_warn("no swap file at %s (%d): cold pages stay in memory",
			 config->swap_path, rc);
		swap_destroy(mm->swap);
		mm->swap = NULL;
	}
}

static int core_init(struct mm *mm, const struct mm_config *config)
{
	int rc = mm->host->uffd_open(config->uffd_device, &mm->features,
				     &mm->uffd);

	if (rc < 0)
		return rc;
	rc = -ENOSYS;
	if (!(mm->features & (HOST_MOVE | HOST_WP)))
		goto close_uffd;
	rc = bench_create(mm, CHUNK_BYTES, &mm->window);
	if (rc < 0)
		goto close_uffd;
	rc = store_create(mm, config);
	if (rc < 0)
		goto drop_window;
	swap_open(mm, config);
	reclaim_init(mm);
	rc = fault_threads_start(mm, fault_threads(config));
	if (rc < 0)
		goto drop_store;
	return 0;

drop_store:
	swap_destroy(mm->swap);
	store_destroy(mm);
drop_window:
	bench_destroy(mm, mm->window, CHUNK_BYTES);
close_uffd:
	close(mm->uffd);
	return rc;
}

int mm_create(const struct mm_config *config, struct mm **out)
{
	struct mm *mm = calloc(1, sizeof(*mm));
	int rc;

	if (!mm)
		return -ENOMEM;
	mm->host = config->host;
	mm->poll_ns = config->fault_poll_ns;
	mm->pool_fd = -1;
	map_init(&mm->map, mm->host);
	pthread_rwlock_init(&mm->gate, NULL);
	pthread_mutex_init(&mm->target_lock, NULL);
	rc = core_init(mm, config);
	if (rc < 0) {
		map_fini(&mm->map);
		free(mm);
		return rc;
	}
	*out = mm;
	return 0;
}

static void pool_detach(struct mm *mm)
{
	if (mm->pool_fd < 0)
		return;
	mm_share_done(mm);
	close(mm->pool_fd);
	mm->pool_fd = -1;
}

void mm_destroy(struct mm *mm)
{
	if (!mm)
		return;
	mm_range_remove(mm, (hva_t){0}, SIZE_MAX);
	fault_threads_stop(mm);
	close(mm->uffd);
	pool_detach(mm);
	swap_destroy(mm->swap);
	if (mm->swap_batch)
		mm->host->unmap(mm->swap_batch, SWAP_BATCH * PAGE_BYTES);
	store_destroy(mm);
	for (unsigned i = 0; i < mm->map.ranges; i++)
		bench_destroy(mm, mm->map.range[i].held,
			      mm->map.range[i].pages * PAGE_BYTES);
	bench_destroy(mm, mm->window, CHUNK_BYTES);
	map_fini(&mm->map);
	pthread_rwlock_destroy(&mm->gate);
	pthread_mutex_destroy(&mm->target_lock);
	free(mm);
}

/* ---- the frame pool ---- */

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 &&
	       sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* References into a pool nobody keeps any more are nobody's to release. */
static void pool_leave(struct mm *mm)
{
	mm_release_fn *hook = mm->release;

	mm_release_hook(mm, NULL, mm->release_arg);
	mm_unshare_all(mm);
	mm_release_hook(mm, hook, mm->release_arg);
	pool_detach(mm);
}

int mm_pool_attach(struct mm *mm, int pool_fd, uint64_t bytes)
{
	struct stat st;
	int fd;

	if (mm->pool_fd >= 0 && same_file(mm->pool_fd, pool_fd))
		return 0;
	if (fstat(pool_fd, &st) < 0 || (uint64_t)st.st_size < bytes)
		return -EINVAL;
	fd = fcntl(pool_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	pool_leave(mm);
	mm->pool_fd = fd;
	mm->pool_bytes = bytes;
	return 0;
}

int mm_pool_fd(const struct mm *mm)
{
	return mm->pool_fd;
}

void mm_release_hook(struct mm *mm, mm_release_fn *fn, void *arg)
{
	pthread_rwlock_wrlock(&mm->gate);
	mm->release = fn;
	mm->release_arg = arg;
	pthread_rwlock_unlock(&mm->gate);
}

static void frames_walk_chunk(const struct spot *first, mm_frame_fn *fn,
			      void *arg)
{
	pthread_mutex_lock(&first->chunk->lock);
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(first, first->page + i);
		uint64_t w = spot_word(&s);

		if (page_state(w) == PAGE_SHARED)
			fn(arg, (uint32_t)page_payload(w), 1);
	}
	pthread_mutex_unlock(&first->chunk->lock);
}

int mm_frames_walk(struct mm *mm, mm_frame_fn *fn, void *arg)
{
	struct spot first;

	pthread_rwlock_wrlock(&mm->gate);
	if (mm->release)
		mm->release(mm->release_arg, NULL, 0);
	for (size_t c = 0; c < mm->map.chunks; c++)
		if (map_find_chunk(&mm->map, c, &first))
			frames_walk_chunk(&first, fn, arg);
	pthread_rwlock_unlock(&mm->gate);
	return 0;
}

/* How many of gfn[0..n) lie in the chunk of the first; between which two. */
static size_t chunk_span(const gfn_t *gfn, size_t n, uint64_t *first_out,
			 uint64_t *last_out)
{
	size_t k;

	*first_out = *last_out = gfn[0].n;
	for (k = 1; k < n; k++) {
		if (gfn[k].n >> CHUNK_SHIFT != gfn[0].n >> CHUNK_SHIFT)
			break;
		*first_out = min_u64(*first_out, gfn[k].n);
		*last_out = max_u64(*last_out, gfn[k].n);
	}
	return k;
}

/*
 * s: the page of gfn[0], whose chunk is locked and has them all. Reading a page
 * that is out would wait for a fault thread, which would wait for the lock.
 */
static size_t chunk_read(struct mm *mm, const struct spot *s, const gfn_t *gfn,
			 size_t n, uint8_t (*out)[PAGE_BYTES])
{
	uint64_t first, last, entry[CHUNK_PAGES];
	size_t span = chunk_span(gfn, n, &first, &last), k;
	struct spot at = spot_at(s, s->page - (gfn[0].n - first));

	if (!s->chunk->managed ||
	    mm->host->pagemap_read(hva_ptr(spot_hva(&at)), last - first + 1,
				   entry) < 0)
		return 0;
	for (k = 0; k < span; k++) {
		at = spot_at(s, s->page + gfn[k].n - gfn[0].n);
		if (page_state(spot_word(&at)) != PAGE_PRIVATE ||
		    !(entry[gfn[k].n - first] & PAGEMAP_PRESENT))
			break;
		memcpy(out[k], hva_ptr(spot_hva(&at)), PAGE_BYTES);
	}
	return k;
}

size_t mm_pages_read(struct mm *mm, const gfn_t *gfn, size_t n,
		     uint8_t (*out)[PAGE_BYTES])
{
	size_t done = 0, got;
	struct spot s;

	while (done < n && map_find_gfn(&mm->map, gfn[done], &s)) {
		pthread_mutex_lock(&s.chunk->lock);
		got = chunk_read(mm, &s, gfn + done, n - done, out + done);
		pthread_mutex_unlock(&s.chunk->lock);
		if (!got)
			break;
		done += got;
	}
	return done;
}

int mm_page_read(struct mm *mm, gfn_t gfn, void *page_out)
{
	return mm_pages_read(mm, &gfn, 1, page_out) == 1 ? 0 : -ENOENT;
}

/* ---- looking ---- */

static void stats_faults(struct mm *mm, struct mm_stats *out)
{
	const struct histogram *h[FAULT_THREADS_MAX];

	for (unsigned i = 0; i < mm->fault_threads; i++) {
		h[i] = &mm->fault[i].wait;
		out->cpu_ns += mm->fault[i].cpu_ns;
	}
	out->fault_p50_ns = histogram_quantile(h, mm->fault_threads, 500);
	out->fault_p99_ns = histogram_quantile(h, mm->fault_threads, 990);
}

uint64_t mm_metadata_bytes(const struct mm *mm)
{
	return map_metadata(&mm->map) + sizeof(*mm) +
	       mm->fault_threads * sizeof(*mm->fault) + dense_bytes(mm->dense) +
	       mm->count.vmas * VMA_BYTES;
}

uint64_t mm_store_bytes(const struct mm *mm, struct tmem_stats *store_out)
{
	uint64_t lent = tmem_freeable(mm->tm);

	tmem_stats(mm->tm, store_out);
	return store_out->used_bytes - min_u64(lent, store_out->used_bytes);
}

void mm_stats(struct mm *mm, struct mm_stats *out)
{
	struct tmem_stats store;

#define FIELD(name, unit, help) out->name = mm->count.name;
	MM_STATS(FIELD, FIELD)
#undef FIELD
	out->absent_pages = mm->count.in_state[PAGE_ABSENT];
	out->private_pages = mm->count.in_state[PAGE_PRIVATE];
	out->held_pages = mm->count.in_state[PAGE_HELD];
	out->shared_pages = mm->count.in_state[PAGE_SHARED];
	out->zero_pages = mm->count.in_state[PAGE_ZERO];
	out->compressed_pages = mm->count.in_state[PAGE_COMPRESSED];
	out->swapped_pages = mm->count.in_state[PAGE_SWAPPED];
	out->ram_pages = 0;
	for (int i = 0; i < PAGE_STATES; i++)
		out->ram_pages += mm->count.in_state[i];
	out->store_bytes = mm_store_bytes(mm, &store);
	out->store_payload_bytes =
		min_u64(store.stored_bytes, out->store_bytes);
	out->metadata_bytes = mm_metadata_bytes(mm);
	stats_faults(mm, out);
}

uint64_t mm_now_ns(const struct mm *mm)
{
	return mm->host->now_ns();
}

void mm_store_stats(struct mm *mm, struct tmem_stats *out)
{
	tmem_stats(mm->tm, out);
}

int mm_store_set(struct mm *mm, uint32_t weight, uint64_t cap_bytes,
		 uint64_t reserve_bytes, bool compress)
{
	return tmem_client_set(mm->client, weight, cap_bytes, reserve_bytes,
			       compress);
}

static int check_chunk(struct mm *mm, const struct spot *first)
{
	uint64_t pagemap[CHUNK_PAGES];
	size_t out = 0, wrong = 0;
	int rc;

	pthread_mutex_lock(&first->chunk->lock);
	rc = mm->host->pagemap_read(hva_ptr(spot_hva(first)), CHUNK_PAGES,
				    pagemap);
	for (size_t i = 0; i < CHUNK_PAGES && rc == 0; i++) {
		struct spot s = spot_at(first, first->page + i);

		if (!page_is_out(spot_word(&s)))
			continue;
		out++;
		wrong += !!(pagemap[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
	}
	wrong += rc == 0 && out != first->chunk->out;
	pthread_mutex_unlock(&first->chunk->lock);
	if (wrong)
		log_error("chunk at page %#lx: %zu pages out are present, or "
			  "their count is wrong",
			  (unsigned long)range_gfn(first->range, first->page).n,
			  wrong);
	return wrong ? -EUCLEAN : rc;
}

int mm_check(struct mm *mm)
{
	int rc = tmem_check(mm->tm);

	for (size_t c = 0; c < mm->map.chunks && rc == 0; c++) {
		struct spot first;

		if (map_find_chunk(&mm->map, c, &first))
			rc = check_chunk(mm, &first);
	}
	return rc;
}
