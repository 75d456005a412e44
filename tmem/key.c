/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From key to leaf. A get follows one chain: the leaf's bucket, where a leaf
 * of equal hash is compared through its object. Objects are looked up only to
 * make a leaf and to flush an object.
 *
 * The hash is keyed by the store's secret, so that no guest can choose its
 * keys to meet in one bucket.
 */
#include "tmem/store.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

struct hashed {
	struct tmem_oid oid;
	uint64_t pool_name;
};

uint64_t key_hash(const struct tmem *tm, uint64_t pool_name,
		  const struct tmem_oid *oid)
{
	struct hashed hashed = {*oid, pool_name};

	return XXH3_64bits_withSeed(&hashed, sizeof(hashed), tm->secret);
}

struct key key_make(struct tmem_client *cl, int pool,
		    const struct tmem_oid *oid, uint32_t index)
{
	struct key key = {
		.cl = cl,
		.pool = (uint32_t)pool,
		.index = index,
		.oid = *oid,
	};

	if (key.pool < TMEM_POOLS_MAX)
		key.name = atomic_load(&cl->slot[key.pool].name);
	key.hash = key_hash(cl->tm, key.name, &key.oid);
	return key;
}

uint64_t key_mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xD6E8FEB86659FD93u;
	x ^= x >> 32;
	x *= 0xD6E8FEB86659FD93u;
	return x ^ x >> 32;
}

struct shard *key_shard(const struct key *key)
{
	struct tmem *tm = key->cl->tm;
	uint64_t chunk = key->index >> SHARD_SHIFT;

	return &tm->shard[(key_mix(key->hash + chunk) >> 40) &
			  (tm->shards - 1)];
}

uint32_t key_leaf_hash(uint64_t hash, uint32_t base)
{
	return (uint32_t)key_mix(hash ^
				 ((uint64_t)(base >> LEAF_SHIFT) << 1 | 1));
}

static uint32_t object_hash(uint64_t hash)
{
	return (uint32_t)hash;
}

struct leaf *leaf_at(const struct shelf *shelf, uint32_t unit)
{
	return arena_unit_at(&shelf->tables, unit);
}

struct object *object_at(const struct shelf *shelf, uint32_t unit)
{
	return arena_unit_at(&shelf->tables, unit);
}

static bool is_object(const struct shelf *shelf, uint32_t unit)
{
	return slab_head_of(&shelf->tables, unit)->kind == CELL_OBJECT;
}

static bool object_is(const struct object *object, const struct key *key)
{
	return object->pool->name == key->name &&
	       !memcmp(&object->oid, &key->oid, sizeof(key->oid));
}

static uint32_t leaf_base(uint32_t index)
{
	return index & ~(LEAF_PAGES - 1);
}

uint32_t leaf_find(const struct part *part, const struct key *key)
{
	uint32_t base = leaf_base(key->index);
	uint32_t hash = key_leaf_hash(key->hash, base);
	uint32_t unit = table_first(&part->table, hash);

	LOCK_ASSERT(LOCK_SHARD);
	for (; unit; unit = leaf_at(part->shelf, unit)->node.next) {
		const struct leaf *leaf = leaf_at(part->shelf, unit);

		if (leaf->node.hash == hash && !is_object(part->shelf, unit) &&
		    leaf->base == base &&
		    object_is(object_at(part->shelf, leaf->object), key))
			break;
	}
	return unit;
}

uint32_t object_find(const struct part *part, const struct key *key)
{
	uint32_t hash = object_hash(key->hash);
	uint32_t unit = table_first(&part->table, hash);

	LOCK_ASSERT(LOCK_SHARD);
	for (; unit; unit = object_at(part->shelf, unit)->node.next) {
		const struct object *object = object_at(part->shelf, unit);

		if (object->node.hash == hash && is_object(part->shelf, unit) &&
		    object_is(object, key))
			break;
	}
	return unit;
}

static void object_link(struct part *part, struct object *object, uint32_t unit)
{
	uint32_t *first = &object->pool->object[part->n];

	object->next = *first;
	if (*first)
		object_at(part->shelf, *first)->prev = unit;
	*first = unit;
}

static int object_create(struct part *part, struct tmem_pool *pool,
			 const struct key *key, uint32_t *unit_out)
{
	struct object *object;
	int rc = pool_charge(pool, sizeof(*object));

	if (rc)
		return rc;
	rc = slab_get(&part->slab[CELL_OBJECT], unit_out);
	if (rc)
		goto uncharge;
	object = object_at(part->shelf, *unit_out);
	object->oid = key->oid;
	object->pool = pool;
	rc = table_insert(&part->table, *unit_out, object_hash(key->hash));
	if (rc)
		goto free_cell;
	object_link(part, object, *unit_out);
	return 0;

free_cell:
	slab_put(&part->slab[CELL_OBJECT], *unit_out);
uncharge:
	pool_uncharge(pool, sizeof(*object));
	return rc;
}

static void object_destroy(struct part *part, uint32_t unit)
{
	struct object *object = object_at(part->shelf, unit);
	struct tmem_pool *pool = object->pool;

	if (object->prev)
		object_at(part->shelf, object->prev)->next = object->next;
	else
		pool->object[part->n] = object->next;
	if (object->next)
		object_at(part->shelf, object->next)->prev = object->prev;
	table_remove(&part->table, unit);
	slab_put(&part->slab[CELL_OBJECT], unit);
	pool_uncharge(pool, sizeof(*object));
}

static void leaf_link(struct part *part, struct leaf *leaf, uint32_t unit)
{
	struct object *object = object_at(part->shelf, leaf->object);

	leaf->next = object->leaf_first;
	if (leaf->next)
		leaf_at(part->shelf, leaf->next)->prev = unit;
	else
		object->leaf_last = unit;
	object->leaf_first = unit;
	object->leaves++;
}

static void leaf_unlink(struct part *part, const struct leaf *leaf)
{
	struct object *object = object_at(part->shelf, leaf->object);

	if (leaf->prev)
		leaf_at(part->shelf, leaf->prev)->next = leaf->next;
	else
		object->leaf_first = leaf->next;
	if (leaf->next)
		leaf_at(part->shelf, leaf->next)->prev = leaf->prev;
	else
		object->leaf_last = leaf->prev;
	object->leaves--;
}

static int leaf_create_in(struct part *part, struct tmem_pool *pool,
			  const struct key *key, uint32_t object,
			  uint32_t *unit_out)
{
	struct slab *slab = &part->slab[CELL_LEAF];
	struct leaf *leaf;
	int rc = pool_charge(pool, slab->cell_bytes);

	if (rc)
		return rc;
	rc = slab_get(slab, unit_out);
	if (rc)
		goto uncharge;
	leaf = leaf_at(part->shelf, *unit_out);
	leaf->object = object;
	leaf->base = leaf_base(key->index);
	rc = table_insert(&part->table, *unit_out,
			  key_leaf_hash(key->hash, leaf->base));
	if (rc)
		goto free_cell;
	leaf_link(part, leaf, *unit_out);
	return 0;

free_cell:
	slab_put(slab, *unit_out);
uncharge:
	pool_uncharge(pool, slab->cell_bytes);
	return rc;
}

int leaf_create(struct part *part, struct tmem_pool *pool,
		const struct key *key, uint32_t *unit_out)
{
	uint32_t object = object_find(part, key);
	int rc;

	if (!object) {
		rc = object_create(part, pool, key, &object);
		if (rc)
			return rc;
	}
	rc = leaf_create_in(part, pool, key, object, unit_out);
	if (rc && !object_at(part->shelf, object)->leaves)
		object_destroy(part, object);
	return rc;
}

bool leaf_is_empty(const struct leaf *leaf)
{
	for (uint32_t n = 0; n < LEAF_PAGES; n++)
		if (atomic_load_explicit(&leaf->word[n], memory_order_relaxed))
			return false;
	return true;
}

void leaf_destroy(struct part *part, uint32_t unit)
{
	struct leaf *leaf = leaf_at(part->shelf, unit);
	uint32_t object = leaf->object;
	struct tmem_pool *pool = object_at(part->shelf, object)->pool;
	struct slab *slab = &part->slab[CELL_LEAF];

	leaf_unlink(part, leaf);
	table_remove(&part->table, unit);
	slab_put(slab, unit);
	pool_uncharge(pool, slab->cell_bytes);
	if (!object_at(part->shelf, object)->leaves)
		object_destroy(part, object);
}
