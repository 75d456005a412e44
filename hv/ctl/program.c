/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What hv and tmem-ctl have in common: a verb is looked up in the program's
 * table, its options in the one table of options, and its help is printed from
 * both, so that no option can exist without its line of help. getopt was
 * dropped: it knows neither verbs nor an option whose value may be left out
 * (--watch), and a verb that ends in a foreign command line (hv qemu) must stop
 * reading at the first word.
 */
#include "hv/ctl/program.h"
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum opt_kind { OPT_FLAG, OPT_VALUE, OPT_SECONDS };

static const struct opt_text {
	const char *name;
	enum opt_kind kind;
	const char *value;
	const char *help;
} opt_texts[OPT_COUNT] = {
	[OPT_HELP] = {"--help", OPT_FLAG, "", "this text"},
	[OPT_SOCKET] = {"--socket", OPT_VALUE, "PATH", "hvd's control socket"},
	[OPT_JSON] = {"--json", OPT_FLAG, "", "the exact reply, as JSON"},
	[OPT_WATCH] = {"--watch", OPT_SECONDS, "[SECONDS]",
		       "again and again, every 2 seconds by default"},
	[OPT_DRY_RUN] = {"--dry-run", OPT_FLAG, "",
			 "say what would be done, do nothing"},
	[OPT_RESERVATION] = {"--reservation", OPT_VALUE, "SIZE",
			     "memory the VM is never pushed below"},
	[OPT_LIMIT] = {"--limit", OPT_VALUE, "SIZE",
		       "memory it never gets more than; 0: no limit"},
	[OPT_SHARES] = {"--shares", OPT_VALUE, "N",
			"its weight when memory is short (default 1000)"},
	[OPT_WEIGHT] = {"--weight", OPT_VALUE, "N",
			"share of the ephemeral space under pressure"},
	[OPT_CAP] = {"--cap", OPT_VALUE, "SIZE",
		     "hard maximum of its store; 0: none"},
	[OPT_RESERVE] = {"--reserve", OPT_VALUE, "SIZE",
			 "ephemeral bytes that others cannot take"},
	[OPT_COMPRESS] = {"--compress", OPT_VALUE, "on|off",
			  "compress what it puts"},
	[OPT_CLIENT] = {"--client", OPT_VALUE, "VM",
			"only from this VM's ephemeral pages"},
	[OPT_NAME] = {"--name", OPT_VALUE, "NAME",
		      "the VM's name (default: QEMU's -name)"},
	[OPT_DOMAIN] = {"--domain", OPT_VALUE, "NAME",
			"share pages with the VMs of this trust domain"},
	[OPT_NO_BALLOON] = {"--no-balloon", OPT_FLAG, "",
			    "add no balloon device"},
	[OPT_STORE] = {"--store", OPT_VALUE, "SIZE",
		       "cap of the compressed store, or N% of its RAM"},
	[OPT_SWAP] = {"--swap", OPT_VALUE, "PATH",
		      "swap file for the store's coldest pages"},
	[OPT_SWAP_SIZE] = {"--swap-size", OPT_VALUE, "SIZE",
			   "the most the swap file may take"},
	[OPT_TMEM] = {"--tmem", OPT_VALUE, "SIZE",
		      "give the guest a page store of at most this"},
	[OPT_TMEM_SWAP] = {"--tmem-swap", OPT_VALUE, "SIZE",
			   "size of its swap device there; 0: none"},
	[OPT_IF_POSSIBLE] = {"--if-possible", OPT_FLAG, "",
			     "run the VM unmanaged rather than not at all"},
	[OPT_FORCE] = {"--force", OPT_FLAG, "",
		       "also pages that exist nowhere else"},
	[OPT_SORT] = {"--sort", OPT_VALUE, "KEY",
		      "name, ram, private, shared, compr, swap, "
		      "refault or faults"},
};

/* ---- what verbs use ------------------------------------------------------ */

bool ctl_has(const struct ctl *ctl, enum opt opt)
{
	return ctl->opt[opt] != NULL;
}

enum hv_mode ctl_mode(const struct ctl *ctl)
{
	return ctl_has(ctl, OPT_DRY_RUN) ? HV_DRY_RUN : HV_DO;
}

static void complain(struct ctl *ctl, const char *fmt, va_list ap)
{
	char text[2048];

	vsnprintf(text, sizeof(text), fmt, ap);
	text_clean(text);
	fprintf(ctl->err, "%s: %s\n", ctl->program->name, text);
}

enum ctl_exit ctl_usage(struct ctl *ctl, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(ctl, fmt, ap);
	va_end(ap);
	if (ctl->verb)
		fprintf(ctl->err, "Try `%s %s --help`.\n", ctl->program->name,
			ctl->verb->name);
	else
		fprintf(ctl->err, "Try `%s help`.\n", ctl->program->name);
	return CTL_USAGE;
}

enum ctl_exit ctl_refuse(struct ctl *ctl, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(ctl, fmt, ap);
	va_end(ap);
	return CTL_REFUSED;
}

enum ctl_exit ctl_fail(struct ctl *ctl)
{
	enum hv_fault fault = hv_fault(ctl->hv);

	if (fault == HV_FAULT_REFUSED || fault == HV_FAULT_LOCAL)
		return ctl_refuse(ctl, "%s", hv_error(ctl->hv));
	ctl_refuse(ctl, "hvd is not reachable at %s: %s", hv_socket(ctl->hv),
		   hv_error(ctl->hv));
	fprintf(ctl->err,
		"Start it with `systemctl start hvd` (or run `hvd` as "
		"root); another place:\n--socket PATH or "
		"TIDEPOOL_RUN_DIR.\n");
	return CTL_UNREACHABLE;
}

enum ctl_exit ctl_size(struct ctl *ctl, enum opt opt, uint64_t *out)
{
	const char *text = ctl->opt[opt];
	int rc = text ? size_parse(text, out) : 0;

	if (!rc)
		return CTL_DONE;
	return ctl_usage(ctl, "%s %s: %s", opt_texts[opt].name, text,
			 rc == -ERANGE ? "too large"
				       : "not a size (such as 512M or 2G)");
}

enum ctl_exit ctl_number(struct ctl *ctl, enum opt opt, uint64_t max,
			 uint64_t *out)
{
	const char *text = ctl->opt[opt];

	if (!text || !number_parse(text, max, out))
		return CTL_DONE;
	return ctl_usage(ctl, "%s %s: not a number from 0 to %llu",
			 opt_texts[opt].name, text, (unsigned long long)max);
}

enum ctl_exit ctl_seconds(struct ctl *ctl, uint64_t *out)
{
	enum ctl_exit exit_code;

	if (!ctl_has(ctl, OPT_WATCH) || !*ctl->opt[OPT_WATCH])
		return CTL_DONE;
	exit_code = ctl_number(ctl, OPT_WATCH, 86400, out);
	if (!exit_code && !*out)
		return ctl_usage(ctl, "--watch 0: at least 1 second");
	return exit_code;
}

enum ctl_exit ctl_json(struct ctl *ctl, const struct hv_value *value)
{
	char *text = hv_value_json(
		value, ctl_has(ctl, OPT_WATCH) ? HV_ONE_LINE : HV_INDENTED);

	if (!text)
		return ctl_refuse(ctl, "no memory");
	fprintf(ctl->out, "%s\n", text);
	free(text);
	return CTL_DONE;
}

/* ---- help ---------------------------------------------------------------- */

static const struct verb *verb_find(const struct program *program,
				    const char *name)
{
	for (size_t i = 0; i < program->n; i++)
		if (!strcmp(program->verbs[i].name, name))
			return &program->verbs[i];
	return NULL;
}

static void program_help(const struct program *program, FILE *out)
{
	fprintf(out, "Usage: %s VERB [OPTION...] [ARGUMENT...]\n%s\n\n",
		program->name, program->help);
	for (size_t i = 0; i < program->n; i++) {
		const struct verb *verb = &program->verbs[i];
		int used = fprintf(out, "  %s %s", verb->name, verb->args);

		fprintf(out, "%*s%s\n", used < 26 ? 26 - used : 1, "",
			verb->help);
	}
	fprintf(out,
		"\n`%s VERB --help` has options and examples. Sizes take K, M, "
		"G or T (binary).\nExit codes: 0 done, 1 refused, 2 usage, 3 "
		"hvd not reachable.\n",
		program->name);
}

static void verb_help(const struct program *program, const struct verb *verb,
		      FILE *out)
{
	const char *line = verb->examples;

	fprintf(out, "Usage: %s %s [OPTION...] %s\n%s.\n\nOptions:\n",
		program->name, verb->name, verb->args, verb->help);
	for (int i = 0; i < OPT_COUNT; i++) {
		const struct opt_text *opt = &opt_texts[i];

		if (verb->opts & OPT_BIT(i))
			fprintf(out, "  %-13s %-10s %s\n", opt->name,
				opt->value, opt->help);
	}
	fprintf(out, "\nExamples:\n");
	while (*line) {
		int n = (int)strcspn(line, "\n");

		fprintf(out, "  %s %.*s\n", program->name, n, line);
		line += n + (line[n] == '\n');
	}
}

enum ctl_exit ctl_help(struct ctl *ctl)
{
	const struct verb *verb;

	if (!ctl->n_args) {
		program_help(ctl->program, ctl->out);
		return CTL_DONE;
	}
	verb = verb_find(ctl->program, ctl->args[0]);
	if (!verb)
		return ctl_usage(ctl, "no verb `%s`", ctl->args[0]);
	verb_help(ctl->program, verb, ctl->out);
	return CTL_DONE;
}

/* ---- reading the command line ------------------------------------------- */

static int opt_find(const struct verb *verb, const char *word, size_t n)
{
	for (int i = 0; i < OPT_COUNT; i++)
		if ((verb->opts & OPT_BIT(i)) &&
		    strlen(opt_texts[i].name) == n &&
		    !strncmp(opt_texts[i].name, word, n))
			return i;
	return -1;
}

/* *used_out: words of argv that the option at argv[0] took. */
static enum ctl_exit opt_read(struct ctl *ctl, char **argv, int *used_out)
{
	const char *word = strcmp(argv[0], "-h") ? argv[0] : "--help";
	const char *equals = strchr(word, '=');
	size_t n = equals ? (size_t)(equals - word) : strlen(word);
	int opt = opt_find(ctl->verb, word, n);

	*used_out = 1;
	if (opt < 0)
		return ctl_usage(ctl, "%s has no option `%.*s`",
				 ctl->verb->name, (int)n, word);
	if (opt_texts[opt].kind == OPT_FLAG && equals)
		return ctl_usage(ctl, "%.*s takes no value", (int)n, word);
	ctl->opt[opt] = equals ? equals + 1 : "";
	if (equals || opt_texts[opt].kind == OPT_FLAG)
		return CTL_DONE;
	if (opt_texts[opt].kind == OPT_SECONDS &&
	    (!argv[1] || !isdigit((unsigned char)argv[1][0])))
		return CTL_DONE;
	if (!argv[1])
		return ctl_usage(ctl, "%s needs %s", word,
				 opt_texts[opt].value);
	ctl->opt[opt] = argv[1];
	*used_out = 2;
	return CTL_DONE;
}

static enum ctl_exit words_read(struct ctl *ctl, char **argv)
{
	bool rest = ctl->verb->args_max == ARGS_REST;
	bool options = true;
	char **keep = argv;
	int used;

	ctl->args = argv;
	while (*argv) {
		enum ctl_exit exit_code;

		if (options && !strcmp(*argv, "--")) {
			options = false;
			argv++;
			continue;
		}
		if (!options || argv[0][0] != '-' || !argv[0][1]) {
			options = options && !rest;
			*keep++ = *argv++;
			ctl->n_args++;
			continue;
		}
		exit_code = opt_read(ctl, argv, &used);
		if (exit_code)
			return exit_code;
		argv += used;
	}
	*keep = NULL;
	return CTL_DONE;
}

static enum ctl_exit args_count(struct ctl *ctl)
{
	const struct verb *verb = ctl->verb;

	if (ctl->n_args < verb->args_min)
		return ctl_usage(ctl, "%s needs %s", verb->name, verb->args);
	if (verb->args_max != ARGS_REST && ctl->n_args > verb->args_max)
		return ctl_usage(ctl, "%s: one argument too many: `%s`",
				 verb->name, ctl->args[verb->args_max]);
	return CTL_DONE;
}

/* ---- running ------------------------------------------------------------- */

enum ctl_exit ctl_watch(struct ctl *ctl, enum ctl_exit (*run)(struct ctl *ctl))
{
	bool screen = isatty(fileno(ctl->out)) && !ctl_has(ctl, OPT_JSON);
	bool first = true;
	uint64_t seconds = 2;
	enum ctl_exit exit_code = ctl_seconds(ctl, &seconds);

	if (exit_code)
		return exit_code;
	for (;;) {
		if (screen)
			fputs("\033[H\033[J", ctl->out);
		else if (!first && !ctl_has(ctl, OPT_JSON))
			fputc('\n', ctl->out);
		exit_code = run(ctl);
		if (exit_code && (first || exit_code != CTL_UNREACHABLE))
			return exit_code;
		first = false;
		if (fflush(ctl->out))
			return CTL_DONE;
		nanosleep(&(struct timespec){.tv_sec = (time_t)seconds}, NULL);
	}
}

static enum ctl_exit verb_run(struct ctl *ctl)
{
	if (ctl_has(ctl, OPT_WATCH) && !(ctl->verb->opts & VERB_OWN_WATCH))
		return ctl_watch(ctl, ctl->verb->run);
	return ctl->verb->run(ctl);
}

static enum ctl_exit verb_start(struct ctl *ctl, char **argv)
{
	enum ctl_exit exit_code = words_read(ctl, argv);
	int rc;

	if (exit_code)
		return exit_code;
	if (ctl_has(ctl, OPT_HELP)) {
		verb_help(ctl->program, ctl->verb, ctl->out);
		return CTL_DONE;
	}
	exit_code = args_count(ctl);
	if (exit_code)
		return exit_code;
	rc = hv_create(ctl->opt[OPT_SOCKET], &ctl->hv);
	if (rc)
		return ctl_refuse(ctl, "%s", strerror(-rc));
	exit_code = verb_run(ctl);
	hv_destroy(ctl->hv);
	return exit_code;
}

/* `hv`, `hv --help` and `hv --version` are `hv help` and `hv version`. */
static const char *verb_name(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "help";

	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		return "help";
	return strcmp(name, "--version") ? name : "version";
}

int program_run(const struct program *program, int argc, char **argv, FILE *out,
		FILE *err)
{
	struct ctl ctl = {.program = program, .out = out, .err = err};
	enum ctl_exit exit_code;

	ctl.verb = verb_find(program, verb_name(argc, argv));
	if (!ctl.verb)
		return ctl_usage(&ctl, "no verb `%s`", argv[1]);
	exit_code = verb_start(&ctl, argv + (argc > 1 ? 2 : 1));
	if ((fflush(out) || ferror(out)) && !exit_code)
		return ctl_refuse(&ctl, "cannot write the output");
	return exit_code;
}
