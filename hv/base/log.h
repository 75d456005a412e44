/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One line per event, to standard error, with journald's <N> priority prefix
 * where standard error is the journal (JOURNAL_STREAM set) and a time stamp
 * where it is not. Thread safe; a line is written with one write(2).
 */
#ifndef HV_BASE_LOG_H
#define HV_BASE_LOG_H

#include "hv/base/types.h"

enum log_level { LOGL_ERROR = 3, LOGL_WARN = 4, LOGL_INFO = 6, LOGL_DEBUG = 7 };

/* Name printed in front of every line; kept by pointer. Default "tidepool". */
void log_init(const char *name, enum log_level most);
void log_line(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_error(...) log_line(LOGL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOGL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOGL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOGL_DEBUG, __VA_ARGS__)

#endif
