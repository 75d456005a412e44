/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A command line program as a table of verbs. hv and tmem-ctl are two such
 * tables; parsing, help, --watch, the socket and the exit codes are the same
 * for both and live in program.c.
 */
#ifndef HV_CTL_PROGRAM_H
#define HV_CTL_PROGRAM_H

#include "hv/base/types.h"
#include "hv/libhv/hv.h"

#include <stdio.h>

enum ctl_exit {
	CTL_DONE = 0,
	CTL_REFUSED = 1,     /* the reason is on standard error */
	CTL_USAGE = 2,	     /* the command line makes no sense */
	CTL_UNREACHABLE = 3, /* no hvd answers */
};

enum opt {
	OPT_HELP,
	OPT_SOCKET,
	OPT_JSON,
	OPT_WATCH,
	OPT_DRY_RUN,
	OPT_RESERVATION,
	OPT_LIMIT,
	OPT_SHARES,
	OPT_WEIGHT,
	OPT_CAP,
	OPT_RESERVE,
	OPT_COMPRESS,
	OPT_CLIENT,
	OPT_NAME,
	OPT_DOMAIN,
	OPT_NO_BALLOON,
	OPT_STORE,
	OPT_SWAP,
	OPT_SWAP_SIZE,
	OPT_IF_POSSIBLE,
	OPT_TMEM,
	OPT_TMEM_SWAP,
	OPT_SORT,
	OPT_FORCE,
	OPT_COUNT
};
#define OPT_BIT(opt)   (UINT32_C(1) << (opt))
#define VERB_OWN_WATCH OPT_BIT(31) /* run() looks at --watch itself */

/* Help and socket go with every verb. */
#define OPTS_ALWAYS (OPT_BIT(OPT_HELP) | OPT_BIT(OPT_SOCKET))
#define OPTS_VIEW   (OPTS_ALWAYS | OPT_BIT(OPT_JSON) | OPT_BIT(OPT_WATCH))
#define OPTS_CHANGE (OPTS_ALWAYS | OPT_BIT(OPT_JSON) | OPT_BIT(OPT_DRY_RUN))

struct program;
struct verb;

/* One run of a verb. */
struct ctl {
	const struct program *program;
	const struct verb *verb;
	const char *opt[OPT_COUNT]; /* NULL: not given; "": without a value */
	char **args;		    /* ended by NULL */
	int n_args;
	struct hv *hv;
	FILE *out, *err;
};

#define ARGS_REST (-1) /* options end at the first argument, or at -- */

struct verb {
	const char *name;
	const char *args; /* for the usage line */
	const char *help;
	const char *examples; /* one a line */
	uint32_t opts;	      /* OPT_BITs it takes */
	int args_min, args_max;
	enum ctl_exit (*run)(struct ctl *ctl);
};

struct program {
	const char *name;
	const char *help;
	const struct verb *verbs;
	size_t n;
};

extern const struct program program_hv;
extern const struct program program_tmem;

/* argv[0] is not looked at. Returns the exit code. */
int program_run(const struct program *program, int argc, char **argv, FILE *out,
		FILE *err);

/* ---- for the verbs ------------------------------------------------------ */

bool ctl_has(const struct ctl *ctl, enum opt opt);
enum hv_mode ctl_mode(const struct ctl *ctl);

/* Prints and returns CTL_USAGE or CTL_REFUSED. */
enum ctl_exit PRINTF(2, 3) ctl_usage(struct ctl *ctl, const char *fmt, ...);
enum ctl_exit PRINTF(2, 3) ctl_refuse(struct ctl *ctl, const char *fmt, ...);

/* Prints why the last call on ctl->hv failed; returns its exit code. */
enum ctl_exit ctl_fail(struct ctl *ctl);

/* The value of an option; out untouched if it was not given. */
enum ctl_exit ctl_size(struct ctl *ctl, enum opt opt, uint64_t *out);
enum ctl_exit ctl_number(struct ctl *ctl, enum opt opt, uint64_t max,
			 uint64_t *out);

/* The period of --watch; out untouched if it was not given. */
enum ctl_exit ctl_seconds(struct ctl *ctl, uint64_t *out);

/*
 * Calls run again and again. Once it has shown something, a watch outlives hvd:
 * it says that hvd is away and goes on asking. Ends by signal, or when nobody
 * reads any more.
 */
enum ctl_exit ctl_watch(struct ctl *ctl, enum ctl_exit (*run)(struct ctl *ctl));

/* Prints a value as JSON: one line under --watch, indented otherwise. */
enum ctl_exit ctl_json(struct ctl *ctl, const struct hv_value *value);

/* `help [VERB]`, for both tables. */
enum ctl_exit ctl_help(struct ctl *ctl);

#endif
