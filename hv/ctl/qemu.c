/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `hv qemu`: the given QEMU command line, managed. It becomes QEMU by exec, so
 * that whoever started it (a shell, systemd, a test) has QEMU itself as its
 * child, with its exit code and signals. A parent that stays and watches was
 * dropped: it would be one more process that can die at the wrong time.
 *
 * What is done to the command line:
 *   environment  LD_PRELOAD=libhvagent.so:...  TIDEPOOL_NAME, _DOMAIN, ...
 *   -qmp         a monitor of hvd's own, for the balloon
 *   -device      a virtio balloon with free-page reporting, if it has none
 *   -device      the guest's page store, if one is asked for (attach.c)
 *
 * Asked for a managed VM, this refuses to start one that could not be;
 * --if-possible starts it anyway. Things that leave only part of the VM
 * unmanaged are warnings.
 */
#include "hv/ctl/attach.h"
#include "hv/ctl/elf.h"
#include "hv/ctl/qemu_line.h"
#include "hv/ctl/quote.h"
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"
#include "hv/ctl/verbs.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ARGS_ADDED   (5 + ATTACH_WORDS) /* -qmp X -device X ... NULL */
#define SHARES_MAX   1000000
#define ENV_MAX	     16
#define QMP_PATH_MAX 108
#define AGENT_NAME   "libhvagent.so"
#define BALLOON_DEVICE                                                         \
	"virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on,"         \
	"id=tidepool-balloon"

struct setting {
	const char *name;
	char value[PATH_MAX];
};

struct qemu_run {
	struct ctl *ctl;
	struct qemu_line line;
	char program[PATH_MAX]; /* what is executed */
	char agent[PATH_MAX];
	char run_dir[QMP_PATH_MAX];
	char name[QEMU_NAME_MAX];
	char qmp[QMP_PATH_MAX]; /* "": none */
	char qmp_option[QMP_PATH_MAX + 32];
	struct attach attach; /* word[0] NULL: none */
	struct setting env[ENV_MAX];
	size_t n_env;
	char **argv; /* with what is added */
	bool managed;
};

static void PRINTF(2, 3) note(const struct qemu_run *run, const char *fmt, ...)
{
	char text[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text_clean(text);
	fprintf(run->ctl->err, "hv qemu: %s\n", text);
}

static enum ctl_exit env_add(struct qemu_run *run, const char *name,
			     const char *value)
{
	struct setting *set = &run->env[run->n_env++];

	set->name = name;
	if ((size_t)snprintf(set->value, sizeof(set->value), "%s", value) <
	    sizeof(set->value))
		return CTL_DONE;
	return ctl_refuse(run->ctl, "%s would be too long", name);
}

/* ---- the program and the agent
 * ----------------------------------------------- */

static enum ctl_exit program_find(struct qemu_run *run)
{
	const char *word = run->ctl->args[0], *path = getenv("PATH");

	if (strchr(word, '/')) {
		snprintf(run->program, PATH_MAX, "%s", word);
		if (!access(run->program, X_OK))
			return CTL_DONE;
		return ctl_refuse(run->ctl, "%s: %s", word, strerror(errno));
	}
	for (path = path ? path : "/usr/bin:/bin"; *path;) {
		int n = (int)strcspn(path, ":");

		snprintf(run->program, PATH_MAX, "%.*s/%s", n ? n : 1,
			 n ? path : ".", word);
		if (!access(run->program, X_OK))
			return CTL_DONE;
		path += n + (path[n] == ':');
	}
	return ctl_refuse(run->ctl, "%s is not in PATH", word);
}

/* NULL: a library can be preloaded into it. */
static const char *program_objection(struct qemu_run *run)
{
	enum elf_verdict verdict;
	int rc = elf_judge(run->program, &verdict);

	if (rc)
		return strerror(-rc);
	switch (verdict) {
	case ELF_STATIC:
		return "it is statically linked, so nothing can be preloaded "
		       "into it; use a dynamically linked QEMU";
	case ELF_FOREIGN:
		return "it is a program for another kind of machine than the "
		       "agent library";
	case ELF_PRIVILEGED:
		return "it is setuid, setgid or has file capabilities, so the "
		       "loader ignores LD_PRELOAD; remove these, or run as "
		       "the user it changes to";
	case ELF_NOT_ELF:
		return "it is neither a program nor a script";
	case ELF_SCRIPT:
		note(run, "%s is a script; the agent loads into what it starts",
		     run->program);
		return NULL;
	default:
		return NULL;
	}
}

static bool agent_at(struct qemu_run *run, const char *fmt, const char *dir)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), fmt, dir, AGENT_NAME);

	return n > 0 && (size_t)n < sizeof(path) &&
	       realpath(path, run->agent) && !access(run->agent, R_OK);
}

static bool agent_find(struct qemu_run *run)
{
	const char *given = getenv("TIDEPOOL_AGENT");
	char self[PATH_MAX];
	ssize_t n;

	if (given && *given)
		return realpath(given, run->agent) && !access(given, R_OK);
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return false;
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	return agent_at(run, "%s/%s", self) ||
	       agent_at(run, "%s/../lib/tidepool/%s", self);
}

static enum ctl_exit PRINTF(2, 3)
	unmanaged(struct qemu_run *run, const char *fmt, ...)
{
	char text[PATH_MAX + 512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!ctl_has(run->ctl, OPT_IF_POSSIBLE))
		return ctl_refuse(run->ctl,
				  "%s (--if-possible runs it "
				  "unmanaged)",
				  text);
	note(run, "running unmanaged: %s", text);
	run->managed = false;
	return CTL_DONE;
}

static enum ctl_exit preload_check(struct qemu_run *run)
{
	const char *objection = program_objection(run);
	const char *given = getenv("TIDEPOOL_AGENT");

	if (objection)
		return unmanaged(run, "cannot manage %s: %s", run->program,
				 objection);
	if (!agent_find(run))
		return unmanaged(run,
				 "the agent library %s is not there; "
				 "install it or set TIDEPOOL_AGENT",
				 given && *given ? given : AGENT_NAME);
	if (strpbrk(run->agent, ": "))
		return unmanaged(run,
				 "the loader cannot preload %s: its path "
				 "has a space or colon",
				 run->agent);
	return CTL_DONE;
}

/* ---- name and QMP
 * ------------------------------------------------------------ */

static enum ctl_exit name_choose(struct qemu_run *run)
{
	const char *given = run->ctl->opt[OPT_NAME];

	if (given && !qemu_name_valid(given))
		return ctl_usage(run->ctl,
				 "--name `%s`: up to 63 letters, "
				 "digits, dots, dashes, underscores",
				 given);
	if (given)
		strcpy(run->name, given);
	else if (*run->line.name)
		strcpy(run->name, run->line.name);
	else /* exec keeps the pid */
		snprintf(run->name, sizeof(run->name), "qemu-%ld",
			 (long)getpid());
	return CTL_DONE;
}

/* Somebody listens there: QEMU would take the socket away from it. */
static bool socket_is_live(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool live;

	if (fd < 0)
		return false;
	strcpy(addr.sun_path, path);
	live = !connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) ||
	       errno == EAGAIN;
	close(fd);
	return live;
}

/* Absolute: QEMU may change its folder, and hvd is in another. */
static enum ctl_exit run_dir_choose(struct qemu_run *run)
{
	const char *dir = getenv("TIDEPOOL_RUN_DIR");
	char here[PATH_MAX] = "";
	int n;

	dir = dir && *dir ? dir : HV_RUN_DIR;
	if (*dir != '/' && !getcwd(here, sizeof(here)))
		return ctl_refuse(run->ctl, "the working folder is gone");
	n = snprintf(run->run_dir, sizeof(run->run_dir), "%s%s%s", here,
		     *here ? "/" : "", dir);
	if (n > 0 && (size_t)n < sizeof(run->run_dir))
		return CTL_DONE;
	return ctl_refuse(run->ctl,
			  "TIDEPOOL_RUN_DIR is too long for a socket");
}

static bool qmp_at(struct qemu_run *run, const char *dir)
{
	int n;

	if (!dir || !*dir || access(dir, W_OK | X_OK))
		return false;
	n = snprintf(run->qmp, sizeof(run->qmp), "%s/%s.qmp", dir, run->name);
	if (n > 0 && (size_t)n < sizeof(run->qmp))
		return true;
	run->qmp[0] = '\0';
	return false;
}

static enum ctl_exit qmp_choose(struct qemu_run *run)
{
	bool dry = ctl_has(run->ctl, OPT_DRY_RUN);
	char *at;

	if (!dry && mkdir(run->run_dir, 0755) && errno != EEXIST)
		errno = 0; /* qmp_at() will see that it is not there */
	if (!qmp_at(run, run->run_dir) &&
	    !qmp_at(run, getenv("XDG_RUNTIME_DIR"))) {
		note(run,
		     "no QMP socket can be made in %s: hvd will not "
		     "steer this VM's balloon",
		     run->run_dir);
		return CTL_DONE;
	}
	if (!dry && socket_is_live(run->qmp))
		return ctl_refuse(run->ctl,
				  "a VM named %s is running (%s); "
				  "give this one another --name",
				  run->name, run->qmp);
	/* a comma in the path is written twice */
	at = stpcpy(run->qmp_option, "unix:");
	for (const char *p = run->qmp; *p; p++) {
		if (at > run->qmp_option + sizeof(run->qmp_option) - 26)
			return ctl_refuse(run->ctl, "too many commas in %s",
					  run->qmp);
		if (*p == ',')
			*at++ = ',';
		*at++ = *p;
	}
	strcpy(at, ",server=on,wait=off");
	return CTL_DONE;
}

/* Asked for, and so refused rather than left out. */
static enum ctl_exit tmem_choose(struct qemu_run *run)
{
	uint64_t bytes = 0;

	if (ctl_size(run->ctl, OPT_TMEM, &bytes))
		return CTL_USAGE;
	if (!bytes)
		return CTL_DONE;
	if (run->line.balloon == QEMU_BALLOON_NO_PCI)
		return ctl_refuse(run->ctl,
				  "--tmem: this machine has no PCI bus");
	if (attach_make(run->run_dir, run->name, &run->attach))
		return ctl_refuse(run->ctl, "TIDEPOOL_RUN_DIR is too long for "
					    "a socket");
	return CTL_DONE;
}

/* ---- environment and arguments
 * ------------------------------------------------- */

static enum ctl_exit preload_add(struct qemu_run *run)
{
	const char *before = getenv("LD_PRELOAD");
	char value[PATH_MAX];
	int n = snprintf(value, sizeof(value), "%s%s%s", run->agent,
			 before && *before ? ":" : "", before ? before : "");

	if ((size_t)n >= sizeof(value))
		return ctl_refuse(run->ctl, "LD_PRELOAD would be too long");
	return env_add(run, "LD_PRELOAD", value);
}

static const struct env_option {
	enum opt opt;
	const char *name;
	enum { ENV_SIZE, ENV_STORE, ENV_NUMBER, ENV_TEXT } kind;
} env_options[] = {
	{OPT_DOMAIN, "TIDEPOOL_DOMAIN", ENV_TEXT},
	{OPT_RESERVATION, "TIDEPOOL_RESERVATION", ENV_SIZE},
	{OPT_LIMIT, "TIDEPOOL_LIMIT", ENV_SIZE},
	{OPT_SHARES, "TIDEPOOL_SHARES", ENV_NUMBER},
	{OPT_STORE, "TIDEPOOL_STORE", ENV_STORE},
	{OPT_SWAP, "TIDEPOOL_SWAP", ENV_TEXT},
	{OPT_SWAP_SIZE, "TIDEPOOL_SWAP_SIZE", ENV_SIZE},
	{OPT_TMEM, "TIDEPOOL_TMEM", ENV_SIZE},
	{OPT_TMEM_SWAP, "TIDEPOOL_TMEM_SWAP", ENV_SIZE},
};

/* "0%" to "100%", of guest RAM. */
static bool is_percentage(const char *text)
{
	char number[8];
	size_t n = strlen(text);
	uint64_t percent;

	if (!n || n >= sizeof(number) || text[n - 1] != '%')
		return false;
	memcpy(number, text, n - 1);
	number[n - 1] = '\0';
	return !number_parse(number, 100, &percent);
}

/* Sizes go to the agent in plain bytes. */
static enum ctl_exit option_add(struct qemu_run *run,
				const struct env_option *option)
{
	const char *given = run->ctl->opt[option->opt];
	enum ctl_exit exit_code;
	char text[SIZE_TEXT_MAX];
	uint64_t n = 0;

	if (option->kind == ENV_TEXT ||
	    (option->kind == ENV_STORE && is_percentage(given)))
		return env_add(run, option->name, given);
	exit_code = option->kind == ENV_NUMBER
			    ? ctl_number(run->ctl, option->opt, SHARES_MAX, &n)
			    : ctl_size(run->ctl, option->opt, &n);
	if (exit_code)
		return exit_code;
	snprintf(text, sizeof(text), "%" PRIu64, n);
	return env_add(run, option->name, text);
}

static enum ctl_exit options_check(struct ctl *ctl)
{
	const char *domain = ctl->opt[OPT_DOMAIN], *swap = ctl->opt[OPT_SWAP];
	uint64_t reservation = 0, limit = 0;

	if (domain && !qemu_name_valid(domain))
		return ctl_usage(ctl, "--domain `%s` is not a valid name",
				 domain);
	if (ctl_has(ctl, OPT_SWAP) != ctl_has(ctl, OPT_SWAP_SIZE))
		return ctl_usage(ctl, "--swap and --swap-size go together");
	if (ctl_has(ctl, OPT_TMEM_SWAP) && !ctl_has(ctl, OPT_TMEM))
		return ctl_usage(ctl, "--tmem-swap needs --tmem");
	if (swap && *swap != '/')
		return ctl_usage(ctl, "--swap `%s`: give the whole path", swap);
	if (ctl_size(ctl, OPT_RESERVATION, &reservation) ||
	    ctl_size(ctl, OPT_LIMIT, &limit))
		return CTL_USAGE;
	if (limit && reservation > limit)
		return ctl_usage(ctl, "the reservation is above the limit");
	return CTL_DONE;
}

static enum ctl_exit env_make(struct qemu_run *run)
{
	enum ctl_exit exit_code = preload_add(run);

	if (!exit_code)
		exit_code = env_add(run, "TIDEPOOL_NAME", run->name);
	if (!exit_code)
		exit_code = env_add(run, "TIDEPOOL_RUN_DIR", run->run_dir);
	if (!exit_code && *run->qmp)
		exit_code = env_add(run, "TIDEPOOL_QMP", run->qmp);
	for (size_t i = 0; !exit_code && i < ARRAY_LEN(env_options); i++)
		if (ctl_has(run->ctl, env_options[i].opt))
			exit_code = option_add(run, &env_options[i]);
	return exit_code;
}

static bool balloon_wanted(const struct qemu_run *run)
{
	if (ctl_has(run->ctl, OPT_NO_BALLOON))
		return false;
	switch (run->line.balloon) {
	case QEMU_BALLOON_FITS:
		return true;
	case QEMU_BALLOON_NO_PCI:
		note(run, "no balloon added: this machine has no PCI bus");
		return false;
	case QEMU_BALLOON_UNKNOWN:
		note(run,
		     "no balloon added: `%s` is not a QEMU whose machines "
		     "are known here",
		     run->ctl->args[0]);
		return false;
	default:
		return false;
	}
}

static enum ctl_exit argv_make(struct qemu_run *run)
{
	size_t n = (size_t)run->ctl->n_args;

	run->argv = calloc(n + ARGS_ADDED, sizeof(*run->argv));
	if (!run->argv)
		return ctl_refuse(run->ctl, "no memory");
	memcpy(run->argv, run->ctl->args, n * sizeof(*run->argv));
	if (!run->managed)
		return CTL_DONE;
	if (*run->qmp) {
		run->argv[n++] = (char *)(uintptr_t) "-qmp";
		run->argv[n++] = run->qmp_option;
	}
	if (balloon_wanted(run)) {
		run->argv[n++] = (char *)(uintptr_t) "-device";
		run->argv[n++] = (char *)(uintptr_t)BALLOON_DEVICE;
	}
	for (size_t i = 0; run->attach.word[i]; i++)
		run->argv[n++] = (char *)(uintptr_t)run->attach.word[i];
	return CTL_DONE;
}

static void flaws_tell(const struct qemu_run *run)
{
	static const struct {
		enum qemu_flaw flaw;
		const char *text;
	} texts[] = {
		{QEMU_RAM_SHARED,
		 "warning: guest RAM is shared with other processes (share=on "
		 "or memfd): that part stays unmanaged"},
		{QEMU_RAM_FILE,
		 "warning: guest RAM is file-backed (memory-backend-file, "
		 "memfd, -mem-path): that part stays unmanaged"},
		{QEMU_RAM_LOCKED,
		 "warning: mem-lock=on keeps every page resident"},
		{QEMU_RAM_NO_MERGE,
		 "warning: merge=off hides guest RAM from the agent unless "
		 "KVM is used; leave it out"},
		{QEMU_VFIO, "warning: a passthrough (VFIO) device pins guest "
			    "RAM: it is left alone"},
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (run->line.flaws & texts[i].flaw)
			note(run, "%s", texts[i].text);
}

/* ---- showing or doing
 * ------------------------------------------------------------ */

static void run_json(const struct qemu_run *run, FILE *out)
{
	fputs("{\"env\": {", out);
	for (size_t i = 0; i < run->n_env; i++) {
		fputs(i ? ", " : "", out);
		json_print(out, run->env[i].name);
		fputs(": ", out);
		json_print(out, run->env[i].value);
	}
	fputs("}, \"argv\": [", out);
	for (size_t i = 0; run->argv[i]; i++) {
		fputs(i ? ", " : "", out);
		json_print(out, run->argv[i]);
	}
	fputs("]}\n", out);
}

static void run_print(const struct qemu_run *run, FILE *out)
{
	if (ctl_has(run->ctl, OPT_JSON)) {
		run_json(run, out);
		return;
	}
	fputs("env", out);
	for (size_t i = 0; i < run->n_env; i++) {
		fprintf(out, " %s=", run->env[i].name);
		word_print(out, run->env[i].value);
	}
	for (size_t i = 0; run->argv[i]; i++) {
		fputc(' ', out);
		word_print(out, run->argv[i]);
	}
	fputc('\n', out);
}

static enum ctl_exit run_do(const struct qemu_run *run)
{
	for (size_t i = 0; i < run->n_env; i++)
		if (setenv(run->env[i].name, run->env[i].value, 1))
			return ctl_refuse(run->ctl, "no memory");
	fflush(run->ctl->out);
	fflush(run->ctl->err);
	execv(run->program, run->argv);
	return ctl_refuse(run->ctl, "cannot run %s: %s", run->program,
			  strerror(errno));
}

static enum ctl_exit run_prepare(struct qemu_run *run)
{
	enum ctl_exit exit_code = options_check(run->ctl);

	if (!exit_code)
		exit_code = program_find(run);
	if (exit_code)
		return exit_code;
	qemu_line_read(run->ctl->args, &run->line);
	exit_code = name_choose(run);
	if (!exit_code)
		exit_code = preload_check(run);
	if (exit_code || !run->managed)
		return exit_code;
	exit_code = run_dir_choose(run);
	if (!exit_code)
		exit_code = qmp_choose(run);
	if (!exit_code)
		exit_code = tmem_choose(run);
	if (!exit_code)
		exit_code = env_make(run);
	return exit_code;
}

enum ctl_exit qemu_verb(struct ctl *ctl)
{
	struct qemu_run *run = calloc(1, sizeof(*run));
	enum ctl_exit exit_code;

	if (!run)
		return ctl_refuse(ctl, "no memory");
	run->ctl = ctl;
	run->managed = true;
	exit_code = run_prepare(run);
	if (!exit_code)
		exit_code = argv_make(run);
	if (!exit_code && run->managed)
		flaws_tell(run);
	if (!exit_code && ctl_has(ctl, OPT_DRY_RUN))
		run_print(run, ctl->out);
	else if (!exit_code)
		exit_code = run_do(run);
	free(run->argv);
	free(run);
	return exit_code;
}
