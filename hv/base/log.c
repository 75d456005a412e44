/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log. A line is formatted into a bounded buffer on the stack and written
 * whole, so that lines of several threads and processes never interleave; a
 * line too long is cut, never split. No allocation: it works when memory is
 * gone, which is when it is needed.
 */
#include "hv/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char *log_name = "tidepool";
static enum log_level log_most = LOGL_INFO;

void log_init(const char *name, enum log_level most)
{
	log_name = name;
	log_most = most;
}

static int prefix_format(char *buf, size_t room, enum log_level level)
{
	struct timespec ts;
	struct tm tm;

	if (getenv("JOURNAL_STREAM"))
		return snprintf(buf, room, "<%d>%s: ", (int)level, log_name);
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	return snprintf(buf, room, "%02d:%02d:%02d.%03ld %s%s: ", tm.tm_hour,
			tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000, log_name,
			level == LOGL_ERROR  ? " error"
			: level == LOGL_WARN ? " warning"
					     : "");
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	size_t at, room = sizeof(line) - 1;
	va_list ap;
	int n;

	if (level > log_most)
		return;
	at = (size_t)prefix_format(line, room, level);
	va_start(ap, fmt);
	n = vsnprintf(line + at, room - at, fmt, ap);
	va_end(ap);
	if (n > 0)
		at = min_u64(at + (size_t)n, room - 1);
	line[at++] = '\n';
	if (write(STDERR_FILENO, line, at) < 0)
		return; /* nowhere left to say so */
}
