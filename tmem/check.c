/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tmem_check: is everything as the essays say? One shard at a time, each node
 * of its table with its lists, words and checksums, counted anew and compared
 * with the counters; each class of packed objects against its owners' words;
 * each client's list by age; and last, with everything held, the sums:
 *
 *   used      = heap + blocks given + blocks kept + pages committed + leaving
 *   pages     = packed objects + references - what they refer to
 *   slack     = free cells + class rounding + ends of pages + kept blocks
 *               + leaving
 */
#include "hv/base/log.h"
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

static const char *kind_name(const struct shelf *shelf)
{
	return shelf->kind == KIND_EPHEMERAL ? "ephemeral" : "persistent";
}

/* What is counted anew of a part. */
struct census {
	struct tally tally; /* pages alone */
	uint32_t nodes;
	uint32_t cells[CELL_KINDS];
};

static int complain(const struct part *part, const char *what)
{
	log_error("tmem check: shard %u, %s pages: %s", part->n,
		  kind_name(part->shelf), what);
	return -EUCLEAN;
}

static uint64_t object_key_hash(const struct object *object)
{
	return key_hash(object->pool->tm, object->pool->name, &object->oid);
}

static int object_check(const struct part *part, uint32_t unit)
{
	const struct object *object = object_at(part->shelf, unit);
	uint32_t prev = 0;
	uint32_t n = 0;
	uint32_t at;

	if (object->node.hash != (uint32_t)object_key_hash(object))
		return complain(part, "an object under a wrong hash");
	for (at = object->leaf_first; at; at = leaf_at(part->shelf, at)->next) {
		const struct leaf *leaf = leaf_at(part->shelf, at);

		if (leaf->object != unit || leaf->prev != prev ||
		    ++n > object->leaves)
			return complain(part, "an object's leaves are tangled");
		prev = at;
	}
	if (!n || n != object->leaves || prev != object->leaf_last)
		return complain(part, "an object has lost leaves");
	return 0;
}

static int page_check(const struct part *part, uint32_t word_name,
		      uint64_t word, struct census *census)
{
	_Alignas(16) unsigned char buf[PAGE_BYTES];
	struct pack_item item;
	uint32_t bytes = pack_word_bytes(word);
	uint32_t tag = pack_word_tag(word);

	if (!bytes || bytes > PAGE_BYTES || !tag)
		return complain(part, "a word that says nothing");
	pack_read(&part->shelf->pack, word_name, buf, &item);
	if (codec_sum(buf, bytes) != item.sum)
		return complain(part, "a page does not match its checksum");
	census->tally.pages++;
	census->tally.same_filled += tag == CODEC_SAME;
	census->tally.raw += tag == CODEC_RAW;
	census->tally.dense += tag == CODEC_DENSE;
	return 0;
}

static int leaf_check(const struct part *part, uint32_t unit,
		      struct census *census)
{
	const struct leaf *leaf = leaf_at(part->shelf, unit);
	const struct object *object = object_at(part->shelf, leaf->object);
	uint64_t hash = object_key_hash(object);
	int rc = 0;

	if (leaf->node.hash != key_leaf_hash(hash, leaf->base) ||
	    leaf->base % LEAF_PAGES)
		return complain(part, "a leaf under a wrong hash");
	if (object->pool->kind != part->shelf->kind)
		return complain(part, "a leaf of the wrong kind");
	if (leaf_is_empty(leaf))
		return complain(part, "an empty leaf");
	for (uint32_t n = 0; n < LEAF_PAGES && !rc; n++) {
		uint64_t word = atomic_load(&leaf->word[n]);

		if (word)
			rc = page_check(part, word_unit(unit, n), word, census);
	}
	return rc;
}

static int node_check(const struct part *part, uint32_t unit, uint32_t bucket,
		      struct census *census)
{
	const struct slab_head *head = slab_head_of(&part->shelf->tables, unit);
	const struct table_node *node =
		arena_unit_at(&part->shelf->tables, unit);

	if (++census->nodes > part->table.nodes)
		return complain(part, "more nodes than were inserted");
	if (head->shard != part->n || head->kind >= CELL_KINDS)
		return complain(part, "a node of another shard");
	if (table_bucket_of(&part->table, node->hash) != bucket)
		return complain(part, "a node in a wrong bucket");
	census->cells[head->kind]++;
	if (head->kind == CELL_OBJECT)
		return object_check(part, unit);
	return leaf_check(part, unit, census);
}

static int census_compare(const struct part *part, struct census *census)
{
	const struct tally *a = &census->tally;
	const struct tally *b = &part->tally;

	for (unsigned k = 0; k < CELL_KINDS; k++)
		if (census->cells[k] != part->slab[k].cells)
			return complain(part, "cells are lost");
	if (census->nodes != part->table.nodes)
		return complain(part, "nodes are lost");
	if (a->pages != b->pages || a->same_filled != b->same_filled ||
	    a->raw != b->raw || a->dense != b->dense)
		return complain(part, "pages are miscounted");
	return 0;
}

static int part_check(const struct part *part)
{
	struct census census = {0};
	uint32_t unit;
	int rc = 0;

	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t b = 0; b < part->table.buckets; b++) {
		unit = table_bucket_first(&part->table, b);
		while (unit && !rc) {
			const struct table_node *node =
				arena_unit_at(&part->shelf->tables, unit);

			rc = node_check(part, unit, b, &census);
			unit = node->next;
		}
		if (rc)
			return rc;
	}
	return census_compare(part, &census);
}

/* Shard n's part of what there is. */
static int shelf_check(struct shelf *shelf, unsigned n)
{
	struct lock *lock = &shelf->tm->shard[n].lock;
	int rc;

	lock_take(lock);
	rc = part_check(&shelf->part[n]);
	lock_drop(lock);
	if (!rc && stripe_check(&shelf->stripe[n])) {
		log_error("tmem check: index of contents %u", n);
		rc = -EUCLEAN;
	}
	return rc;
}

static int packed_check(struct shelf *shelf, uint32_t class)
{
	if (!pack_class_check(&shelf->pack, class))
		return 0;
	log_error("tmem check: packed objects of class %u", class);
	return -EUCLEAN;
}

/*
 * One step of it for all shelves; without the lock between two, so that nothing
 * that changes clients or shelves waits longer than for one.
 */
static int step_check(struct tmem *tm,
		      int (*check)(struct shelf *shelf, uint32_t n), uint32_t n)
{
	int rc = 0;

	clients_take(tm, CLIENTS_READ);
	for (unsigned k = 0; k < KINDS && !rc; k++)
		if (tm->shelf[k])
			rc = check(tm->shelf[k], n);
	clients_drop(tm);
	return rc;
}

static int clients_check(struct tmem *tm)
{
	int rc = 0;

	clients_take(tm, CLIENTS_READ);
	for (struct tmem_client *cl = tm->clients; cl && !rc; cl = cl->next) {
		rc = age_check(cl);
		if (rc)
			log_error("tmem check: client %s: pages by age",
				  cl->name);
	}
	clients_drop(tm);
	return rc;
}

/* The whole store, all shards held. */
struct totals {
	struct tally tally;
	struct pack_usage usage;
	uint64_t aged;
	uint64_t ephemeral;
	uint64_t refs;		 /* pages that share an object */
	uint64_t contents;	 /* objects that are shared */
	uint64_t charged;	 /* to clients, as the shelves see it */
	uint64_t charged_client; /* as the clients see it */
	uint64_t cell_slack;
	uint64_t cell_live;
	uint64_t segment_bytes;
	uint64_t blocks;
	uint64_t given;
	uint64_t kept; /* bytes */
};

static void tally_add(struct tally *sum, const struct tally *tally)
{
	sum->pages += tally->pages;
	sum->stored_bytes += tally->stored_bytes;
	sum->objects += tally->objects;
	sum->object_bytes += tally->object_bytes;
}

static void stripe_add(struct totals *t, const struct stripe *st)
{
	t->refs += st->refs;
	t->contents += st->contents.cells;
	t->blocks += stripe_blocks(st);
	t->cell_live += stripe_live_bytes(st);
	t->cell_slack +=
		slab_slack_bytes(&st->lines) + slab_slack_bytes(&st->contents);
}

static void part_add(struct totals *t, const struct part *part)
{
	tally_add(&t->tally, &part->tally);
	t->charged += part_charged(part);
	t->segment_bytes +=
		table_segments(&part->table) * (uint64_t)SLAB_BLOCK_BYTES;
	t->blocks += table_segments(&part->table);
	for (unsigned k = 0; k < CELL_KINDS; k++) {
		t->cell_slack += slab_slack_bytes(&part->slab[k]);
		t->cell_live += slab_live_bytes(&part->slab[k]);
		t->blocks += part->slab[k].blocks;
	}
}

static void shelf_add(struct totals *t, struct shelf *shelf)
{
	struct pack_usage usage;

	for (unsigned n = 0; n < shelf->tm->shards; n++) {
		part_add(t, &shelf->part[n]);
		stripe_add(t, &shelf->stripe[n]);
		if (shelf->kind == KIND_EPHEMERAL)
			t->ephemeral += shelf->part[n].tally.pages;
	}
	/* The block of scratch words. */
	t->cell_live += SLAB_BLOCK_BYTES;
	t->blocks++;
	t->given += arena_blocks_given(&shelf->tables);
	t->kept += arena_kept_bytes(&shelf->tables);
	pack_usage(&shelf->pack, &usage);
	t->usage.committed_bytes += usage.committed_bytes;
	t->usage.object_bytes += usage.object_bytes;
	t->usage.objects += usage.objects;
}

static void totals_count(const struct tmem *tm, struct totals *t)
{
	memset(t, 0, sizeof(*t));
	for (unsigned k = 0; k < KINDS; k++)
		if (tm->shelf[k])
			shelf_add(t, tm->shelf[k]);
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
	uint64_t leaving = atomic_load(&tm->leaving);
	struct totals t;
	uint64_t heads;
	uint64_t slack;

	totals_count(tm, &t);
	heads = t.tally.objects * sizeof(struct pack_head);
	slack = t.cell_slack + t.kept + leaving +
		(t.tally.object_bytes - t.tally.stored_bytes - heads) +
		(t.usage.committed_bytes - t.usage.object_bytes);
	if (t.tally.objects != t.usage.objects ||
	    t.tally.object_bytes != t.usage.object_bytes)
		return "packed objects and pages differ";
	if (t.tally.pages - t.refs != t.tally.objects - t.contents)
		return "pages and what they share differ";
	if (t.aged != t.ephemeral)
		return "ephemeral pages and their ages differ";
	if (t.charged != t.charged_client)
		return "clients are charged wrongly";
	if (t.blocks != t.given)
		return "blocks are lost";
	if (used != heap + t.kept + leaving + t.usage.committed_bytes +
			    t.blocks * SLAB_BLOCK_BYTES)
		return "memory is charged wrongly";
	if (used != t.tally.stored_bytes + heads + heap + t.cell_live +
			    t.segment_bytes + slack)
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

int tmem_check(const struct tmem *tm)
{
	struct tmem *inside = tmem_inside(tm);
	int rc = 0;

	if (!tm)
		return -EINVAL;
	for (unsigned n = 0; n < tm->shards && !rc; n++)
		rc = step_check(inside, shelf_check, n);
	for (uint32_t class = 0; class < PACK_CLASSES && !rc; class ++)
		rc = step_check(inside, packed_check, class);
	if (!rc)
		rc = clients_check(inside);
	return rc ? rc : totals_check(inside);
}
