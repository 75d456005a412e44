/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A line's life: its memory, its client in the store, and the guest's comings
 * and goings. One control thread hears vector 0 and is the only one to begin
 * and end a guest; each queue has a thread of its own (queue.c).
 *
 *                    epoch, not 0
 *      AWAITED <--------------------> SERVED
 *         ^      epoch 0, hang-up        | tail - head > entries
 *         |                              v
 *         '--------------------------- REFUSED --epoch, not 0--> SERVED
 *
 * Every arrow goes the same way: pause all queues, end all pools, clear what
 * the queues have in memory, say so in page 0. So a page of an earlier life is
 * never met by a later one, and what a guest no longer uses is given back to
 * the host: between guests a line holds two pages.
 *
 *      memory   [page 0: ours | page 1: the guest's | queues ... | nothing]
 *               0                                   line_bytes   a power of two
 *
 * Page 0 is written and never read: its truth is in struct line, and it is
 * written again whenever the guest rings.
 *
 * Lock order: line, queue.
 */
#include "hv/line/line.h"

#include "hv/base/log.h"
#include "hv/base/thread.h"
#include "hv/line/channel.h"
#include "hv/line/queue.h"
#include "tmem/tmem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUES_DEFAULT	2
#define ENTRIES_DEFAULT 256
#define WARN_NS		((uint64_t)60 * 1000000000)
#define FEATURES                                                               \
	(LINE_FEATURE_FLUSH_RANGE | LINE_FEATURE_STATS | LINE_FEATURE_BALLOON)

#define TELL(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
#define TELL_LAST(field, value)                                                \
	__atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

struct line {
	struct queue_world world;
	uint32_t queues;
	uint32_t host_peer;
	int fd;
	size_t bytes; /* mapped */
	uint8_t *base;
	int doorbell[LINE_VECTORS_MAX];
	pthread_t control;
	bool control_runs;
	_Atomic bool stopping;
	_Atomic bool broken; /* a queue found the guest out */
	_Atomic bool hung_up;

	pthread_mutex_t lock; /* all below, and page 0 */
	struct line_settings settings;
	uint32_t settings_told; /* how often */
	uint32_t epoch;
	enum line_phase phase;
	uint64_t begins;
	uint64_t warned_ns; /* of a break, last; 0: never */
	uint64_t unwarned;  /* breaks since then */

	struct queue queue[LINE_QUEUES_MAX];
};

static struct line_host *host_page(const struct line *line)
{
	return (struct line_host *)(void *)line->base;
}

static struct line_guest *guest_page(const struct line *line)
{
	return (struct line_guest *)(void *)(line->base + LINE_PAGE_BYTES);
}

static void guest_interrupt(const struct line *line, unsigned vector)
{
	line->world.kick(line->world.kick_arg, vector);
}

/* ---- page 0 [lock held] ---- */

static void settings_tell(struct line *line)
{
	struct line_host *host = host_page(line);

	TELL(host->swap_pages, line->settings.swap_pages);
	TELL(host->swap_priority, line->settings.swap_priority);
	TELL(host->ephemeral, (line_u64)line->settings.ephemeral);
	TELL(host->balloon_pages, line->settings.balloon_pages);
	TELL_LAST(host->settings, line->settings_told);
}

static enum line_state state_of(const struct line *line)
{
	return line->phase == LINE_REFUSED ? LINE_BROKEN : LINE_READY;
}

/* All of it, since a guest may have written over it. The epoch goes last. */
static void page_tell(struct line *line, enum line_state state)
{
	struct line_host *host = host_page(line);

	TELL(host->magic, LINE_MAGIC);
	TELL(host->version, LINE_VERSION);
	TELL(host->bytes,
	     (uint32_t)line_bytes(line->queues, line->world.entries));
	TELL(host->queues, line->queues);
	TELL(host->entries, line->world.entries);
	TELL(host->host_peer, line->host_peer);
	TELL(host->features, FEATURES);
	settings_tell(line);
	TELL_LAST(host->state, state);
	TELL_LAST(host->epoch, line->epoch);
}

/* ---- beginning and ending [lock held, control thread] ---- */

/* What cannot be given back is at least made empty. */
static void queues_clear(struct line *line)
{
	uint64_t from = line_queue_at(line->world.entries, 0);

	if (!madvise(line->base + from, line->bytes - from, MADV_REMOVE))
		return;
	for (uint32_t i = 0; i < line->queues; i++)
		memset(line->queue[i].ring, 0, sizeof(*line->queue[i].ring));
}

static void guest_leave(struct line *line)
{
	for (uint32_t i = 0; i < line->queues; i++)
		queue_pause(&line->queue[i]);
	for (int pool = 0; pool < TMEM_POOLS_MAX; pool++)
		(void)tmem_pool_destroy(line->world.client, pool);
	if (line->world.channel)
		channel_leave(line->world.channel);
	queues_clear(line);
	/* A second queue's finding is of the same life. */
	atomic_store(&line->broken, false);
}

static int threads_start(struct line *line)
{
	int rc = 0;

	for (uint32_t i = 0; i < line->queues && !rc; i++)
		rc = queue_start(&line->queue[i]);
	return rc;
}

static void line_begin(struct line *line, uint32_t epoch)
{
	int rc = threads_start(line);

	line->epoch = epoch;
	if (rc) {
		log_error("no thread to serve the guest's page store: %s",
			  strerror(-rc));
		line->phase = LINE_REFUSED;
		page_tell(line, state_of(line));
		return;
	}
	for (uint32_t i = 0; i < line->queues; i++)
		queue_resume(&line->queue[i]);
	line->begins++;
	line->phase = LINE_SERVED;
	page_tell(line, state_of(line));
	/* A guest that rang too early is not waited for: see queue.c. */
	for (uint32_t i = 0; i < line->queues; i++)
		line_ring(line, LINE_VECTOR_QUEUE + i);
}

static void line_end(struct line *line)
{
	line->phase = LINE_AWAITED;
	line->epoch = 0;
	page_tell(line, state_of(line));
}

static void line_epoch(struct line *line, uint32_t epoch)
{
	guest_leave(line);
	if (epoch)
		line_begin(line, epoch);
	else
		line_end(line);
}

/* A guest that breaks the rules as fast as it can must not fill the log. */
static void break_warn(struct line *line)
{
	uint64_t now = line->world.host->now_ns();

	if (line->warned_ns && now - line->warned_ns < WARN_NS) {
		line->unwarned++;
		return;
	}
	log_warn("the guest broke the rules of its page store: cut off until "
		 "its driver begins again (%" PRIu64 " times more since last "
		 "said)",
		 line->unwarned);
	line->warned_ns = now;
	line->unwarned = 0;
}

/* The epoch stays: the guest begins again with another. */
static void line_break(struct line *line)
{
	guest_leave(line);
	line->phase = LINE_REFUSED;
	page_tell(line, state_of(line));
	break_warn(line);
}

/* ---- the control thread ---- */

static void interrupt_all(const struct line *line)
{
	for (unsigned v = 0; v < line_vectors(line); v++)
		guest_interrupt(line, v);
}

/*
 * The guest's word is looked at after the flags: a new epoch mends a break. And
 * a guest that finds page 0 in ruins, its predecessor's doing, need only ring.
 */
static bool line_look(struct line *line)
{
	bool changed = true;
	uint32_t epoch;

	if (atomic_exchange(&line->hung_up, false))
		line_epoch(line, 0);
	else if (atomic_exchange(&line->broken, false))
		line_break(line);
	else
		changed = false;
	epoch = __atomic_load_n(&guest_page(line)->epoch, __ATOMIC_ACQUIRE);
	if (epoch == line->epoch) {
		page_tell(line, state_of(line));
		return changed;
	}
	line_epoch(line, epoch);
	return true;
}

static void *control_main(void *arg)
{
	struct line *line = arg;
	struct pollfd bell = {.fd = line->doorbell[0], .events = POLLIN};
	eventfd_t ignored;
	bool changed;

	pthread_setname_np(pthread_self(), "tidepool-line");
	while (!atomic_load(&line->stopping)) {
		if (poll(&bell, 1, -1) > 0)
			(void)eventfd_read(bell.fd, &ignored);
		pthread_mutex_lock(&line->lock);
		changed = !atomic_load(&line->stopping) && line_look(line);
		pthread_mutex_unlock(&line->lock);
		if (changed)
			interrupt_all(line);
	}
	return NULL;
}

/* Called by a queue's thread with its lock held. */
static void broken(void *arg)
{
	struct line *line = arg;

	atomic_store(&line->broken, true);
	line_ring(line, LINE_VECTOR_CONTROL);
}

static int control_start(struct line *line)
{
	int rc = thread_start(&line->control, control_main, line);

	line->control_runs = !rc;
	return rc;
}

/* ---- life ---- */

static int config_check(const struct line_config *c)
{
	uint32_t queues = c->queues ? c->queues : QUEUES_DEFAULT;
	uint32_t entries = c->entries ? c->entries : ENTRIES_DEFAULT;

	if (!c->tm || !c->name || !c->kick || queues > LINE_QUEUES_MAX)
		return -EINVAL;
	if (entries < LINE_ENTRIES_MIN || entries > LINE_ENTRIES_MAX ||
	    (entries & (entries - 1)))
		return -EINVAL;
	return 0;
}

static int client_create(struct line *line, const struct line_config *c)
{
	int rc = tmem_client_create(c->tm, c->name, &line->world.client);

	if (rc)
		return rc;
	return tmem_client_set(line->world.client,
			       c->weight ? c->weight : TMEM_WEIGHT_NORMAL,
			       c->cap_bytes, c->reserve_bytes, true);
}

static size_t power_of_two(uint64_t bytes)
{
	size_t n = PAGE_BYTES;

	while (n < bytes)
		n *= 2;
	return n;
}

/* Sealed: whoever else maps it can neither cut it short nor make it grow. */
static int memory_create(struct line *line)
{
	void *at;

	line->bytes =
		power_of_two(line_bytes(line->queues, line->world.entries));
	line->fd =
		memfd_create("tidepool-line", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (line->fd < 0 || ftruncate(line->fd, (off_t)line->bytes) ||
	    fcntl(line->fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	at = mmap(NULL, line->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		  line->fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	line->base = at;
	madvise(at, line->bytes, MADV_DONTFORK);
	madvise(at, line->bytes, MADV_DONTDUMP);
	return 0;
}

static int doorbells_create(struct line *line)
{
	for (unsigned v = 0; v < line_vectors(line); v++) {
		line->doorbell[v] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (line->doorbell[v] < 0)
			return -errno;
	}
	return 0;
}

static void queues_init(struct line *line)
{
	for (uint32_t i = 0; i < line->queues; i++)
		queue_init(&line->queue[i], &line->world, i,
			   line->base + line_queue_at(line->world.entries, i),
			   line->doorbell[LINE_VECTOR_QUEUE + i]);
}

static void line_init(struct line *line, const struct line_config *c)
{
	line->world.channel = c->channel;
	line->world.host = c->host ? c->host : &host_real;
	line->world.entries = c->entries ? c->entries : ENTRIES_DEFAULT;
	line->world.poll_ns = c->poll_ns;
	line->world.kick = c->kick;
	line->world.kick_arg = c->arg;
	line->world.broken = broken;
	line->world.arg = line;
	line->queues = c->queues ? c->queues : QUEUES_DEFAULT;
	line->host_peer = c->host_peer;
	line->settings = c->settings;
	line->fd = -1;
	memset(line->doorbell, -1, sizeof(line->doorbell));
	pthread_mutex_init(&line->lock, NULL);
}

int line_create(const struct line_config *config, struct line **out)
{
	struct line *line;
	int rc = config_check(config);

	if (rc)
		return rc;
	line = calloc(1, sizeof(*line));
	if (!line)
		return -ENOMEM;
	line_init(line, config);
	rc = memory_create(line);
	if (!rc)
		rc = doorbells_create(line);
	if (!rc)
		rc = client_create(line, config);
	if (!rc) {
		queues_init(line);
		page_tell(line, LINE_READY);
		rc = control_start(line);
	}
	if (rc) {
		line_destroy(line);
		return rc;
	}
	*out = line;
	return 0;
}

static void threads_stop(struct line *line)
{
	atomic_store(&line->stopping, true);
	line_ring(line, LINE_VECTOR_CONTROL);
	pthread_join(line->control, NULL);
	for (uint32_t i = 0; i < line->queues; i++)
		queue_stop(&line->queue[i]);
	page_tell(line, LINE_CLOSED);
	interrupt_all(line);
}

void line_destroy(struct line *line)
{
	if (!line)
		return;
	if (line->control_runs)
		threads_stop(line);
	tmem_client_destroy(line->world.client);
	for (uint32_t i = 0; i < line->queues && line->queue[i].world; i++)
		queue_fini(&line->queue[i]);
	for (unsigned v = 0; v < LINE_VECTORS_MAX; v++)
		if (line->doorbell[v] >= 0)
			close(line->doorbell[v]);
	if (line->base)
		munmap(line->base, line->bytes);
	if (line->fd >= 0)
		close(line->fd);
	pthread_mutex_destroy(&line->lock);
	free(line);
}

/* ---- asking and telling ---- */

int line_fd(const struct line *line)
{
	return line->fd;
}

void *line_memory(const struct line *line, size_t *bytes_out)
{
	*bytes_out = line->bytes;
	return line->base;
}

unsigned line_vectors(const struct line *line)
{
	return LINE_VECTOR_QUEUE + line->queues;
}

int line_doorbell_fd(const struct line *line, unsigned vector)
{
	return line->doorbell[vector];
}

void line_ring(struct line *line, unsigned vector)
{
	if (vector < line_vectors(line))
		(void)eventfd_write(line->doorbell[vector], 1);
}

/*
 * The guest's page goes with the guest, and at once: the next one may begin
 * before the control thread has run, and must not lose its epoch to that. Nor
 * may the thread, on its way from the flag to the epoch, meet the next one's.
 */
void line_hang_up(struct line *line)
{
	uint64_t *word = (void *)guest_page(line);

	pthread_mutex_lock(&line->lock);
	for (size_t i = 0; i < LINE_PAGE_BYTES / sizeof(*word); i++)
		TELL(word[i], (uint64_t)0);
	atomic_store(&line->hung_up, true);
	pthread_mutex_unlock(&line->lock);
	line_ring(line, LINE_VECTOR_CONTROL);
}

void line_settings_set(struct line *line, const struct line_settings *to)
{
	pthread_mutex_lock(&line->lock);
	line->settings = *to;
	line->settings_told++;
	settings_tell(line);
	pthread_mutex_unlock(&line->lock);
	guest_interrupt(line, LINE_VECTOR_CONTROL);
}

void line_settings_get(struct line *line, struct line_settings *out)
{
	pthread_mutex_lock(&line->lock);
	*out = line->settings;
	pthread_mutex_unlock(&line->lock);
}

struct tmem_client *line_client(const struct line *line)
{
	return line->world.client;
}

enum line_phase line_phase(struct line *line)
{
	enum line_phase phase;

	pthread_mutex_lock(&line->lock);
	phase = line->phase;
	pthread_mutex_unlock(&line->lock);
	return phase;
}

void line_counts(struct line *line, struct line_counts *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < line->queues; i++)
		queue_counts(&line->queue[i], out);
	pthread_mutex_lock(&line->lock);
	out->begins = line->begins;
	pthread_mutex_unlock(&line->lock);
}

void line_guest_stats(const struct line *line, struct line_stats *out)
{
	guest_words_fetch(out, &guest_page(line)->stats, sizeof(*out));
}
