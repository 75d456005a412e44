/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See command.h.
 *
 * Saving goes on while the guest runs: passes write what changed since the last
 * until little is left or they stop getting shorter, then the end writes the
 * rest. Each page in the stream is one that was there during the last pass; who
 * wants one moment's state stops the guest first.
 *
 *   pass 1: everything,  pass n: what pass n-1 let the guest change,  end
 */
#include "hv/agent/command.h"

#include <errno.h>
#include <stdio.h>

#include "hv/mm/mm.h"

#define SAVE_REST   1024 /* pages left that the end may write */
#define SAVE_PASSES 16

bool command_is_slow(uint32_t op)
{
	return op == WIRE_CMD_DESTROY || op == WIRE_CMD_SAVE ||
	       op == WIRE_CMD_RESTORE;
}

/*
 * hvd counts in memory really freed, the store in what clients are charged:
 * the one is the other with its part of what is nobody's.
 */
static uint64_t convert(uint64_t bytes, uint64_t from, uint64_t to)
{
	double out = (double)bytes * (double)to / (double)(from ? from : 1);

	return out < 0x1p62 ? (uint64_t)out : (uint64_t)1 << 62;
}

static int flush_run(const struct command_env *env,
		     const struct wire_command *cmd, int64_t *value_out)
{
	uint64_t charged = tmem_freeable(env->tm);
	uint64_t used = tmem_freeable_used(env->tm), bytes = UINT64_MAX;

	if (cmd->arg < used)
		bytes = convert(cmd->arg, used, charged);
	bytes = tmem_flush(env->tm, bytes);
	*value_out =
		(int64_t)(bytes == charged ? used
					   : convert(bytes, charged, used));
	return 0;
}

static int set_run(const struct command_env *env,
		   const struct wire_command *cmd)
{
	if (!env->guest)
		return mm_store_set(env->mm, cmd->weight, cmd->cap_bytes,
				    cmd->reserve_bytes, cmd->compress);
	return tmem_client_set(env->guest, cmd->weight, cmd->cap_bytes,
			       cmd->reserve_bytes, cmd->compress);
}

static uint64_t pages_of(const struct tmem_client *cl)
{
	struct tmem_client_stats st;

	tmem_client_stats(cl, &st);
	return st.pages_ephemeral + st.pages_persistent;
}

/* Would pages go that exist nowhere else? */
static bool keeps_pages(const struct tmem_client *cl, int32_t pool)
{
	struct tmem_client_stats st;
	bool keeps = false;

	tmem_client_stats(cl, &st);
	for (int id = 0; id < TMEM_POOLS_MAX; id++)
		if (pool == WIRE_POOL_ALL || pool == id)
			keeps |= st.pool[id] == TMEM_POOL_PERSISTENT;
	return keeps && st.pages_persistent;
}

/* A guest may put and flush meanwhile: the count is what it lost at least. */
static int destroy_run(struct tmem_client *cl, const struct wire_command *cmd,
		       int64_t *value_out)
{
	uint64_t before = pages_of(cl), after;
	int rc = -ENOENT;

	if (!cmd->on && keeps_pages(cl, cmd->pool))
		return -ENOTEMPTY;
	for (int id = 0; id < TMEM_POOLS_MAX; id++)
		if ((cmd->pool == WIRE_POOL_ALL || cmd->pool == id) &&
		    !tmem_pool_destroy(cl, id))
			rc = 0;
	after = pages_of(cl);
	*value_out = (int64_t)(before > after ? before - after : 0);
	return cmd->pool == WIRE_POOL_ALL ? 0 : rc;
}

static int save_passes(struct tmem_saver *saver, int64_t *value_out)
{
	uint64_t pages = UINT64_MAX, last;
	int rc, n = 0;

	do {
		last = pages;
		rc = tmem_save_pass(saver, &pages);
		if (!rc)
			*value_out += (int64_t)pages;
	} while (!rc && pages > SAVE_REST && pages < last && ++n < SAVE_PASSES);
	return rc;
}

static int save_run(struct tmem_client *cl, int fd, int64_t *value_out)
{
	struct tmem_saver *saver;
	int rc = tmem_save_begin(cl, fd, &saver);

	if (rc)
		return rc;
	rc = save_passes(saver, value_out);
	if (!rc)
		return tmem_save_end(saver);
	tmem_save_cancel(saver);
	return rc;
}

static int restore_run(struct tmem_client *cl, int fd, int64_t *value_out)
{
	int rc = tmem_restore(cl, fd);

	if (!rc)
		*value_out = (int64_t)pages_of(cl);
	return rc;
}

static const char *restore_reason(int rc)
{
	switch (rc) {
	case -EEXIST:
		return "its guest has pools already; a guest that goes on "
		       "where it was saved has none before it runs";
	case -EBADMSG:
		return "the file is cut, altered, or no saved client; nothing "
		       "of it was kept";
	case -EPROTONOSUPPORT:
		return "the file was saved by a later version";
	case -EACCES:
		return "the file has a shared pool the client is not "
		       "authorised for (see auth)";
	case -ENOMEM:
		return "its pages do not fit into the client's cap; nothing of "
		       "it was kept";
	default:
		return "";
	}
}

static const char *reason(uint32_t op, int rc)
{
	if (rc == -ENXIO)
		return "it has no tmem device, so its guest has no pages here";
	if (rc == -EBUSY && wire_command_has_fd(op))
		return "another save or restore of it is under way";
	if (op == WIRE_CMD_DESTROY && rc == -ENOENT)
		return "it has no such pool";
	if (op == WIRE_CMD_DESTROY && rc == -ENOTEMPTY)
		return "the guest keeps pages there that exist nowhere else "
		       "(its swap); --force destroys them all the same";
	if (op == WIRE_CMD_SAVE && rc == -ENOSPC)
		return "there is no room for the file; save to another disk";
	return op == WIRE_CMD_RESTORE ? restore_reason(rc) : "";
}

static int guest_run(struct tmem_client *cl, const struct wire_command *cmd,
		     int fd, int64_t *value_out)
{
	if (!cl)
		return -ENXIO;
	switch (cmd->op) {
	case WIRE_CMD_FREEZE:
		return tmem_freeze(cl, cmd->on);
	case WIRE_CMD_DESTROY:
		return destroy_run(cl, cmd, value_out);
	case WIRE_CMD_SAVE:
		return save_run(cl, fd, value_out);
	case WIRE_CMD_RESTORE:
		return restore_run(cl, fd, value_out);
	default:
		return -EOPNOTSUPP;
	}
}

int command_run(const struct command_env *env, const struct wire_command *cmd,
		int fd, int64_t *value_out, char *text_out)
{
	int rc;

	*value_out = 0;
	if (cmd->op == WIRE_CMD_FLUSH)
		rc = flush_run(env, cmd, value_out);
	else if (cmd->op == WIRE_CMD_TMEM_SET)
		rc = set_run(env, cmd);
	else
		rc = guest_run(env->guest, cmd, fd, value_out);
	snprintf(text_out, WIRE_TEXT_MAX, "%s", rc ? reason(cmd->op, rc) : "");
	return rc;
}
