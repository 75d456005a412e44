/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One thread, one connection at a time: what a test needs. Lock: the replies
 * and what was last asked.
 */
#include "tests/support/fake_hvd.h"

#include <check.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLIES_MAX 24

struct fake_hvd {
	char dir[64];
	char socket[96];
	int listener;
	int wake;
	pthread_t thread;
	pthread_mutex_t lock;
	struct {
		char *method, *text;
	} reply[REPLIES_MAX];
	json_t *params;
	unsigned requests;
	bool stop, drop;
};

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

static char *reply_find(struct fake_hvd *fake, const char *method)
{
	for (size_t i = 0; i < REPLIES_MAX && fake->reply[i].method; i++)
		if (!strcmp(fake->reply[i].method, method))
			return strdup(fake->reply[i].text);
	return strdup("!{\"id\": %ID%, \"error\": {\"errno\": \"ENOSYS\", "
		      "\"message\": \"no such method\"}}");
}

static void reply_send(int fd, const char *text, json_int_t id)
{
	FILE *out = fdopen(dup(fd), "w");
	const char *at = *text == '!' ? text + 1 : text, *mark;

	need(out != NULL, "fdopen");
	if (*text != '!')
		fprintf(out, "{\"id\": %lld, \"result\": ", (long long)id);
	while ((mark = strstr(at, "%ID%"))) {
		fprintf(out, "%.*s%lld", (int)(mark - at), at, (long long)id);
		at = mark + 4;
	}
	fputs(at, out);
	fputs(*text != '!' ? "}\n" : "\n", out);
	fclose(out);
}

/* false: hang up. */
static bool line_answer(struct fake_hvd *fake, int fd, const char *line)
{
	json_t *request = json_loads(line, 0, NULL);
	const char *method =
		json_string_value(json_object_get(request, "method"));
	char *text;
	bool more;

	pthread_mutex_lock(&fake->lock);
	fake->requests++;
	json_decref(fake->params);
	fake->params = json_incref(json_object_get(request, "params"));
	text = reply_find(fake, method ? method : "");
	pthread_mutex_unlock(&fake->lock);
	more = strcmp(text, "!") != 0;
	if (more && strcmp(text, "!!"))
		reply_send(fd, text,
			   json_integer_value(json_object_get(request, "id")));
	free(text);
	json_decref(request);
	return more;
}

/* Is there something to read on fd, before the test says stop or drop? */
static bool readable(struct fake_hvd *fake, int fd)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN},
			      {.fd = fake->wake, .events = POLLIN}};

	need(poll(p, 2, -1) > 0, "poll");
	return !p[1].revents;
}

static void client_serve(struct fake_hvd *fake, int fd)
{
	size_t have = 0, room = (size_t)256 << 10;
	char *buf = malloc(room), *end;

	need(buf != NULL, "malloc");
	while (readable(fake, fd)) {
		ssize_t r = read(fd, buf + have, room - have - 1);

		if (r <= 0)
			break;
		have += (size_t)r;
		buf[have] = '\0';
		end = strchr(buf, '\n');
		if (!end)
			continue;
		*end = '\0';
		if (!line_answer(fake, fd, buf))
			break;
		have -= (size_t)(end + 1 - buf);
		memmove(buf, end + 1, have);
	}
	free(buf);
	close(fd);
}

static void *fake_main(void *arg)
{
	struct fake_hvd *fake = arg;
	sigset_t set;
	uint64_t n;
	int fd;

	/* a client that hangs up in the middle of a reply is no error here */
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (;;) {
		if (readable(fake, fake->listener)) {
			fd = accept(fake->listener, NULL, NULL);
			if (fd >= 0)
				client_serve(fake, fd);
			continue;
		}
		need(read(fake->wake, &n, sizeof(n)) == sizeof(n), "read");
		pthread_mutex_lock(&fake->lock);
		fake->drop = false;
		if (fake->stop) {
			pthread_mutex_unlock(&fake->lock);
			return NULL;
		}
		pthread_mutex_unlock(&fake->lock);
	}
}

struct fake_hvd *fake_hvd_start(void)
{
	struct fake_hvd *fake = calloc(1, sizeof(*fake));
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	need(fake != NULL, "calloc");
	strcpy(fake->dir, "/tmp/fake-hvd-XXXXXX");
	need(mkdtemp(fake->dir) != NULL, "mkdtemp");
	snprintf(fake->socket, sizeof(fake->socket), "%s/control.sock",
		 fake->dir);
	strcpy(addr.sun_path, fake->socket);
	fake->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	need(!bind(fake->listener, (struct sockaddr *)&addr, sizeof(addr)),
	     "bind");
	need(!listen(fake->listener, 8), "listen");
	fake->wake = eventfd(0, EFD_CLOEXEC);
	need(fake->wake >= 0, "eventfd");
	pthread_mutex_init(&fake->lock, NULL);
	need(!pthread_create(&fake->thread, NULL, fake_main, fake), "thread");
	return fake;
}

static void fake_wake(struct fake_hvd *fake)
{
	uint64_t one = 1;

	need(write(fake->wake, &one, sizeof(one)) == sizeof(one), "write");
}

void fake_hvd_stop(struct fake_hvd *fake)
{
	pthread_mutex_lock(&fake->lock);
	fake->stop = true;
	pthread_mutex_unlock(&fake->lock);
	fake_wake(fake);
	pthread_join(fake->thread, NULL);
	close(fake->listener);
	close(fake->wake);
	unlink(fake->socket);
	rmdir(fake->dir);
	for (size_t i = 0; i < REPLIES_MAX; i++) {
		free(fake->reply[i].method);
		free(fake->reply[i].text);
	}
	json_decref(fake->params);
	pthread_mutex_destroy(&fake->lock);
	free(fake);
}

const char *fake_hvd_dir(const struct fake_hvd *fake)
{
	return fake->dir;
}

const char *fake_hvd_socket(const struct fake_hvd *fake)
{
	return fake->socket;
}

void fake_hvd_reply(struct fake_hvd *fake, const char *method,
		    const char *reply)
{
	size_t i = 0;

	pthread_mutex_lock(&fake->lock);
	while (i < REPLIES_MAX && fake->reply[i].method &&
	       strcmp(fake->reply[i].method, method))
		i++;
	need(i < REPLIES_MAX, "too many replies");
	if (!fake->reply[i].method)
		fake->reply[i].method = strdup(method);
	free(fake->reply[i].text);
	fake->reply[i].text = strdup(reply);
	pthread_mutex_unlock(&fake->lock);
}

void fake_hvd_restart(struct fake_hvd *fake)
{
	bool pending = true;

	pthread_mutex_lock(&fake->lock);
	fake->drop = true;
	pthread_mutex_unlock(&fake->lock);
	fake_wake(fake);
	while (pending) {
		usleep(1000);
		pthread_mutex_lock(&fake->lock);
		pending = fake->drop;
		pthread_mutex_unlock(&fake->lock);
	}
}

void fake_hvd_heard(struct fake_hvd *fake, const char *params)
{
	char *text;

	pthread_mutex_lock(&fake->lock);
	text = json_dumps(fake->params, JSON_COMPACT | JSON_SORT_KEYS);
	pthread_mutex_unlock(&fake->lock);
	ck_assert_str_eq(text, params);
	free(text);
}

unsigned fake_hvd_requests(struct fake_hvd *fake)
{
	unsigned n;

	pthread_mutex_lock(&fake->lock);
	n = fake->requests;
	pthread_mutex_unlock(&fake->lock);
	return n;
}
