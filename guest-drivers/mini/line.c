// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the line; mini/line.h says what it is for.
 *
 * Two words decide whether either side sleeps for ever, and each follows the
 * same rule: store mine, then load the other's, both sequentially consistent;
 * the host does the same in the other order. So one of the two sees the
 * other's store: tail against sleeping, wake_at against head. (Fences would do,
 * too, but sanitizers do not understand them.)
 */
#include "line.h"

#ifdef __KERNEL__
#include <linux/string.h>
#else
#define memcpy __builtin_memcpy /* freestanding: there may be no string.h */
#endif

#define LOAD(at)	 __atomic_load_n((at), __ATOMIC_RELAXED)
#define LOAD_ACQUIRE(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
#define LOAD_TOTAL(at)	 __atomic_load_n((at), __ATOMIC_SEQ_CST)
#define STORE(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)
#define STORE_RELEASE(at, value)                                               \
	__atomic_store_n((at), (value), __ATOMIC_RELEASE)
#define STORE_TOTAL(at, value) __atomic_store_n((at), (value), __ATOMIC_SEQ_CST)

static struct line_host *host_page(const struct line_view *view)
{
	return (struct line_host *)(void *)view->base;
}

static struct line_guest *guest_page(const struct line_view *view)
{
	return (struct line_guest *)(void *)(view->base + LINE_PAGE_BYTES);
}

static bool power_of_two(line_u32 n)
{
	return n && !(n & (n - 1));
}

/* On the copy. */
static bool view_fits(const struct line_view *view, line_u64 bytes,
		      line_u64 mem_bytes)
{
	return view->queues >= 1 && view->queues <= LINE_QUEUES_MAX &&
	       power_of_two(view->entries) &&
	       view->entries >= LINE_ENTRIES_MIN &&
	       view->entries <= LINE_ENTRIES_MAX && bytes <= mem_bytes &&
	       line_bytes(view->queues, view->entries) <= bytes;
}

int line_view_init(struct line_view *view, void *mem, line_u64 mem_bytes)
{
	const struct line_host *host = mem;

	if (!mem || (unsigned long)mem % LINE_PAGE_BYTES)
		return LINE_EINVAL;
	if (mem_bytes < 2 * LINE_PAGE_BYTES || LOAD(&host->magic) != LINE_MAGIC)
		return LINE_EPROTO;
	if (LOAD(&host->version) != LINE_VERSION)
		return LINE_EPROTO;
	view->base = mem;
	view->queues = LOAD(&host->queues);
	view->entries = LOAD(&host->entries);
	view->host_peer = LOAD(&host->host_peer);
	view->features = LOAD(&host->features);
	view->epoch = 0;
	return view_fits(view, LOAD(&host->bytes), mem_bytes) ? 0 : LINE_EPROTO;
}

void line_view_begin(struct line_view *view, line_u32 hint, line_u32 features)
{
	struct line_guest *guest = guest_page(view);
	line_u32 theirs = LOAD(&host_page(view)->epoch);
	line_u32 last = LOAD(&guest->epoch);

	while (!hint || hint == theirs || hint == last)
		hint++;
	view->features = LOAD(&host_page(view)->features) & features;
	view->epoch = hint;
	STORE(&guest->features, features);
	STORE_RELEASE(&guest->epoch, hint);
}

int line_view_alive(const struct line_view *view)
{
	const struct line_host *host = host_page(view);

	if (!view->epoch || LOAD_ACQUIRE(&host->epoch) != view->epoch)
		return LINE_EIO;
	return LOAD_ACQUIRE(&host->state) == LINE_READY ? 0 : LINE_EIO;
}

int line_view_begun(struct line_view *view)
{
	if (LOAD_ACQUIRE(&host_page(view)->epoch) != view->epoch)
		return LINE_EAGAIN;
	return line_view_alive(view);
}

void line_view_end(struct line_view *view)
{
	view->epoch = 0;
	STORE_RELEASE(&guest_page(view)->epoch, 0);
}

bool line_view_ended(const struct line_view *view)
{
	return LOAD_ACQUIRE(&host_page(view)->epoch) == 0;
}

/*
 * The count first: if the host changes something meanwhile, it grows
 * afterwards, and the next call sees both.
 */
void line_view_wishes(const struct line_view *view, struct line_wishes *out)
{
	const struct line_host *host = host_page(view);

	out->count = LOAD_ACQUIRE(&host->settings);
	out->swap_priority = LOAD(&host->swap_priority);
	out->swap_pages = LOAD(&host->swap_pages);
	out->balloon_pages = LOAD(&host->balloon_pages);
	out->ephemeral = LOAD(&host->ephemeral) == 1;
}

void line_view_stats(const struct line_view *view,
		     const struct line_stats *stats)
{
	line_u64 *to = (line_u64 *)(void *)&guest_page(view)->stats;
	const line_u64 *from = (const line_u64 *)(const void *)stats;
	unsigned int i;

	for (i = 0; i < sizeof(*stats) / sizeof(*from); i++)
		STORE(&to[i], from[i]);
}

int line_tx_init(struct line_tx *tx, const struct line_view *view,
		 line_u32 queue, line_u8 *kept)
{
	unsigned char *at;
	line_u32 i;

	if (queue >= view->queues)
		return LINE_EINVAL;
	at = view->base + line_queue_at(view->entries, queue);
	tx->queue = (struct line_queue *)(void *)at;
	tx->entries = (struct line_entry *)(void *)(at + line_entry_at(0));
	tx->slots = at + line_slot_at(view->entries, 0);
	tx->kept = kept;
	tx->mask = view->entries - 1;
	tx->head = LOAD_ACQUIRE(&tx->queue->head);
	tx->tail = LOAD(&tx->queue->tail);
	tx->published = tx->tail;
	tx->armed = false;
	tx->broken = tx->head != tx->tail;
	for (i = 0; i < view->entries; i++)
		kept[i] = 0;
	return tx->broken ? LINE_EIO : 0;
}

/* Between what was seen last and what was published, or it breaks the queue. */
static int head_look(struct line_tx *tx)
{
	line_u32 head = LOAD_ACQUIRE(&tx->queue->head);

	if (head - tx->head > tx->published - tx->head)
		tx->broken = true;
	if (tx->broken)
		return LINE_EIO;
	tx->head = head;
	return 0;
}

static int room_find(struct line_tx *tx)
{
	if (tx->broken)
		return LINE_EIO;
	if (tx->tail - tx->head > tx->mask && head_look(tx))
		return LINE_EIO;
	if (tx->tail - tx->head > tx->mask)
		return LINE_EAGAIN;
	return LOAD_ACQUIRE(&tx->kept[tx->tail & tx->mask]) ? LINE_EBUSY : 0;
}

/*
 * An answer nobody gives must not read as a good one: the result is an error
 * until the host writes it.
 */
int line_tx_post(struct line_tx *tx, const struct line_entry *request,
		 const void *page, bool keep, line_u32 *position_out)
{
	line_u32 i = tx->tail & tx->mask;
	int rc = room_find(tx);

	if (rc)
		return rc;
	memcpy(&tx->entries[i], request, sizeof(*request));
	tx->entries[i].result = LINE_EIO;
	if (page)
		memcpy(tx->slots + (size_t)i * LINE_PAGE_BYTES, page,
		       LINE_PAGE_BYTES);
	if (keep)
		STORE(&tx->kept[i], 1);
	if (position_out)
		*position_out = tx->tail;
	tx->tail++;
	return 0;
}

bool line_tx_publish(struct line_tx *tx)
{
	if (tx->published == tx->tail)
		return false;
	tx->published = tx->tail;
	STORE_TOTAL(&tx->queue->tail, tx->tail);
	return LOAD_TOTAL(&tx->queue->sleeping) != 0;
}

/*
 * Where head is as seen from a position that is not yet used again: up to
 * entries past it (done), up to entries before it (not yet), or nowhere.
 */
static int passed(const struct line_tx *tx, line_u32 head, line_u32 position)
{
	if (head - position - 1 <= tx->mask)
		return 1;
	return position - head <= tx->mask ? 0 : LINE_EIO;
}

int line_tx_done(const struct line_tx *tx, line_u32 position)
{
	return passed(tx, LOAD_ACQUIRE(&tx->queue->head), position);
}

line_s32 line_tx_result(const struct line_tx *tx, line_u32 position)
{
	return LOAD(&tx->entries[position & tx->mask].result);
}

void *line_tx_slot(const struct line_tx *tx, line_u32 position)
{
	return tx->slots + (size_t)(position & tx->mask) * LINE_PAGE_BYTES;
}

void line_tx_release(struct line_tx *tx, line_u32 position)
{
	STORE_RELEASE(&tx->kept[position & tx->mask], 0);
}

bool line_tx_arm(struct line_tx *tx, line_u32 position)
{
	tx->armed = true;
	tx->wake_at = position + 1;
	STORE_TOTAL(&tx->queue->wake_at, position + 1);
	return !passed(tx, LOAD_TOTAL(&tx->queue->head), position);
}

/*
 * The host interrupts when it finds wake_at passed by the store of head it just
 * made. Two things may hide somebody's wake_at from that look, and end in
 * LINE_SLEEP_OTHERS: storing a new one when head just passed the old; and
 * replacing it by an earlier one that head passes before it is stored.
 */
enum line_sleep line_tx_arm_among(struct line_tx *tx, line_u32 position)
{
	bool replaces = tx->armed;

	if (line_tx_done(tx, position))
		return LINE_SLEEP_NOT;
	tx->armed = false;
	if (replaces && line_tx_done(tx, tx->wake_at - 1))
		return LINE_SLEEP_OTHERS;
	tx->armed = true;
	if (replaces && position + 1 - tx->wake_at <= tx->mask)
		return LINE_SLEEP_ARMED; /* all wake then, and arm again */
	if (line_tx_arm(tx, position))
		return LINE_SLEEP_ARMED;
	tx->armed = false;
	return replaces ? LINE_SLEEP_OTHERS : LINE_SLEEP_NOT;
}

line_u32 line_tx_half(const struct line_tx *tx)
{
	return tx->published - (tx->mask + 1) / 2 - 1;
}

int line_tx_drained(struct line_tx *tx)
{
	if (head_look(tx))
		return LINE_EIO;
	return tx->head == tx->published;
}
