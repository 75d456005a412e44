/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libhv: hvd's control socket as C functions, one per method of
 * docs/control.md. The commands hv and tmem-ctl are written on it.
 *
 * A handle connects when it is first used and again after hvd went away, so a
 * program that watches survives a restart of hvd. A call sends one request
 * and waits for its reply; a request that changes something is never sent
 * twice. Every call returns 0 or a negative errno; hv_error() then says in
 * words what happened and hv_fault() whose refusal it was.
 *
 * A result is a tree of values, read by the names of docs/control.md: a newer
 * hvd may send names this library has never heard of. It belongs to the
 * caller: hv_value_free(). A handle is used by one thread at a time.
 */
#ifndef HV_LIBHV_HV_H
#define HV_LIBHV_HV_H

#include "hv/base/types.h"

#define HV_VERSION     "0.1"
#define HV_RUN_DIR     "/run/tidepool" /* or TIDEPOOL_RUN_DIR */
#define HV_SOCKET_NAME "control.sock"

struct hv;
struct hv_value;

enum hv_fault {
	HV_FAULT_NONE,
	HV_FAULT_LOCAL,	  /* not sent: bad argument or no memory */
	HV_FAULT_REACH,	  /* no connection, connection lost, no answer */
	HV_FAULT_REPLY,	  /* an answer that is not of this protocol */
	HV_FAULT_REFUSED, /* hvd answered: no */
};

enum hv_mode { HV_DO, HV_DRY_RUN };

/* socket NULL: TIDEPOOL_RUN_DIR, else HV_RUN_DIR, with HV_SOCKET_NAME. */
MUST_CHECK int hv_create(const char *socket, struct hv **out);
/* Speaks over a connected stream socket; owns fd, cannot reconnect. */
MUST_CHECK int hv_create_fd(int fd, struct hv **out);
void hv_destroy(struct hv *hv);

/* How long one call may take in all; default 60 s. */
void hv_timeout_set(struct hv *hv, unsigned ms);

/*
 * Calls fn about four times a second while an answer is waited for, from within
 * the call; NULL: no more. It may not use the handle.
 */
void hv_progress_set(struct hv *hv, void (*fn)(void *arg), void *arg);

/* Of the last call; the text stays valid until the next. Never NULL. */
const char *hv_error(const struct hv *hv);
enum hv_fault hv_fault(const struct hv *hv);
const char *hv_socket(const struct hv *hv);

/* ---- the methods ------------------------------------------------------- */

MUST_CHECK int hv_version(struct hv *hv, struct hv_value **out);
MUST_CHECK int hv_list(struct hv *hv, struct hv_value **out);
MUST_CHECK int hv_show(struct hv *hv, const char *vm, struct hv_value **out);
MUST_CHECK int hv_host(struct hv *hv, struct hv_value **out);
MUST_CHECK int hv_domains(struct hv *hv, struct hv_value **out);

/* name: one of the params of `set`; compress is 0 or 1. */
struct hv_setting {
	const char *name;
	uint64_t value;
};
MUST_CHECK int hv_set(struct hv *hv, const char *vm,
		      const struct hv_setting *settings, size_t n,
		      enum hv_mode mode, struct hv_value **out);

MUST_CHECK int hv_why(struct hv *hv, const char *vm, struct hv_value **out);
MUST_CHECK int hv_freeable(struct hv *hv, struct hv_value **out);
/* vm NULL: whoever is furthest over its share. */
MUST_CHECK int hv_flush(struct hv *hv, const char *vm, uint64_t bytes,
			enum hv_mode mode, struct hv_value **out);
/* Of the guest's own pages: refuse new keys, or take them again. */
MUST_CHECK int hv_freeze(struct hv *hv, const char *vm, enum hv_mode mode,
			 struct hv_value **out);
MUST_CHECK int hv_thaw(struct hv *hv, const char *vm, enum hv_mode mode,
		       struct hv_value **out);

/*
 * pool NULL: all of the guest's. Else its number; "ram" is refused. HV_GENTLY:
 * not if pages are there that exist nowhere else. Waits for hours if need be,
 * as save and restore do.
 */
enum hv_force { HV_GENTLY, HV_FORCE };
MUST_CHECK int hv_pool_destroy(struct hv *hv, const char *vm, const char *pool,
			       enum hv_force force, enum hv_mode mode,
			       struct hv_value **out);

/* May this VM's guest join the shared pool of this uuid? */
MUST_CHECK int hv_auth(struct hv *hv, const char *uuid, const char *vm, bool on,
		       enum hv_mode mode, struct hv_value **out);

/*
 * fd: an open file, which stays the caller's; the VM's process writes to it or
 * reads from it, so its offset tells how far that is. With HV_DRY_RUN: -1.
 */
MUST_CHECK int hv_save(struct hv *hv, const char *vm, int fd, enum hv_mode mode,
		       struct hv_value **out);
MUST_CHECK int hv_restore(struct hv *hv, const char *vm, int fd,
			  enum hv_mode mode, struct hv_value **out);
/* vm NULL: all of them. */
MUST_CHECK int hv_check(struct hv *hv, const char *vm, struct hv_value **out);
MUST_CHECK int hv_unshare(struct hv *hv, const char *vm, enum hv_mode mode,
			  struct hv_value **out);
MUST_CHECK int hv_unmanage(struct hv *hv, const char *vm, enum hv_mode mode,
			   struct hv_value **out);
MUST_CHECK int hv_pressure(struct hv *hv, const char *state, enum hv_mode mode,
			   struct hv_value **out);
/* bytes 0: the whole host. */
MUST_CHECK int hv_budget(struct hv *hv, uint64_t bytes, enum hv_mode mode,
			 struct hv_value **out);

/* ---- values ------------------------------------------------------------ */

/*
 * path names a value inside v: "mm.private_pages"; "" is v itself. v may be
 * NULL (everything is then missing). What is missing or of another type gives
 * NULL, 0 elements or -ENOENT; a number that does not fit gives -ERANGE.
 */
const struct hv_value *hv_value_get(const struct hv_value *v, const char *path);
const char *hv_value_text(const struct hv_value *v, const char *path);
MUST_CHECK int hv_value_u64(const struct hv_value *v, const char *path,
			    uint64_t *out);
MUST_CHECK int hv_value_real(const struct hv_value *v, const char *path,
			     double *out);
MUST_CHECK int hv_value_bool(const struct hv_value *v, const char *path,
			     bool *out);

/* Elements of a list, by number. */
size_t hv_value_count(const struct hv_value *v, const char *path);
const struct hv_value *hv_value_at(const struct hv_value *v, const char *path,
				   size_t i);

/* Members of an object, in the order they came. Start with a zeroed cursor. */
struct hv_cursor {
	void *iter;
	bool started;
	const char *name;
	const struct hv_value *value;
};
bool hv_value_next(const struct hv_value *object, struct hv_cursor *cursor);

enum hv_style { HV_ONE_LINE, HV_INDENTED };
/* As JSON text, for free(); NULL: no memory. */
char *hv_value_json(const struct hv_value *v, enum hv_style style);
void hv_value_free(struct hv_value *v);

#endif
