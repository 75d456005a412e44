/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See agent.h.
 *
 *   ASLEEP --guest RAM seen--> AWAKE --fork, in the child--> OFF
 *      +----- configuration bad, no thread ------------------^
 *
 * libhvagent.so is in every process the VMM's command line starts: helpers,
 * scripts, qemu-img. They stay ASLEEP, and nothing of ours runs there.
 */
#include "hv/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/agent/config.h"
#include "hv/agent/extent.h"
#include "hv/agent/port.h"
#include "hv/agent/worker.h"
#include "hv/base/log.h"

enum state { AGENT_ASLEEP, AGENT_AWAKE, AGENT_OFF };

static atomic_int state = AGENT_ASLEEP;
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static struct config config; /* once read, as all below [start_lock] */
static enum { CONFIG_UNREAD, CONFIG_GOOD, CONFIG_BAD } config_is;
static atomic_bool forked;
static struct worker *worker;
static atomic_bool reason_said;

__thread bool agent_inside __attribute__((tls_model("initial-exec")));

void agent_turn_off(void)
{
	atomic_store(&state, AGENT_OFF);
}

void agent_wake(void)
{
	if (atomic_load(&state) == AGENT_AWAKE)
		worker_wake(worker);
}

void agent_unmanaged_say(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (atomic_exchange(&reason_said, true))
		log_debug("unmanaged: %s", text);
	else
		log_warn("unmanaged: %s", text);
}

void agent_managed_say(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	atomic_store(&reason_said, false);
	log_info("%s", text);
}

/*
 * The child of a fork has one thread, which is not the worker, and no guest
 * RAM (MADV_DONTFORK). Whatever it does from here on is its own business.
 */
static void child_forget(void)
{
	atomic_store(&forked, true);
	agent_turn_off();
	if (worker)
		worker_child_drop(worker);
	extent_forget_all();
}

static const char *env_get(const char *name)
{
	return getenv(name);
}

static void name_guess(char out[WIRE_NAME_MAX])
{
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	char text[8192];
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text));

	if (fd >= 0)
		close(fd);
	config_name_guess(text, n > 0 ? (size_t)n : 0, getpid(), out);
}

/* The first thing done in this process, whatever for. */
static int config_read(void)
{
	char guess[WIRE_NAME_MAX], why[512];
	int rc;

	if (config_is != CONFIG_UNREAD)
		return config_is == CONFIG_GOOD ? 0 : -EINVAL;
	log_init("tidepool", LOGL_INFO);
	name_guess(guess);
	config_is = CONFIG_BAD;
	rc = config_load(env_get, guess, &config, why, sizeof(why));
	if (rc) {
		agent_unmanaged_say("%s", why);
		return rc;
	}
	if (config.debug)
		log_init("tidepool", LOGL_DEBUG);
	rc = -pthread_atfork(NULL, NULL, child_forget);
	if (rc) {
		agent_unmanaged_say("cannot start: %s", strerror(-rc));
		return rc;
	}
	config_is = CONFIG_GOOD;
	return 0;
}

static enum state agent_begin(void)
{
	int rc = config_read();

	if (rc)
		return AGENT_OFF;
	rc = worker_start(&config, &worker);
	if (rc) {
		agent_unmanaged_say("cannot start: %s", strerror(-rc));
		return AGENT_OFF;
	}
	return AGENT_AWAKE;
}

/* start_lock held. */
static int line_connect(int fd, const char *path)
{
	char ours[PORT_PATH_MAX];
	int rc;

	if (config_read())
		return -EINVAL;
	port_path(&config, ours);
	if (strcmp(path, ours))
		return -ENOENT;
	if (!config.tmem_bytes) {
		log_warn("%s: `tmem` is not set for %s, so there is no page "
			 "store for its guest",
			 path, config.name);
		return -ENOENT;
	}
	rc = port_connect(&config, fd);
	if (rc)
		log_error("%s: no line to the page store: %s", path,
			  strerror(-rc));
	return rc == -ENOENT ? -EIO : rc;
}

int agent_connect(int fd, const char *path)
{
	int rc;

	if (atomic_load(&forked))
		return -ENOENT;
	pthread_mutex_lock(&start_lock);
	rc = line_connect(fd, path);
	pthread_mutex_unlock(&start_lock);
	return rc;
}

bool agent_start(void)
{
	int errno_ = errno;

	if (atomic_load(&state) == AGENT_ASLEEP) {
		pthread_mutex_lock(&start_lock);
		if (atomic_load(&state) == AGENT_ASLEEP)
			atomic_store(&state, agent_begin());
		pthread_mutex_unlock(&start_lock);
	}
	errno = errno_;
	return atomic_load(&state) == AGENT_AWAKE;
}
