/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tmem_check: is everything as the essays say? One shard at a time, each node
 * of its table with its lists, words and checksums, counted anew and compared
 * with the counters; each class of packed objects against its owners' words;
 * each client's list by age; and last, with everything held, the sums:
 *
 *   used      = heap + blocks given + blocks kept + pages committed
 *   pages     = packed objects + references - what they refer to
 *   slack     = free cells + class rounding + ends of pages + kept blocks
 */
#include "hv/base/log.h"
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

/* What is counted anew of a shard. */
struct census {
	struct tmem_stats stats;
	uint32_t nodes;
	uint32_t cells[CELL_KINDS];
};

static int complain(const struct shard *s, const char *what)
{
	log_error("tmem check: shard %u: %s", s->n, what);
	return -EUCLEAN;
}

static uint64_t object_key_hash(const struct tmem *tm,
				const struct object *object)
{
	return key_hash(tm, object->pool->name, &object->oid);
}

static int object_check(const struct shard *s, uint32_t unit)
{
	const struct object *object = object_at(s->tm, unit);
	uint32_t prev = 0;
	uint32_t n = 0;
	uint32_t at;

	if (object->node.hash != (uint32_t)object_key_hash(s->tm, object))
		return complain(s, "an object under a wrong hash");
	for (at = object->leaf_first; at; at = leaf_at(s->tm, at)->next) {
		const struct leaf *leaf = leaf_at(s->tm, at);

		if (leaf->object != unit || leaf->prev != prev ||
		    ++n > object->leaves)
			return complain(s, "an object's leaves are tangled");
		prev = at;
	}
	if (!n || n != object->leaves || prev != object->leaf_last)
		return complain(s, "an object has lost leaves");
	return 0;
}

static int page_check(const struct shard *s, uint32_t word_name, uint64_t word,
		      enum pool_kind kind, struct census *census)
{
	_Alignas(16) unsigned char buf[PAGE_BYTES];
	struct pack_item item;
	uint32_t bytes = pack_word_bytes(word);
	uint32_t tag = pack_word_tag(word);

	if (!bytes || bytes > PAGE_BYTES || !tag)
		return complain(s, "a word that says nothing");
	pack_read(&s->tm->pack, word_name, buf, &item);
	if (codec_sum(buf, bytes) != item.sum)
		return complain(s, "a page does not match its checksum");
	census->stats.pages++;
	census->stats.pages_ephemeral += kind == KIND_EPHEMERAL;
	census->stats.pages_persistent += kind == KIND_PERSISTENT;
	census->stats.pages_same_filled += tag == CODEC_SAME;
	census->stats.pages_raw += tag == CODEC_RAW;
	census->stats.pages_dense += tag == CODEC_DENSE;
	return 0;
}

static int leaf_check(const struct shard *s, uint32_t unit,
		      struct census *census)
{
	const struct leaf *leaf = leaf_at(s->tm, unit);
	const struct object *object = object_at(s->tm, leaf->object);
	enum pool_kind kind = object->pool->kind;
	uint64_t hash = object_key_hash(s->tm, object);
	int rc = 0;

	if (leaf->node.hash != key_leaf_hash(hash, leaf->base) ||
	    leaf->base % LEAF_PAGES)
		return complain(s, "a leaf under a wrong hash");
	if (slab_head_of(&s->tm->tables, unit)->kind != kind)
		return complain(s, "a leaf of the wrong kind");
	if (leaf_is_empty(leaf))
		return complain(s, "an empty leaf");
	for (uint32_t n = 0; n < LEAF_PAGES && !rc; n++) {
		uint64_t word = atomic_load(&leaf->word[n]);

		if (word)
			rc = page_check(s, word_unit(unit, n), word, kind,
					census);
	}
	return rc;
}

static int node_check(const struct shard *s, uint32_t unit, uint32_t bucket,
		      struct census *census)
{
	const struct slab_head *head = slab_head_of(&s->tm->tables, unit);
	const struct table_node *node = arena_unit_at(&s->tm->tables, unit);

	if (++census->nodes > s->table.nodes)
		return complain(s, "more nodes than were inserted");
	if (head->shard != s->n || head->kind >= CELL_KINDS)
		return complain(s, "a node of another shard");
	if (table_bucket_of(&s->table, node->hash) != bucket)
		return complain(s, "a node in a wrong bucket");
	census->cells[head->kind]++;
	if (head->kind == CELL_OBJECT)
		return object_check(s, unit);
	return leaf_check(s, unit, census);
}

static int census_compare(const struct shard *s, struct census *census)
{
	const struct tmem_stats *a = &census->stats;
	const struct tmem_stats *b = &s->stats;

	for (unsigned k = 0; k < CELL_KINDS; k++)
		if (census->cells[k] != s->slab[k].cells)
			return complain(s, "cells are lost");
	if (census->nodes != s->table.nodes)
		return complain(s, "nodes are lost");
	if (a->pages != b->pages || a->pages_ephemeral != b->pages_ephemeral ||
	    a->pages_persistent != b->pages_persistent ||
	    a->pages_same_filled != b->pages_same_filled ||
	    a->pages_raw != b->pages_raw || a->pages_dense != b->pages_dense)
		return complain(s, "pages are miscounted");
	return 0;
}

static int shard_check(const struct shard *s)
{
	struct census census = {0};
	uint32_t unit;
	int rc = 0;

	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t b = 0; b < s->table.buckets; b++) {
		unit = table_bucket_first(&s->table, b);
		while (unit && !rc) {
			const struct table_node *node =
				arena_unit_at(&s->tm->tables, unit);

			rc = node_check(s, unit, b, &census);
			unit = node->next;
		}
		if (rc)
			return rc;
	}
	return census_compare(s, &census);
}

static int shards_check(struct tmem *tm)
{
	int rc = 0;

	for (unsigned n = 0; n < tm->shards && !rc; n++) {
		lock_take(&tm->shard[n].lock);
		rc = shard_check(&tm->shard[n]);
		lock_drop(&tm->shard[n].lock);
	}
	return rc;
}

static int stripes_check(struct tmem *tm)
{
	for (unsigned n = 0; n < tm->shards; n++)
		if (stripe_check(&tm->stripe[n])) {
			log_error("tmem check: index of contents %u", n);
			return -EUCLEAN;
		}
	return 0;
}

static int clients_check(const struct tmem *tm)
{
	for (struct tmem_client *cl = tm->clients; cl; cl = cl->next)
		if (age_check(cl)) {
			log_error("tmem check: client %s: pages by age",
				  cl->name);
			return -EUCLEAN;
		}
	return 0;
}

/* The whole store, all shards held. */
struct totals {
	uint64_t pages;
	uint64_t aged;
	uint64_t ephemeral;
	uint64_t stored;
	uint64_t objects;
	uint64_t object_bytes;
	uint64_t refs;		 /* pages that share an object */
	uint64_t contents;	 /* objects that are shared */
	uint64_t charged;	 /* to clients, as the shards see it */
	uint64_t charged_client; /* as the clients see it */
	uint64_t cell_slack;
	uint64_t cell_live;
	uint64_t segment_bytes;
	uint64_t blocks;
};

static void stripe_add(struct totals *t, const struct stripe *st)
{
	t->refs += st->refs;
	t->contents += st->contents.cells;
	t->blocks += stripe_blocks(st);
	t->cell_live += stripe_live_bytes(st);
	t->cell_slack +=
		slab_slack_bytes(&st->lines) + slab_slack_bytes(&st->contents);
}

static void totals_count(const struct tmem *tm, struct totals *t)
{
	memset(t, 0, sizeof(*t));
	for (unsigned n = 0; n < tm->shards; n++) {
		const struct shard *s = &tm->shard[n];

		t->pages += s->stats.pages;
		t->ephemeral += s->stats.pages_ephemeral;
		t->stored += s->stats.stored_bytes;
		t->objects += s->objects;
		t->object_bytes += s->object_bytes;
		stripe_add(t, &tm->stripe[n]);
		t->charged += shard_charged(s);
		t->segment_bytes +=
			table_segments(&s->table) * (uint64_t)SLAB_BLOCK_BYTES;
		t->blocks += table_segments(&s->table);
		for (unsigned k = 0; k < CELL_KINDS; k++) {
			t->cell_slack += slab_slack_bytes(&s->slab[k]);
			t->cell_live += slab_live_bytes(&s->slab[k]);
			t->blocks += s->slab[k].blocks;
		}
	}
	t->charged_client = atomic_load(&tm->shared_bytes);
	for (struct tmem_client *cl = tm->clients; cl; cl = cl->next) {
		t->charged_client += atomic_load(&cl->bytes);
		t->aged += cl->aged;
	}
}

static const char *totals_wrong(struct tmem *tm)
{
	uint64_t used = atomic_load(&tm->budget.used);
	uint64_t heap = atomic_load(&tm->budget.heap);
	uint64_t kept = arena_kept_bytes(&tm->tables);
	struct pack_usage usage;
	struct totals t;
	uint64_t heads;
	uint64_t slack;

	totals_count(tm, &t);
	pack_usage(&tm->pack, &usage);
	heads = t.objects * sizeof(struct pack_head);
	slack = t.cell_slack + kept + (t.object_bytes - t.stored - heads) +
		(usage.committed_bytes - usage.object_bytes);
	if (t.objects != usage.objects || t.object_bytes != usage.object_bytes)
		return "packed objects and pages differ";
	if (t.pages - t.refs != t.objects - t.contents)
		return "pages and what they share differ";
	if (t.aged != t.ephemeral)
		return "ephemeral pages and their ages differ";
	if (t.charged != t.charged_client)
		return "clients are charged wrongly";
	if (t.blocks + 1 != arena_blocks_given(&tm->tables))
		return "blocks are lost";
	if (used != heap + kept + usage.committed_bytes +
			    (t.blocks + 1) * SLAB_BLOCK_BYTES)
		return "memory is charged wrongly";
	if (used != t.stored + heads + heap + t.cell_live + t.segment_bytes +
			    SLAB_BLOCK_BYTES + slack)
		return "stored, metadata and slack are not what is used";
	return NULL;
}

/* No client comes, goes, or has pages dropped for others. */
static int totals_check(struct tmem *tm)
{
	const char *wrong;

	clients_take(tm, CLIENTS_CHANGE);
	shards_take(tm);
	wrong = totals_wrong(tm);
	shards_drop(tm);
	clients_drop(tm);
	if (!wrong)
		return 0;
	log_error("tmem check: %s", wrong);
	return -EUCLEAN;
}

static int structures_check(struct tmem *tm)
{
	uint32_t class;
	int rc = shards_check(tm);

	if (rc)
		return rc;
	if (pack_check(&tm->pack, &class)) {
		log_error("tmem check: packed objects of class %u", class);
		return -EUCLEAN;
	}
	rc = stripes_check(tm);
	return rc ? rc : clients_check(tm);
}

int tmem_check(const struct tmem *tm)
{
	struct tmem *inside = tmem_inside(tm);
	int rc;

	if (!tm)
		return -EINVAL;
	clients_take(inside, CLIENTS_READ);
	rc = structures_check(inside);
	clients_drop(inside);
	return rc ? rc : totals_check(inside);
}
