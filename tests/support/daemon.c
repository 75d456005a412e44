/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See daemon.h. */
#include "tests/support/daemon.h"
#include "hv/libhv/hv.h"
#include "sharing/hash.h"
#include "tests/support/skip.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 10000

static void wait_ms(unsigned ms)
{
	struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

/* A sanitizer's build is many times slower. */
static unsigned patience(void)
{
	const char *san = getenv("TEST_SAN");

	return san && *san ? 5 * PATIENCE_MS : PATIENCE_MS;
}

/* ---- the daemon -----------------------------------------------------------
 */

void daemon_find(struct daemon *d, const char *argv0)
{
	char path[400];

	memset(d, 0, sizeof(*d));
	snprintf(path, sizeof(path), "%s", argv0);
	snprintf(d->hvd, sizeof(d->hvd), "%s/../hvd", dirname(path));
	if (access(d->hvd, X_OK))
		test_skip("no %s: build it first", d->hvd);
}

static int unix_connect(const struct daemon *d, const char *name, int type)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", d->dir, name);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Unless a test brings its own settings: contents are asked for at once. */
static const char *config_write(const struct daemon *d)
{
	static char path[sizeof(d->dir) + 16];
	FILE *file;

	snprintf(path, sizeof(path), "%s/test.conf", d->dir);
	file = fopen(path, "w");
	if (!file || fputs("[share]\ngather = 0s\n", file) < 0 || fclose(file))
		_exit(126);
	return path;
}

static void daemon_run(struct daemon *d, const char *option, const char *value)
{
	unsigned waited;
	int fd, rc;

	d->pid = fork();
	ck_assert_int_ge(d->pid, 0);
	if (!d->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, STDERR_FILENO);
		if (!option) {
			option = "--config";
			value = config_write(d);
		}
		execl(d->hvd, "hvd", "--run-dir", d->dir, "-v", option, value,
		      (char *)NULL);
		_exit(127);
	}
	for (waited = 0; waited < patience(); waited += 10) {
		rc = waitpid(d->pid, NULL, WNOHANG);
		ck_assert_msg(rc == 0, "hvd ended at once");
		fd = unix_connect(d, "agent.sock", SOCK_SEQPACKET);
		if (fd >= 0) {
			close(fd);
			return;
		}
		wait_ms(10);
	}
	ck_abort_msg("hvd does not listen");
}

void daemon_start(struct daemon *d, const char *option, const char *value)
{
	snprintf(d->dir, sizeof(d->dir), "/tmp/test_hvd.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(d->dir));
	snprintf(d->log, sizeof(d->log), "%s/log", d->dir);
	daemon_run(d, option, value);
}

void daemon_restart(struct daemon *d)
{
	daemon_run(d, NULL, NULL);
}

void daemon_signal(struct daemon *d, int sig)
{
	siginfo_t info;

	ck_assert_int_eq(kill(d->pid, sig), 0);
	if (sig == SIGSTOP)
		ck_assert_int_eq(waitid(P_PID, (id_t)d->pid, &info, WSTOPPED),
				 0);
}

void daemon_kill(struct daemon *d)
{
	daemon_signal(d, SIGKILL);
	ck_assert_int_eq(waitpid(d->pid, NULL, 0), d->pid);
}

void daemon_stop(struct daemon *d)
{
	static const char *const file[] = {
		"agent.sock", "control.sock",	"hvd.lock",	"state.json",
		"log",	      "state.json.new", "metrics.sock", "qmp.sock"};
	char path[128];
	int status;
	size_t i;

	daemon_signal(d, SIGTERM);
	ck_assert_int_eq(waitpid(d->pid, &status, 0), d->pid);
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status),
		      "hvd ended with status %#x", (unsigned)status);
	for (i = 0; i < ARRAY_LEN(file); i++) {
		snprintf(path, sizeof(path), "%s/%s", d->dir, file[i]);
		unlink(path);
	}
	rmdir(d->dir);
}

bool daemon_log_has(const struct daemon *d, const char *text)
{
	char *log = calloc(1, 1 << 20);
	int fd = open(d->log, O_RDONLY | O_CLOEXEC);
	bool has;

	ck_assert(log && fd >= 0);
	ck_assert_int_ge(read(fd, log, (1 << 20) - 1), 0);
	close(fd);
	has = strstr(log, text) != NULL;
	free(log);
	return has;
}

/* ---- control --------------------------------------------------------------
 */

static void stream_read_line(int fd, char **line_out)
{
	size_t room = 1 << 20, n = 0;
	char *line = malloc(room);
	ssize_t got;

	ck_assert_ptr_nonnull(line);
	do {
		got = recv(fd, line + n, room - n - 1, 0);
		ck_assert_int_gt(got, 0);
		n += (size_t)got;
	} while (line[n - 1] != '\n');
	line[n] = 0;
	*line_out = line;
}

int daemon_connect(const struct daemon *d)
{
	int fd = unix_connect(d, "control.sock", SOCK_STREAM);

	ck_assert_int_ge(fd, 0);
	return fd;
}

struct hv *daemon_hv(const struct daemon *d)
{
	char socket[sizeof(d->dir) + 16];
	struct hv *hv;

	snprintf(socket, sizeof(socket), "%s/control.sock", d->dir);
	ck_assert_int_eq(hv_create(socket, &hv), 0);
	return hv;
}

json_t *daemon_call(struct daemon *d, const char *request, char errno_out[32])
{
	struct timeval tv = {.tv_sec = patience() / 1000};
	json_t *answer, *result, *error;
	char *line;
	int fd;

	fd = daemon_connect(d);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	ck_assert_int_eq(send(fd, request, strlen(request), MSG_NOSIGNAL),
			 (ssize_t)strlen(request));
	ck_assert_int_eq(send(fd, "\n", 1, MSG_NOSIGNAL), 1);
	stream_read_line(fd, &line);
	close(fd);
	answer = json_loads(line, 0, NULL);
	ck_assert_msg(json_is_object(answer), "no JSON: %s", line);
	free(line);
	result = json_incref(json_object_get(answer, "result"));
	error = json_object_get(answer, "error");
	ck_assert(!result != !error);
	if (errno_out)
		snprintf(errno_out, 32, "%s",
			 error ? json_string_value(
					 json_object_get(error, "errno"))
			       : "");
	json_decref(answer);
	return result;
}

void daemon_refuses(struct daemon *d, const char *request, const char *error)
{
	char got[32];
	json_t *result = daemon_call(d, request, got);

	ck_assert_ptr_null(result);
	ck_assert_msg(!strcmp(got, error), "%s: %s, not %s", request, got,
		      error);
}

pid_t daemon_call_begin(struct daemon *d, const char *request,
			const char *expect)
{
	pid_t pid = fork();
	char got[32], *text;
	json_t *result;

	ck_assert_int_ge(pid, 0);
	if (pid)
		return pid;
	result = daemon_call(d, request, got);
	text = result ? json_dumps(result, JSON_COMPACT | JSON_SORT_KEYS) : got;
	if (strcmp(text, expect) != 0) {
		fprintf(stderr, "%s: %s, not %s\n", request, text, expect);
		_exit(1);
	}
	_exit(0);
}

void daemon_call_end(pid_t call)
{
	int status;

	ck_assert_int_eq(waitpid(call, &status, 0), call);
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status),
		      "the call's answer was another");
}

int64_t daemon_number(struct daemon *d, const char *request, const char *path)
{
	json_t *result = daemon_call(d, request, NULL), *at = result;
	char copy[128], *save, *word;
	int64_t n;

	snprintf(copy, sizeof(copy), "%s", path);
	for (word = strtok_r(copy, ".", &save); word && at;
	     word = strtok_r(NULL, ".", &save))
		at = json_is_array(at)
			     ? json_array_get(at, strtoul(word, NULL, 10))
			     : json_object_get(at, word);
	n = json_is_boolean(at)	  ? json_is_true(at)
	    : json_is_integer(at) ? json_integer_value(at)
				  : -1;
	json_decref(result);
	return n;
}

void daemon_await(struct daemon *d, const char *request, const char *path,
		  int64_t number)
{
	int64_t n = -1;
	unsigned waited;

	for (waited = 0; waited < patience(); waited += 20) {
		n = daemon_number(d, request, path);
		if (n == number)
			return;
		wait_ms(20);
	}
	ck_abort_msg("%s stays %lld, not %lld", path, (long long)n,
		     (long long)number);
}

/* ---- peers ----------------------------------------------------------------
 */

static void fd_send(int sock, int fd)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(sizeof(int))] = {0};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = sizeof(buf)};
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cm), &fd, sizeof(int));
	if (sendmsg(sock, &mh, 0) != 1)
		_exit(1);
}

/* A byte is the order to connect once more. */
_Noreturn static void peer_child(const struct daemon *d, int sock)
{
	char byte;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(sock, &byte, 1) == 1) {
		fd = unix_connect(d, "agent.sock", SOCK_SEQPACKET);
		if (fd < 0)
			_exit(1);
		fd_send(sock, fd);
		close(fd);
	}
	_exit(0);
}

/* The pipes to the children, by peer: a child ends when its end closes. */
static struct {
	pid_t pid;
	int sock;
} child[64];

static int child_sock(pid_t pid)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(child); i++)
		if (child[i].pid == pid)
			return child[i].sock;
	ck_abort_msg("no such child");
	return -1;
}

static void child_note(pid_t pid, int sock)
{
	size_t i;

	for (i = 0; child[i].pid; i++)
		ck_assert_uint_lt(i, ARRAY_LEN(child) - 1);
	child[i].pid = pid;
	child[i].sock = sock;
}

static size_t fds_receive(int sock, void *data, size_t room, int *fds,
			  size_t *n_out)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(3 * sizeof(int))];
	struct iovec iov = {data, room};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = sizeof(buf)};
	struct cmsghdr *cm;
	ssize_t got = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);

	*n_out = 0;
	if (got <= 0)
		return 0;
	cm = CMSG_FIRSTHDR(&mh);
	if (cm) {
		*n_out = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(cm), *n_out * sizeof(int));
	}
	return (size_t)got;
}

void peer_connect(struct peer *p, const struct daemon *d)
{
	int sock = child_sock(p->pid), fds[3];
	char byte = 1;
	size_t n;

	(void)d;
	peer_close(p);
	ck_assert_int_eq(write(sock, &byte, 1), 1);
	ck_assert_uint_eq(fds_receive(sock, &byte, 1, fds, &n), 1);
	ck_assert_uint_eq(n, 1);
	p->fd = fds[0];
}

void peer_open(struct peer *p, const struct daemon *d)
{
	int pair[2];

	memset(p, 0, sizeof(*p));
	p->fd = p->pool_fd = p->file_fd = p->channel_fd = -1;
	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (!p->pid) {
		close(pair[0]);
		peer_child(d, pair[1]);
	}
	close(pair[1]);
	child_note(p->pid, pair[0]);
	peer_connect(p, d);
}

void peer_send_raw(struct peer *p, const void *packet, size_t bytes)
{
	/* It may be closed already: what the test looks at comes after. */
	if (send(p->fd, packet, bytes, MSG_NOSIGNAL) < 0)
		ck_assert(errno == EPIPE || errno == ECONNRESET);
}

void peer_send(struct peer *p, unsigned type, const void *body, size_t bytes)
{
	static _Alignas(8) unsigned char packet[WIRE_MAX];
	struct wire_head head = {WIRE_VERSION, (uint16_t)type,
				 (uint32_t)(sizeof(head) + bytes)};

	memcpy(packet, &head, sizeof(head));
	if (bytes)
		memcpy(packet + sizeof(head), body, bytes);
	peer_send_raw(p, packet, head.bytes);
}

static void hello_send(struct peer *p, const void *packet, size_t bytes)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(sizeof(int))] = {0};
	char copy[sizeof(struct wire_head) + sizeof(struct wire_hello)];
	struct iovec iov = {copy, bytes};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = sizeof(buf)};
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	memcpy(copy, packet, bytes);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cm), &p->pool_fd, sizeof(int));
	ck_assert_int_eq(sendmsg(p->fd, &mh, MSG_NOSIGNAL), (ssize_t)bytes);
}

void peer_hello(struct peer *p, const char *name, const char *domain,
		bool reconnect)
{
	struct {
		struct wire_head head;
		struct wire_hello body;
	} msg = {{WIRE_VERSION, WIRE_HELLO, sizeof(msg)},
		 {.ram_pages = 100000,
		  .shares = 1000,
		  .page_bytes = PAGE_BYTES,
		  .flags = reconnect ? WIRE_HELLO_RECONNECT : 0}};

	snprintf(p->name, sizeof(p->name), "%s", name);
	snprintf(p->domain, sizeof(p->domain), "%s", domain);
	memcpy(msg.body.name, p->name, sizeof(msg.body.name));
	memcpy(msg.body.domain, p->domain, sizeof(msg.body.domain));
	memcpy(msg.body.qmp, p->qmp, sizeof(msg.body.qmp));
	if (reconnect && p->pool_fd >= 0)
		hello_send(p, &msg, sizeof(msg));
	else
		peer_send_raw(p, &msg, sizeof(msg));
}

void peer_join(struct peer *p, const struct daemon *d, const char *name,
	       const char *domain)
{
	peer_open(p, d);
	peer_hello(p, name, domain, false);
	ck_assert_ptr_nonnull(peer_hear(p, WIRE_WELCOME));
}

static void welcome_take(struct peer *p, int *fds, size_t n)
{
	memcpy(&p->welcome, p->in + sizeof(struct wire_head),
	       sizeof(p->welcome));
	ck_assert_uint_eq(n, 1 + p->welcome.uffd_device + p->welcome.channel);
	if (p->pool_fd >= 0)
		close(p->pool_fd);
	if (p->channel_fd >= 0)
		close(p->channel_fd);
	p->pool_fd = fds[0];
	p->channel_fd = p->welcome.channel ? fds[n - 1] : -1;
	if (p->welcome.uffd_device)
		close(fds[1]);
}

static void file_take(struct peer *p, const int *fds, size_t n)
{
	struct wire_command command;

	memcpy(&command, p->in + sizeof(struct wire_head), sizeof(command));
	ck_assert_uint_eq(n, wire_command_has_fd(command.op));
	p->file_fd = n ? fds[0] : -1;
}

/* NULL: closed, or nothing within ms (*quiet_out then). */
static const struct wire_head *peer_read(struct peer *p, int ms,
					 bool *quiet_out)
{
	const struct wire_head *head = (const void *)p->in;
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	size_t n, nfds;
	int fds[3];

	*quiet_out = poll(&pfd, 1, ms) == 0;
	if (*quiet_out)
		return NULL;
	n = fds_receive(p->fd, p->in, sizeof(p->in), fds, &nfds);
	if (!n)
		return NULL;
	ck_assert_int_eq(wire_check(WIRE_HVD, p->in, n), 0);
	if (head->type == WIRE_WELCOME)
		welcome_take(p, fds, nfds);
	else if (head->type == WIRE_COMMAND)
		file_take(p, fds, nfds);
	else
		ck_assert_uint_eq(nfds, 0);
	return head;
}

const struct wire_head *peer_hear(struct peer *p, unsigned type)
{
	const struct wire_head *head;
	bool quiet;

	do {
		head = peer_read(p, (int)patience(), &quiet);
		ck_assert_msg(!quiet, "%s hears no %s", p->name,
			      wire_type_name((uint16_t)type));
	} while (head && head->type != type);
	return head;
}

static void peer_hear_body(struct peer *p, enum wire_type type, void *out,
			   size_t bytes)
{
	const struct wire_head *head = peer_hear(p, type);

	ck_assert_ptr_nonnull(head);
	memcpy(out, head + 1, bytes);
}

struct wire_command peer_command(struct peer *p)
{
	struct wire_command command;

	peer_hear_body(p, WIRE_COMMAND, &command, sizeof(command));
	return command;
}

struct wire_target peer_target(struct peer *p)
{
	struct wire_target target;

	peer_hear_body(p, WIRE_TARGET, &target, sizeof(target));
	return target;
}

void peer_answer(struct peer *p, uint64_t id, int rc, int64_t value,
		 const char *text)
{
	struct wire_result result = {.id = id, .rc = rc, .value = value};

	snprintf(result.text, sizeof(result.text), "%s", text);
	peer_send(p, WIRE_RESULT, &result, sizeof(result));
}

void peer_unmanage(struct daemon *d, struct peer *p)
{
	pid_t call = daemon_call_begin(
		d, "{\"method\":\"unmanage\",\"params\":{\"vm\":\"a\"}}", "{}");
	struct wire_command command = peer_command(p);

	ck_assert_uint_eq(command.op, WIRE_CMD_UNMANAGE);
	peer_answer(p, command.id, 0, 0, "");
	daemon_call_end(call);
}

void peer_hears_not(struct peer *p, unsigned type, int ms)
{
	const struct wire_head *head;
	bool quiet = false;

	while (!quiet) {
		head = peer_read(p, ms, &quiet);
		ck_assert_msg(head || quiet, "%s: closed", p->name);
		ck_assert_msg(!head || head->type != type, "%s hears a %s",
			      p->name, wire_type_name((uint16_t)type));
	}
}

bool peer_is_closed(struct peer *p)
{
	bool quiet;

	while (peer_read(p, (int)patience(), &quiet))
		;
	return !quiet;
}

static void page_fill(uint8_t page[PAGE_BYTES], uint32_t content)
{
	memset(page, (int)content, PAGE_BYTES);
	memcpy(page + 100, &content, sizeof(content));
}

void peer_offer(struct peer *p, uint64_t page, uint32_t content)
{
	struct wire_offer offer = {.page = page};
	uint8_t bytes[PAGE_BYTES];

	page_fill(bytes, content);
	offer.hash = sharing_hash(p->welcome.secret, bytes);
	peer_send(p, WIRE_OFFER, &offer, sizeof(offer));
}

void peer_publish(struct peer *p, const struct wire_want *want,
		  uint32_t content)
{
	struct {
		uint32_t count, reserved;
		struct wire_want want;
		uint8_t page[PAGE_BYTES];
	} msg = {.count = 1, .want = *want};

	page_fill(msg.page, content);
	peer_send(p, WIRE_PUBLISH, &msg, sizeof(msg));
}

bool peer_reads(const struct peer *p, uint32_t frame, uint32_t content)
{
	uint8_t page[PAGE_BYTES], there[PAGE_BYTES];

	page_fill(page, content);
	ck_assert_int_eq(pread(p->pool_fd, there, PAGE_BYTES,
			       (off_t)frame << PAGE_SHIFT),
			 PAGE_BYTES);
	return !memcmp(page, there, PAGE_BYTES);
}

void peer_close(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

void peer_kill(struct peer *p)
{
	size_t i;

	kill(p->pid, SIGKILL);
	ck_assert_int_eq(waitpid(p->pid, NULL, 0), p->pid);
	for (i = 0; i < ARRAY_LEN(child); i++)
		if (child[i].pid == p->pid) {
			close(child[i].sock);
			child[i].pid = 0;
		}
	peer_close(p);
	if (p->pool_fd >= 0)
		close(p->pool_fd);
	if (p->channel_fd >= 0)
		close(p->channel_fd);
	p->pool_fd = p->channel_fd = -1;
}
