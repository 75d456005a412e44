/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Values of a reply, read by name. struct hv_value is never defined: a pointer
 * to one is jansson's json_t under a name of our own, so that the library can
 * be changed without changing its users. All checks of what hvd sent happen
 * here, at the moment of use: a name that is missing, or of another type, is
 * reported as missing.
 */
#include "hv/libhv/value.h"

#include <errno.h>
#include <string.h>

struct hv_value *hv_value_of(json_t *json)
{
	return (struct hv_value *)json;
}

static const json_t *json_of(const struct hv_value *v)
{
	return (const json_t *)v;
}

/* jansson's iterators want a pointer they could write through. */
static json_t *json_writable(const struct hv_value *v)
{
	return (json_t *)(uintptr_t)v;
}

static const json_t *path_find(const json_t *json, const char *path)
{
	char name[64];

	while (json && *path) {
		size_t n = strcspn(path, ".");

		if (n >= sizeof(name))
			return NULL;
		memcpy(name, path, n);
		name[n] = '\0';
		json = json_object_get(json, name);
		path += n + (path[n] == '.');
	}
	return json;
}

const struct hv_value *hv_value_get(const struct hv_value *v, const char *path)
{
	return (const struct hv_value *)path_find(json_of(v), path);
}

const char *hv_value_text(const struct hv_value *v, const char *path)
{
	return json_string_value(path_find(json_of(v), path));
}

int hv_value_u64(const struct hv_value *v, const char *path, uint64_t *out)
{
	const json_t *json = path_find(json_of(v), path);

	if (!json_is_integer(json))
		return -ENOENT;
	if (json_integer_value(json) < 0)
		return -ERANGE;
	*out = (uint64_t)json_integer_value(json);
	return 0;
}

int hv_value_real(const struct hv_value *v, const char *path, double *out)
{
	const json_t *json = path_find(json_of(v), path);

	if (!json_is_number(json))
		return -ENOENT;
	*out = json_number_value(json);
	return 0;
}

int hv_value_bool(const struct hv_value *v, const char *path, bool *out)
{
	const json_t *json = path_find(json_of(v), path);

	if (!json_is_boolean(json))
		return -ENOENT;
	*out = json_is_true(json);
	return 0;
}

size_t hv_value_count(const struct hv_value *v, const char *path)
{
	return json_array_size(path_find(json_of(v), path));
}

const struct hv_value *hv_value_at(const struct hv_value *v, const char *path,
				   size_t i)
{
	return hv_value_of(json_array_get(path_find(json_of(v), path), i));
}

bool hv_value_next(const struct hv_value *object, struct hv_cursor *cursor)
{
	json_t *json = json_writable(object);

	cursor->iter = cursor->started
			       ? json_object_iter_next(json, cursor->iter)
			       : json_object_iter(json);
	cursor->started = true;
	if (!cursor->iter)
		return false;
	cursor->name = json_object_iter_key(cursor->iter);
	cursor->value = hv_value_of(json_object_iter_value(cursor->iter));
	return true;
}

char *hv_value_json(const struct hv_value *v, enum hv_style style)
{
	size_t flags = JSON_ENCODE_ANY;

	flags |= style == HV_INDENTED ? JSON_INDENT(2) : JSON_COMPACT;
	return json_dumps(json_of(v), flags);
}

void hv_value_free(struct hv_value *v)
{
	json_decref((json_t *)v);
}
