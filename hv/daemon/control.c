/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lines in, lines out. A connection has one line being read (LINE_BYTES at
 * most) and answers being written (OUT_BYTES at most: a client that does not
 * read loses its connection). Requests may be sent without waiting; answers
 * that need agents then come out of order, which is what `id` is for.
 *
 *   conn --- task --- call --- command_set     while agents are waited for
 *
 * A descriptor that comes with a line waits for the next request that takes a
 * file; there is room for one.
 *
 * A client that goes away leaves its tasks' commands under way: what was asked
 * is done, only nobody hears of it.
 */
#include "hv/daemon/control.h"
#include "hv/base/log.h"
#include "hv/daemon/command.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/method.h"
#include "hv/daemon/server.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_BYTES  ((size_t)64 << 10)
#define OUT_BYTES   ((size_t)8 << 20)
#define CONNS_MAX   64
#define TASKS_MAX   64 /* of a connection */
#define PATIENCE_NS (UINT64_C(50) * 1000000000)

TAILQ_HEAD(conn_list, conn);
TAILQ_HEAD(task_list, task);

struct control {
	struct hvd *hvd;
	int fd;
	unsigned conns;
	sd_event_source *source;
	struct conn_list list;
	struct command_list commands;
};

struct conn {
	TAILQ_ENTRY(conn) entry;
	struct control *control;
	int fd;
	enum control_right right;
	char by[64];
	sd_event_source *source;
	struct task_list tasks;
	unsigned task_count;
	char *in, *out;
	size_t in_bytes, out_bytes, out_room;
	int passed_fd; /* -1: none waits */
	bool ending;   /* closed when all is written */
	bool busy, closed;
};

struct task {
	TAILQ_ENTRY(task) entry;
	struct conn *conn; /* NULL: gone */
	json_t *id;
	struct call call;
};

/* ---- tasks ----------------------------------------------------------------
 */

static void task_free(struct task *task)
{
	if (task->conn) {
		TAILQ_REMOVE(&task->conn->tasks, task, entry);
		task->conn->task_count--;
	}
	json_decref(task->id);
	call_fini(&task->call);
	free(task);
}

/* ---- writing --------------------------------------------------------------
 */

static void conn_events_set(struct conn *conn)
{
	uint32_t events = 0;

	if (!conn->ending && conn->task_count < TASKS_MAX)
		events |= EPOLLIN;
	if (conn->out_bytes)
		events |= EPOLLOUT;
	if (sd_event_source_set_io_events(conn->source, events) < 0)
		log_error("event loop: no memory for a socket's events");
}

static int conn_flush(struct conn *conn)
{
	ssize_t n;

	while (conn->out_bytes) {
		n = send(conn->fd, conn->out, conn->out_bytes,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		conn->out_bytes -= (size_t)n;
		memmove(conn->out, conn->out + n, conn->out_bytes);
	}
	return 0;
}

static int conn_write(struct conn *conn, const char *text, size_t n)
{
	size_t need = conn->out_bytes + n + 1;
	char *more;

	if (need > OUT_BYTES)
		return -ENOBUFS;
	if (need > conn->out_room) {
		more = realloc(conn->out, need * 2);
		if (!more)
			return -ENOMEM;
		conn->out = more;
		conn->out_room = need * 2;
	}
	memcpy(conn->out + conn->out_bytes, text, n);
	conn->out[need - 1] = '\n';
	conn->out_bytes = need;
	return 0;
}

static int conn_answer(struct conn *conn, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	int rc = -ENOMEM;

	if (text)
		rc = conn_write(conn, text, strlen(text));
	free(text);
	json_decref(answer);
	return rc ? rc : conn_flush(conn);
}

static json_t *error_pack(json_t *id, int rc, const char *text)
{
	const char *name = strerrorname_np(-rc);
	json_t *words = json_string(text);

	if (!words)
		words = json_string("(text is no UTF-8)");
	return json_pack("{s:O*, s:{s:s, s:o}}", "id", id, "error", "errno",
			 name ? name : "EIO", "message", words);
}

static int task_answer(struct task *task, int rc)
{
	json_t *answer;

	if (rc)
		answer = error_pack(task->id, rc, task->call.text);
	else
		answer = json_pack("{s:O*, s:O}", "id", task->id, "result",
				   task->call.result);
	return conn_answer(task->conn, answer);
}

/* ---- closing --------------------------------------------------------------
 */

static void conn_free_if_idle(struct conn *conn)
{
	if (conn->closed && !conn->busy) {
		if (conn->passed_fd >= 0)
			close(conn->passed_fd);
		free(conn->in);
		free(conn->out);
		free(conn);
	}
}

/* What is under way goes on: its changes are to be kept track of. */
static void conn_close(struct conn *conn)
{
	struct task *task;

	if (conn->closed)
		return;
	conn->closed = true;
	while ((task = TAILQ_FIRST(&conn->tasks))) {
		TAILQ_REMOVE(&conn->tasks, task, entry);
		task->conn = NULL;
	}
	sd_event_source_disable_unref(conn->source);
	close(conn->fd);
	TAILQ_REMOVE(&conn->control->list, conn, entry);
	conn->control->conns--;
	conn_free_if_idle(conn);
}

static void conn_proceed(struct conn *conn);

static void task_done(void *arg, const struct command_answer *answers, size_t n)
{
	struct task *task = arg;
	struct conn *conn = task->conn;
	int rc = task->call.finish(&task->call, answers, n);

	if (conn)
		rc = task_answer(task, rc);
	task_free(task);
	if (conn && rc)
		conn_close(conn);
	else if (conn && !conn->busy)
		conn_proceed(conn); /* perhaps there were too many tasks */
}

/* ---- requests -------------------------------------------------------------
 */

/* Takes request. */
static int request_run(struct conn *conn, json_t *request, const char *method,
		       json_t *params)
{
	struct task *task = calloc(1, sizeof(*task));
	struct call *call;
	int rc;

	if (!task) {
		json_decref(request);
		return -ENOMEM;
	}
	TAILQ_INSERT_TAIL(&conn->tasks, task, entry);
	conn->task_count++;
	task->conn = conn;
	task->id = json_incref(json_object_get(request, "id"));
	call = &task->call;
	call->hvd = conn->control->hvd;
	call->commands = &conn->control->commands;
	call->right = conn->right;
	call->by = conn->by;
	call->params = params ? json_incref(params) : json_object();
	call->done = task_done;
	call->done_arg = task;
	call->fd = -1;
	if (method_takes_file(method)) {
		call->fd = conn->passed_fd;
		conn->passed_fd = -1;
	}
	rc = method_call(call, method);
	json_decref(request);
	if (rc == METHOD_LATER) {
		command_set_begin(call->commands, call->set,
				  hvd_now_ns() + (call->patience_ns
							  ? call->patience_ns
							  : PATIENCE_NS));
		return 0;
	}
	rc = task_answer(task, rc);
	task_free(task);
	return rc;
}

/* An error that ends the connection. */
static int conn_end(struct conn *conn, const char *text)
{
	conn->ending = true;
	return conn_answer(conn, error_pack(NULL, -EPROTO, text));
}

static int line_take(struct conn *conn, const char *line, size_t n)
{
	const char *method;
	json_t *request, *params;

	if (method_parse(line, n, &request, &method, &params))
		return conn_end(conn, "not an object with a string `method`");
	return request_run(conn, request, method, params);
}

static int lines_take(struct conn *conn)
{
	char *end;
	size_t n;
	int rc = 0;

	while (!rc && !conn->ending && !conn->closed &&
	       conn->task_count < TASKS_MAX &&
	       (end = memchr(conn->in, '\n', conn->in_bytes))) {
		n = (size_t)(end - conn->in);
		rc = line_take(conn, conn->in, n);
		conn->in_bytes -= n + 1;
		memmove(conn->in, end + 1, conn->in_bytes);
	}
	if (!rc && !conn->ending && !conn->closed &&
	    conn->in_bytes == LINE_BYTES &&
	    !memchr(conn->in, '\n', conn->in_bytes))
		rc = conn_end(conn, "a line of over 64 KiB");
	return rc;
}

/* One at a time may wait; a second ends the connection. */
static int fd_take(struct conn *conn, struct msghdr *mh)
{
	struct cmsghdr *cm;
	int rc = mh->msg_flags & MSG_CTRUNC ? -EPROTO : 0, fd;
	size_t i, n;

	for (cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		n = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			memcpy(&fd, CMSG_DATA(cm) + i * sizeof(fd), sizeof(fd));
			if (conn->passed_fd >= 0) {
				close(fd);
				rc = -EPROTO;
			} else {
				conn->passed_fd = fd;
			}
		}
	}
	return rc;
}

static int conn_read(struct conn *conn)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {conn->in + conn->in_bytes,
			    LINE_BYTES - conn->in_bytes};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = sizeof(buf)};
	ssize_t n;

	n = recvmsg(conn->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -ECONNRESET;
	conn->in_bytes += (size_t)n;
	return fd_take(conn, &mh);
}

static void conn_proceed(struct conn *conn)
{
	int rc;

	conn->busy = true;
	rc = lines_take(conn);
	if (!rc && !conn->closed)
		rc = conn_flush(conn);
	if (rc || (conn->ending && !conn->out_bytes))
		conn_close(conn);
	if (!conn->closed)
		conn_events_set(conn);
	conn->busy = false;
	conn_free_if_idle(conn);
}

static int conn_event(sd_event_source *source, int fd, uint32_t events,
		      void *arg)
{
	struct conn *conn = arg;
	int rc = 0;

	(void)source;
	(void)fd;
	if (events & EPOLLIN && conn->in_bytes < LINE_BYTES)
		rc = conn_read(conn);
	else if (!(events & EPOLLOUT) && events & (EPOLLHUP | EPOLLERR))
		rc = -ECONNRESET;
	if (rc)
		conn_close(conn);
	else
		conn_proceed(conn);
	return 0;
}

/* ---- accepting ------------------------------------------------------------
 */

static enum control_right right_of(const struct hvd *hvd, int fd,
				   const struct ucred *peer)
{
	gid_t gid;

	if (peer->uid == 0 || peer->uid == geteuid())
		return CONTROL_CHANGE;
	if (hvd->config.group[0] && !host_group_find(hvd->config.group, &gid) &&
	    host_peer_in_group(fd, peer->gid, gid))
		return CONTROL_LOOK;
	return CONTROL_NOTHING;
}

static int conn_create(struct control *control, int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);
	struct conn *conn;
	int rc;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n))
		return -errno;
	conn = calloc(1, sizeof(*conn));
	if (!conn)
		return -ENOMEM;
	conn->in = malloc(LINE_BYTES);
	rc = conn->in ? 0 : -ENOMEM;
	if (!rc)
		rc = sd_event_add_io(control->hvd->event, &conn->source, fd,
				     EPOLLIN, conn_event, conn);
	if (rc < 0) {
		free(conn->in);
		free(conn);
		return rc;
	}
	TAILQ_INIT(&conn->tasks);
	conn->control = control;
	conn->fd = fd;
	conn->passed_fd = -1;
	conn->right = right_of(control->hvd, fd, &peer);
	snprintf(conn->by, sizeof(conn->by), "uid %u (process %d)",
		 (unsigned)peer.uid, (int)peer.pid);
	TAILQ_INSERT_TAIL(&control->list, conn, entry);
	control->conns++;
	return 0;
}

static int accept_event(sd_event_source *source, int fd, uint32_t events,
			void *arg)
{
	struct control *control = arg;
	int sock;

	(void)source;
	(void)events;
	sock = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (sock < 0)
		return 0;
	if (control->conns >= CONNS_MAX || conn_create(control, sock))
		close(sock);
	return 0;
}

int control_create(struct hvd *hvd, struct control **out)
{
	char path[WIRE_PATH_MAX + 16];
	struct control *control = calloc(1, sizeof(*control));
	int rc;

	if (!control)
		return -ENOMEM;
	control->hvd = hvd;
	control->fd = -1;
	TAILQ_INIT(&control->list);
	TAILQ_INIT(&control->commands);
	snprintf(path, sizeof(path), "%s/control.sock", hvd->config.run_dir);
	/* All may connect, to be told what they may not. */
	rc = server_listen(path, SOCK_STREAM, 0666, "", &control->fd);
	if (!rc)
		rc = sd_event_add_io(hvd->event, &control->source, control->fd,
				     EPOLLIN, accept_event, control);
	if (rc < 0) {
		control_destroy(control);
		return rc;
	}
	*out = control;
	return 0;
}

static void nobody_done(void *arg, const struct command_answer *answers,
			size_t n)
{
	(void)answers;
	(void)n;
	task_free(arg);
}

void control_destroy(struct control *control)
{
	struct conn *conn;

	if (!control)
		return;
	while ((conn = TAILQ_FIRST(&control->list)))
		conn_close(conn);
	command_clear(&control->commands, nobody_done);
	sd_event_source_disable_unref(control->source);
	if (control->fd >= 0)
		close(control->fd);
	free(control);
}

void control_tick(struct control *control)
{
	command_expire(&control->commands, hvd_now_ns());
}

int control_result(struct vm *vm, const struct wire_result *result)
{
	struct control *control = vm->hvd->control;

	return control ? command_answered(&control->commands, vm, result)
		       : -EPROTO;
}

void control_answer(struct hvd *hvd, uint64_t id, int rc, int64_t value)
{
	if (hvd->control)
		command_answer(&hvd->control->commands, id, rc, value);
}

void control_vm_gone(struct hvd *hvd, struct vm *vm)
{
	if (hvd->control)
		command_vm_gone(&hvd->control->commands, vm);
}
