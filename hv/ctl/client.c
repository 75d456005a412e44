/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verbs about a guest's own pages in the store.
 *
 * save and restore open the file here, with the rights of whoever calls, and
 * pass it on; the VM's process reads or writes it. The two share one file
 * offset, so looking at it tells how far that is, without a message.
 *
 * A file being saved is FILE.part until it is whole, so what is called FILE can
 * be restored. `-` is standard output or input. That name is taken from a file
 * only: /dev/null would be a file from then on.
 */
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"
#include "hv/ctl/verbs.h"
#include "hv/ctl/view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES (PATH_MAX + 512)

/* Prints the reply as JSON, or the line that says it; frees value. */
static enum ctl_exit reply_out(struct ctl *ctl, FILE *out,
			       struct hv_value *value, char *line)
{
	enum ctl_exit exit_code = CTL_DONE;

	text_clean(line);
	if (ctl_has(ctl, OPT_JSON) && out == ctl->out)
		exit_code = ctl_json(ctl, value);
	else
		fprintf(out, "%s\n", line);
	hv_value_free(value);
	return exit_code;
}

static const char *is_or_would_be(const struct ctl *ctl)
{
	return ctl_has(ctl, OPT_DRY_RUN) ? "would be" : "is";
}

enum ctl_exit client_freeze(struct ctl *ctl)
{
	char line[LINE_BYTES];
	struct hv_value *value;

	if (hv_freeze(ctl->hv, ctl->args[0], ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s %s frozen: its guest puts no new page",
		 ctl->args[0], is_or_would_be(ctl));
	return reply_out(ctl, ctl->out, value, line);
}

enum ctl_exit client_thaw(struct ctl *ctl)
{
	char line[LINE_BYTES];
	struct hv_value *value;

	if (hv_thaw(ctl->hv, ctl->args[0], ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s %s thawed", ctl->args[0],
		 is_or_would_be(ctl));
	return reply_out(ctl, ctl->out, value, line);
}

static const char *pages_of(char *buf, const struct hv_value *value)
{
	static const struct view_field field = {NULL, "pages", VIEW_ID};

	return view_format(buf, value, &field);
}

enum ctl_exit client_destroy(struct ctl *ctl)
{
	char *vm = ctl->args[0], *pool = strchr(vm, ':');
	char line[LINE_BYTES], pages[VIEW_TEXT_MAX];
	struct hv_value *value;
	int rc;

	if (pool)
		*pool++ = '\0';
	if (pool && !*pool)
		return ctl_usage(ctl, "%s: which pool?", vm);
	rc = hv_pool_destroy(ctl->hv, vm, pool,
			     ctl_has(ctl, OPT_FORCE) ? HV_FORCE : HV_GENTLY,
			     ctl_mode(ctl), &value);
	if (rc)
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s: %s%s %s destroyed, %s pages freed",
		 vm, pool ? "pool " : "every pool", pool ? pool : "",
		 is_or_would_be(ctl), pages_of(pages, value));
	return reply_out(ctl, ctl->out, value, line);
}

enum ctl_exit client_auth(struct ctl *ctl)
{
	const char *uuid = ctl->args[0], *vm = ctl->args[1];
	const char *word = ctl->args[2];
	bool on = !strcmp(word, "on");
	char line[LINE_BYTES];
	struct hv_value *value;

	if (!on && strcmp(word, "off"))
		return ctl_usage(ctl, "`%s` is neither on nor off", word);
	if (hv_auth(ctl->hv, uuid, vm, on, ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s %s %s join the shared pool %s", vm,
		 ctl_has(ctl, OPT_DRY_RUN) ? "would be told it" : "now",
		 on ? "may" : "may not", uuid);
	return reply_out(ctl, ctl->out, value, line);
}

/* ---- save and restore ---------------------------------------------------- */

struct stream {
	struct ctl *ctl;
	int fd;
	uint64_t total; /* bytes expected; 0: unknown */
	bool shows;	/* on a terminal */
	bool shown;
};

static void progress_show(void *arg)
{
	struct stream *s = arg;
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
	off_t at = s->fd < 0 ? -1 : lseek(s->fd, 0, SEEK_CUR);

	if (!s->shows || at <= 0)
		return;
	if (s->total)
		fprintf(s->ctl->err, "\r%s of about %s \033[K",
			size_format(a, (uint64_t)at),
			size_format(b, max_u64(s->total, (uint64_t)at)));
	else
		fprintf(s->ctl->err, "\r%s \033[K",
			size_format(a, (uint64_t)at));
	fflush(s->ctl->err);
	s->shown = true;
}

static void progress_begin(struct stream *s)
{
	s->shows = isatty(fileno(s->ctl->err));
	hv_progress_set(s->ctl->hv, progress_show, s);
}

static void progress_end(struct stream *s)
{
	hv_progress_set(s->ctl->hv, NULL, NULL);
	if (s->shown)
		fputs("\r\033[K", s->ctl->err);
}

/* What its persistent pages take now; 0: nobody knows. */
static uint64_t bytes_kept(struct ctl *ctl, const char *vm)
{
	struct hv_value *value;
	uint64_t used = 0, dropped = 0;

	if (hv_show(ctl->hv, vm, &value))
		return 0;
	if (hv_value_u64(value, "guest.used_bytes", &used) ||
	    hv_value_u64(value, "guest.ephemeral_bytes", &dropped))
		used = dropped = 0;
	hv_value_free(value);
	return used > dropped ? used - dropped : 0;
}

static bool is_dash(const char *path)
{
	return !strcmp(path, "-");
}

static enum ctl_exit part_name(struct ctl *ctl, const char *path, char *part)
{
	int n = snprintf(part, PATH_MAX, "%s.part", path);

	return n < PATH_MAX ? CTL_DONE
			    : ctl_refuse(ctl, "%s: the name is too long", path);
}

static enum ctl_exit save_open(struct ctl *ctl, const char *path, char *part,
			       int *fd_out)
{
	enum ctl_exit exit_code;
	struct stat st;

	if (is_dash(path)) {
		if (isatty(STDOUT_FILENO))
			return ctl_usage(ctl, "no save to a terminal");
		*fd_out = STDOUT_FILENO;
		return CTL_DONE;
	}
	if (!stat(path, &st) && !S_ISREG(st.st_mode))
		return ctl_refuse(ctl,
				  "%s is no regular file; `-` writes to "
				  "standard output",
				  path);
	exit_code = part_name(ctl, path, part);
	if (exit_code)
		return exit_code;
	*fd_out = open(part,
		       O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
		       0600);
	if (*fd_out < 0)
		return ctl_refuse(ctl, "%s: %s", part, strerror(errno));
	return CTL_DONE;
}

/* Only what is on the disk gets its name. */
static enum ctl_exit save_close(struct ctl *ctl, const char *path,
				const char *part, int fd)
{
	int rc = fsync(fd) && errno != EINVAL ? -errno : 0;

	if (close(fd) && !rc)
		rc = -errno;
	if (!rc && rename(part, path))
		rc = -errno;
	if (!rc)
		return CTL_DONE;
	unlink(part);
	return ctl_refuse(ctl, "%s: %s", path, strerror(-rc));
}

static enum ctl_exit saved_say(struct ctl *ctl, struct hv_value *value)
{
	char line[LINE_BYTES], pages[VIEW_TEXT_MAX];

	snprintf(line, sizeof(line), "%s: %s pages %ssaved to %s", ctl->args[0],
		 pages_of(pages, value),
		 ctl_has(ctl, OPT_DRY_RUN) ? "would be " : "", ctl->args[1]);
	return reply_out(ctl, is_dash(ctl->args[1]) ? ctl->err : ctl->out,
			 value, line);
}

static enum ctl_exit save_dry(struct ctl *ctl)
{
	struct hv_value *value;

	if (hv_save(ctl->hv, ctl->args[0], -1, HV_DRY_RUN, &value))
		return ctl_fail(ctl);
	return saved_say(ctl, value);
}

enum ctl_exit client_save(struct ctl *ctl)
{
	struct stream s = {.ctl = ctl, .fd = -1};
	const char *path = ctl->args[1];
	char part[PATH_MAX] = "";
	struct hv_value *value;
	enum ctl_exit exit_code;
	int rc;

	if (ctl_has(ctl, OPT_DRY_RUN))
		return save_dry(ctl);
	s.total = bytes_kept(ctl, ctl->args[0]);
	exit_code = save_open(ctl, path, part, &s.fd);
	if (exit_code)
		return exit_code;
	progress_begin(&s);
	rc = hv_save(ctl->hv, ctl->args[0], s.fd, HV_DO, &value);
	progress_end(&s);
	if (rc) {
		if (part[0]) {
			close(s.fd);
			unlink(part);
		}
		return ctl_fail(ctl);
	}
	if (part[0])
		exit_code = save_close(ctl, path, part, s.fd);
	if (!exit_code)
		return saved_say(ctl, value);
	hv_value_free(value);
	return exit_code;
}

static enum ctl_exit restore_open(struct ctl *ctl, const char *path,
				  struct stream *s)
{
	struct stat st;

	s->fd = is_dash(path) ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (s->fd < 0)
		return ctl_refuse(ctl, "%s: %s", path, strerror(errno));
	if (!fstat(s->fd, &st) && S_ISREG(st.st_mode))
		s->total = (uint64_t)st.st_size;
	return CTL_DONE;
}

enum ctl_exit client_restore(struct ctl *ctl)
{
	struct stream s = {.ctl = ctl};
	char line[LINE_BYTES], pages[VIEW_TEXT_MAX];
	bool dry = ctl_has(ctl, OPT_DRY_RUN);
	struct hv_value *value;
	enum ctl_exit exit_code = restore_open(ctl, ctl->args[1], &s);
	int rc;

	if (exit_code)
		return exit_code;
	progress_begin(&s);
	rc = hv_restore(ctl->hv, ctl->args[0], dry ? -1 : s.fd, ctl_mode(ctl),
			&value);
	progress_end(&s);
	if (s.fd != STDIN_FILENO)
		close(s.fd);
	if (rc)
		return ctl_fail(ctl);
	if (dry)
		snprintf(line, sizeof(line), "%s would be restored from %s",
			 ctl->args[0], ctl->args[1]);
	else
		snprintf(line, sizeof(line), "%s: %s pages restored from %s",
			 ctl->args[0], pages_of(pages, value), ctl->args[1]);
	return reply_out(ctl, ctl->out, value, line);
}
