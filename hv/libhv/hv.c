/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handle and its calls. Each method is one line that packs its params;
 * call() does the rest: connect, send, wait, check the reply, keep the text.
 *
 * hvd may have been restarted since the last call. That is seen before sending
 * (the old connection has ended, so it is not quiet) and answered with a new
 * connection; once a request is out it is never repeated, because nobody knows
 * whether it was carried out. A reply is believed only if it is an object with
 * our id and either a result or an error.
 */
#include "hv/libhv/hv.h"
#include "hv/libhv/link.h"
#include "hv/libhv/value.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 60000
#define LONG_MS                                                                \
	(6u * 3600 * 1000 + TIMEOUT_MS) /* hvd's own patience and more */
#define REQUEST_MAX ((size_t)64 << 10)	/* hvd hangs up on a longer line */
#define ERRNO_MAX   133

struct hv {
	struct hv_link link;
	bool reconnects;
	unsigned timeout_ms;
	uint64_t next_id;
	enum hv_fault fault;
	char error[1024];
	char socket[PATH_MAX];
};

static int PRINTF(4, 5)
	fail(struct hv *hv, int rc, enum hv_fault fault, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(hv->error, sizeof(hv->error), fmt, ap);
	va_end(ap);
	hv->fault = fault;
	if (fault == HV_FAULT_REACH || fault == HV_FAULT_REPLY)
		hv_link_drop(&hv->link);
	return rc;
}

static int handle_create(struct hv **out)
{
	struct hv *hv = calloc(1, sizeof(*hv));

	if (!hv)
		return -ENOMEM;
	hv_link_init(&hv->link);
	hv->timeout_ms = TIMEOUT_MS;
	hv->next_id = 1;
	*out = hv;
	return 0;
}

int hv_create(const char *socket, struct hv **out)
{
	const char *dir = getenv("TIDEPOOL_RUN_DIR");
	struct hv *hv;
	int n, rc = handle_create(&hv);

	if (rc)
		return rc;
	if (socket)
		n = snprintf(hv->socket, sizeof(hv->socket), "%s", socket);
	else
		n = snprintf(hv->socket, sizeof(hv->socket), "%s/%s",
			     dir && *dir ? dir : HV_RUN_DIR, HV_SOCKET_NAME);
	if ((size_t)n >= sizeof(hv->socket)) {
		hv_destroy(hv);
		return -ENAMETOOLONG;
	}
	hv->reconnects = true;
	*out = hv;
	return 0;
}

int hv_create_fd(int fd, struct hv **out)
{
	int rc = handle_create(out);

	if (rc)
		return rc;
	(*out)->link.fd = fd;
	strcpy((*out)->socket, "(a connection)");
	return 0;
}

void hv_destroy(struct hv *hv)
{
	if (!hv)
		return;
	hv_link_fini(&hv->link);
	free(hv);
}

void hv_timeout_set(struct hv *hv, unsigned ms)
{
	hv->timeout_ms = ms;
}

const char *hv_error(const struct hv *hv)
{
	return hv->error;
}

void hv_progress_set(struct hv *hv, void (*fn)(void *arg), void *arg)
{
	hv->link.tick = fn;
	hv->link.tick_arg = arg;
}

enum hv_fault hv_fault(const struct hv *hv)
{
	return hv->fault;
}

const char *hv_socket(const struct hv *hv)
{
	return hv->socket;
}

/* ---- one call ------------------------------------------------------------ */

static int ready(struct hv *hv, uint64_t deadline)
{
	int rc;

	if (hv->link.fd >= 0 &&
	    (!hv->reconnects || hv_link_is_quiet(&hv->link)))
		return 0;
	hv_link_drop(&hv->link);
	rc = hv->reconnects ? hv_link_connect(&hv->link, hv->socket, deadline)
			    : -ENOTCONN;
	if (rc)
		return fail(hv, rc, HV_FAULT_REACH, "%s", strerror(-rc));
	return 0;
}

static int errno_of(const char *name)
{
	for (int e = 1; name && e <= ERRNO_MAX; e++) {
		const char *known = strerrorname_np(e);

		if (known && !strcmp(known, name))
			return e;
	}
	return EPROTO; /* a name of another system: still a refusal */
}

/* An error may come without our id: hvd refuses some peers unheard. */
static bool id_matches(const json_t *reply, uint64_t id)
{
	const json_t *got = json_object_get(reply, "id");

	if (json_object_get(reply, "error") && (!got || json_is_null(got)))
		return true;
	return json_is_integer(got) &&
	       json_integer_value(got) == (json_int_t)id;
}

static int reply_judge(struct hv *hv, json_t *reply, uint64_t id,
		       struct hv_value **out)
{
	json_t *error = json_object_get(reply, "error");
	json_t *result = json_object_get(reply, "result");
	const char *text = json_string_value(json_object_get(error, "message"));
	const char *name = json_string_value(json_object_get(error, "errno"));

	if (!json_is_object(reply) || !id_matches(reply, id))
		return fail(hv, -EPROTO, HV_FAULT_REPLY,
			    "the reply is not to what was asked");
	if (json_is_object(error))
		return fail(hv, -errno_of(name), HV_FAULT_REFUSED, "%s",
			    text ? text : "refused without a reason");
	if (!json_is_object(result))
		return fail(hv, -EPROTO, HV_FAULT_REPLY,
			    "the reply has neither result nor error");
	*out = hv_value_of(json_incref(result));
	return 0;
}

static int reply_take(struct hv *hv, uint64_t id, uint64_t deadline,
		      struct hv_value **out)
{
	json_error_t where;
	json_t *reply;
	char *line;
	size_t n;
	int rc = hv_link_line(&hv->link, &line, &n, deadline);

	if (rc == -EMSGSIZE)
		return fail(hv, rc, HV_FAULT_REPLY, "the reply has no end");
	if (rc)
		return fail(hv, rc, HV_FAULT_REACH, "no reply: %s",
			    rc == -ECONNRESET ? "hvd closed the connection"
					      : strerror(-rc));
	reply = json_loadb(line, n, JSON_REJECT_DUPLICATES, &where);
	if (!reply)
		return fail(hv, -EPROTO, HV_FAULT_REPLY,
			    "the reply is not JSON: %s", where.text);
	rc = reply_judge(hv, reply, id, out);
	json_decref(reply);
	return rc;
}

static int exchange(struct hv *hv, const char *line, uint64_t id, int fd,
		    struct hv_value **out)
{
	uint64_t deadline = hv_link_deadline(hv->timeout_ms);
	int rc = ready(hv, deadline);

	if (rc)
		return rc;
	rc = hv_link_send(&hv->link, line, strlen(line), fd, deadline);
	/* On EPIPE hvd may still have left its reason to be read. */
	if (rc && rc != -EPIPE)
		return fail(hv, rc, HV_FAULT_REACH, "cannot send: %s",
			    strerror(-rc));
	return reply_take(hv, id, deadline, out);
}

/* Owns params; NULL params: they could not be packed. fd goes along. */
static int call_with(struct hv *hv, const char *method, json_t *params, int fd,
		     struct hv_value **out)
{
	uint64_t id = hv->next_id++;
	json_t *request = NULL;
	char *text = NULL, *line = NULL;
	int rc;

	*out = NULL;
	hv->fault = HV_FAULT_NONE;
	hv->error[0] = '\0';
	if (!params)
		return fail(hv, -EINVAL, HV_FAULT_LOCAL,
			    "a name is not valid UTF-8");
	request = json_pack("{s:I, s:s, s:o}", "id", (json_int_t)id, "method",
			    method, "params", params);
	text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!text || asprintf(&line, "%s\n", text) < 0)
		rc = fail(hv, -ENOMEM, HV_FAULT_LOCAL, "no memory");
	else if (strlen(line) > REQUEST_MAX)
		rc = fail(hv, -E2BIG, HV_FAULT_LOCAL,
			  "the request is too long");
	else
		rc = exchange(hv, line, id, fd, out);
	free(text);
	free(line);
	return rc;
}

static int call(struct hv *hv, const char *method, json_t *params,
		struct hv_value **out)
{
	return call_with(hv, method, params, -1, out);
}

/* One that may take hours. */
static int call_long(struct hv *hv, const char *method, json_t *params, int fd,
		     struct hv_value **out)
{
	unsigned usual = hv->timeout_ms;
	int rc;

	if (usual == TIMEOUT_MS)
		hv->timeout_ms = LONG_MS;
	rc = call_with(hv, method, params, fd, out);
	hv->timeout_ms = usual;
	return rc;
}

/* ---- the methods ------------------------------------------------------- */

int hv_version(struct hv *hv, struct hv_value **out)
{
	return call(hv, "version", json_object(), out);
}

int hv_list(struct hv *hv, struct hv_value **out)
{
	return call(hv, "list", json_object(), out);
}

int hv_show(struct hv *hv, const char *vm, struct hv_value **out)
{
	return call(hv, "show", json_pack("{s:s}", "vm", vm), out);
}

int hv_host(struct hv *hv, struct hv_value **out)
{
	return call(hv, "host", json_object(), out);
}

int hv_domains(struct hv *hv, struct hv_value **out)
{
	return call(hv, "domains", json_object(), out);
}

int hv_why(struct hv *hv, const char *vm, struct hv_value **out)
{
	return call(hv, "why", json_pack("{s:s}", "vm", vm), out);
}

int hv_freeable(struct hv *hv, struct hv_value **out)
{
	return call(hv, "freeable", json_object(), out);
}

int hv_check(struct hv *hv, const char *vm, struct hv_value **out)
{
	return call(hv, "check", json_pack("{s:s*}", "vm", vm), out);
}

/* JSON knows no number beyond this, nor does any host have as many bytes. */
static bool fits(uint64_t n)
{
	return n <= INT64_MAX;
}

static json_t *setting_json(const struct hv_setting *setting)
{
	if (!strcmp(setting->name, "compress"))
		return json_boolean(setting->value != 0);
	return json_integer((json_int_t)setting->value);
}

int hv_set(struct hv *hv, const char *vm, const struct hv_setting *settings,
	   size_t n, enum hv_mode mode, struct hv_value **out)
{
	json_t *params = json_pack("{s:s, s:b}", "vm", vm, "dry_run",
				   mode == HV_DRY_RUN);

	for (size_t i = 0; params && i < n; i++) {
		if (fits(settings[i].value) &&
		    !json_object_set_new(params, settings[i].name,
					 setting_json(&settings[i])))
			continue;
		json_decref(params);
		return fail(hv, -EINVAL, HV_FAULT_LOCAL, "%s is out of range",
			    settings[i].name);
	}
	return call(hv, "set", params, out);
}

int hv_flush(struct hv *hv, const char *vm, uint64_t bytes, enum hv_mode mode,
	     struct hv_value **out)
{
	if (!fits(bytes))
		return fail(hv, -EINVAL, HV_FAULT_LOCAL, "too many bytes");
	return call(hv, "flush",
		    json_pack("{s:I, s:s*, s:b}", "bytes", (json_int_t)bytes,
			      "vm", vm, "dry_run", mode == HV_DRY_RUN),
		    out);
}

static json_t *vm_json(const char *vm, enum hv_mode mode)
{
	return json_pack("{s:s, s:b}", "vm", vm, "dry_run", mode == HV_DRY_RUN);
}

static int vm_change(struct hv *hv, const char *method, const char *vm,
		     enum hv_mode mode, struct hv_value **out)
{
	return call(hv, method, vm_json(vm, mode), out);
}

int hv_freeze(struct hv *hv, const char *vm, enum hv_mode mode,
	      struct hv_value **out)
{
	return vm_change(hv, "freeze", vm, mode, out);
}

int hv_thaw(struct hv *hv, const char *vm, enum hv_mode mode,
	    struct hv_value **out)
{
	return vm_change(hv, "thaw", vm, mode, out);
}

static json_t *pool_json(const char *pool)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(pool, &end, 10);
	if (*pool < '0' || *pool > '9' || *end || errno || !fits(n))
		return json_string(pool);
	return json_integer((json_int_t)n);
}

int hv_pool_destroy(struct hv *hv, const char *vm, const char *pool,
		    enum hv_force force, enum hv_mode mode,
		    struct hv_value **out)
{
	return call_long(hv, "destroy",
			 json_pack("{s:s, s:o*, s:b, s:b}", "vm", vm, "pool",
				   pool ? pool_json(pool) : NULL, "force",
				   force == HV_FORCE, "dry_run",
				   mode == HV_DRY_RUN),
			 -1, out);
}

int hv_auth(struct hv *hv, const char *uuid, const char *vm, bool on,
	    enum hv_mode mode, struct hv_value **out)
{
	return call(hv, "auth",
		    json_pack("{s:s, s:s, s:b, s:b}", "uuid", uuid, "vm", vm,
			      "on", on, "dry_run", mode == HV_DRY_RUN),
		    out);
}

int hv_save(struct hv *hv, const char *vm, int fd, enum hv_mode mode,
	    struct hv_value **out)
{
	return call_long(hv, "save", vm_json(vm, mode), fd, out);
}

int hv_restore(struct hv *hv, const char *vm, int fd, enum hv_mode mode,
	       struct hv_value **out)
{
	return call_long(hv, "restore", vm_json(vm, mode), fd, out);
}

int hv_unshare(struct hv *hv, const char *vm, enum hv_mode mode,
	       struct hv_value **out)
{
	return vm_change(hv, "unshare", vm, mode, out);
}

int hv_unmanage(struct hv *hv, const char *vm, enum hv_mode mode,
		struct hv_value **out)
{
	return vm_change(hv, "unmanage", vm, mode, out);
}

int hv_pressure(struct hv *hv, const char *state, enum hv_mode mode,
		struct hv_value **out)
{
	return call(hv, "pressure",
		    json_pack("{s:s, s:b}", "state", state, "dry_run",
			      mode == HV_DRY_RUN),
		    out);
}

int hv_budget(struct hv *hv, uint64_t bytes, enum hv_mode mode,
	      struct hv_value **out)
{
	if (!fits(bytes))
		return fail(hv, -EINVAL, HV_FAULT_LOCAL, "too many bytes");
	return call(hv, "budget",
		    json_pack("{s:I, s:b}", "bytes", (json_int_t)bytes,
			      "dry_run", mode == HV_DRY_RUN),
		    out);
}
