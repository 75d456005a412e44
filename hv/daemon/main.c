/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hvd: see hvd(8). Options, signals, the event loop; the daemon is in hvd.c.
 *
 * It stays in the foreground: systemd (or a shell) is who puts it elsewhere.
 */
#include "hv/base/log.h"
#include "hv/daemon/hvd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/*
 * Read by jemalloc. hvd has one thread that counts, so one arena; what a burst
 * of offers needed goes back to the host within a second.
 */
extern const char *malloc_conf;
__attribute__((visibility("default"))) const char *malloc_conf =
	"narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0";

#define CONFIG_PATH "/etc/tidepool/hvd.conf"

enum exit_code { EXIT_DONE, EXIT_FAILED, EXIT_USAGE };

struct options {
	const char *config, *run_dir, *metrics;
	enum log_level level;
	bool check_only;
};

static void usage(FILE *out)
{
	fprintf(out, "usage: hvd [--config FILE] [--run-dir DIR] "
		     "[--metrics WHERE] [--check-config]\n"
		     "           [-v] [--version] [--help]\n");
}

/* Returns an exit code, or -1: go on. */
static int options_read(int argc, char **argv, struct options *out)
{
	static const struct option known[] = {
		{"config", required_argument, NULL, 'c'},
		{"run-dir", required_argument, NULL, 'r'},
		{"metrics", required_argument, NULL, 'm'},
		{"check-config", no_argument, NULL, 'k'},
		{"version", no_argument, NULL, 'V'},
		{"verbose", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "c:r:vVh", known, NULL)) != -1) {
		switch (c) {
		case 'c':
			out->config = optarg;
			break;
		case 'r':
			out->run_dir = optarg;
			break;
		case 'm':
			out->metrics = optarg;
			break;
		case 'k':
			out->check_only = true;
			break;
		case 'v':
			out->level = LOGL_DEBUG;
			break;
		case 'V':
			printf("hvd %s\n", HVD_VERSION);
			return EXIT_DONE;
		case 'h':
			usage(stdout);
			return EXIT_DONE;
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (optind == argc)
		return -1;
	fprintf(stderr, "hvd: unexpected argument %s\n", argv[optind]);
	usage(stderr);
	return EXIT_USAGE;
}

/* A command line's word is read as the file's would be: checked the same. */
static int override(struct config *config, const char *key, const char *value,
		    char text[CONFIG_TEXT_MAX])
{
	char content[512];

	if (!value)
		return 0;
	if (snprintf(content, sizeof(content), "[hvd]\n%s = %s\n", key,
		     value) >= (int)sizeof(content) ||
	    strchr(value, '\n') || strchr(value, ';'))
		content[0] = 0;
	if (!content[0] || config_parse(config, content, text)) {
		snprintf(text, CONFIG_TEXT_MAX, "%s: \"%.200s\" cannot be used",
			 key, value);
		return -EINVAL;
	}
	return 0;
}

/* The file may be missing, unless it was named. */
static int config_load(const struct options *opt, struct config *config)
{
	char text[CONFIG_TEXT_MAX] = "";
	int rc = 0;

	config_default(config);
	if (opt->config || !access(CONFIG_PATH, F_OK))
		rc = config_read(config,
				 opt->config ? opt->config : CONFIG_PATH, text);
	if (!rc && !opt->run_dir)
		rc = override(config, "run_dir", getenv("TIDEPOOL_RUN_DIR"),
			      text);
	if (!rc)
		rc = override(config, "run_dir", opt->run_dir, text);
	if (!rc)
		rc = override(config, "metrics", opt->metrics, text);
	if (rc)
		log_error("%s", text);
	return rc;
}

/* Three descriptors a VM; the usual 1024 would end at a few hundred VMs. */
static void files_raise(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl))
		return;
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl))
		log_warn("open files stay limited: %s", strerror(errno));
}

static int signals_take(sd_event *event)
{
	sigset_t set;
	int rc;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	/* Without a handler sd-event ends the loop. */
	rc = sd_event_add_signal(event, NULL, SIGTERM, NULL, NULL);
	if (rc >= 0)
		rc = sd_event_add_signal(event, NULL, SIGINT, NULL, NULL);
	return rc < 0 ? rc : 0;
}

static int loop_run(struct hvd *hvd, sd_event *event)
{
	int rc;

	rc = hvd_start(hvd, event);
	if (rc)
		return rc;
	log_info("hvd %s: ready in %s", HVD_VERSION, hvd->config.run_dir);
	sd_notify(0, "READY=1");
	rc = sd_event_loop(event);
	sd_notify(0, "STOPPING=1");
	log_info("hvd: ends; VMs run on and will reconnect");
	return rc < 0 ? rc : 0;
}

static int daemon_run(const struct config *config)
{
	sd_event *event = NULL;
	struct hvd *hvd = NULL;
	int rc;

	rc = sd_event_new(&event);
	if (rc >= 0)
		rc = signals_take(event);
	if (rc >= 0)
		rc = sd_event_set_watchdog(event, true);
	if (rc >= 0)
		rc = hvd_create(config, &hvd);
	if (rc >= 0)
		rc = loop_run(hvd, event);
	hvd_destroy(hvd);
	sd_event_unref(event);
	return rc;
}

int main(int argc, char **argv)
{
	struct options opt = {.level = LOGL_INFO};
	struct config config;
	int rc;

	rc = options_read(argc, argv, &opt);
	if (rc >= 0)
		return rc;
	log_init("hvd", opt.level);
	rc = config_load(&opt, &config);
	if (rc || opt.check_only) {
		config_fini(&config);
		return rc ? EXIT_USAGE : EXIT_DONE;
	}
	files_raise();
	rc = daemon_run(&config);
	config_fini(&config);
	if (rc < 0)
		log_error("hvd: %s", strerror(-rc));
	return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}
