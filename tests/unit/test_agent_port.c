/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's line to its page store as a VMM finds it: a process with
 * libhvagent.so preloaded connects to a path where nothing lies, reads what
 * QEMU's ivshmem-doorbell device would read, and then is the guest. There is no
 * hvd and no guest RAM in any of it.
 *
 * Each test is a scenario of the child's; its exit code is the verdict.
 */
#include "guest-drivers/mini/line.h"
#include "hv/base/types.h"
#include "tests/support/preload.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define QUEUES	3
#define VECTORS (1 + QUEUES)

static char dir[] = "/tmp/test_agent_port.XXXXXX";

/* ---- the child: a VMM ---------------------------------------------------- */

#define CHECK(x)                                                               \
	do {                                                                   \
		if (!(x)) {                                                    \
			fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__,  \
				#x, errno);                                    \
			_exit(1);                                              \
		}                                                              \
	} while (0)

struct device {
	int socket;
	int memory;
	int host[VECTORS];  /* doorbells */
	int guest[VECTORS]; /* interrupts */
	unsigned char *at;
	size_t bytes;
};

static int port_open(const char *name, int flags)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);
	int rc;

	CHECK(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s.tmem",
		 getenv("TIDEPOOL_RUN_DIR"), name);
	rc = connect(fd, (const struct sockaddr *)&addr, sizeof(addr));
	if (!rc)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* As QEMU: eight bytes, perhaps with a descriptor. */
static int64_t message_read(int fd, int *got_out)
{
	char control[CMSG_SPACE(sizeof(int))];
	int64_t number;
	struct iovec iov = {&number, sizeof(number)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *c;

	CHECK(recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) ==
	      sizeof(number));
	c = CMSG_FIRSTHDR(&msg);
	*got_out = -1;
	if (c)
		memcpy(got_out, CMSG_DATA(c), sizeof(*got_out));
	return number;
}

static void vectors_read(int fd, int64_t peer, int vector[VECTORS])
{
	for (int i = 0; i < VECTORS; i++) {
		CHECK(message_read(fd, &vector[i]) == peer);
		CHECK(vector[i] >= 0);
	}
}

static void device_open(struct device *d)
{
	struct stat st;
	char more;
	int none;

	d->socket = port_open("vm", 0);
	CHECK(d->socket >= 0);
	CHECK(message_read(d->socket, &none) == 0 && none < 0); /* version */
	CHECK(message_read(d->socket, &none) == 0 && none < 0); /* our peer */
	CHECK(message_read(d->socket, &d->memory) == -1 && d->memory >= 0);
	vectors_read(d->socket, 1, d->host);
	vectors_read(d->socket, 0, d->guest);
	CHECK(recv(d->socket, &more, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(!fstat(d->memory, &st));
	d->bytes = (size_t)st.st_size;
	/* else QEMU ends with an error */
	CHECK(!(d->bytes & (d->bytes - 1)));
	d->at = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		     d->memory, 0);
	CHECK(d->at != MAP_FAILED);
}

static void device_close(struct device *d)
{
	munmap(d->at, d->bytes);
	close(d->memory);
	for (int i = 0; i < VECTORS; i++) {
		close(d->host[i]);
		close(d->guest[i]);
	}
	close(d->socket);
}

static void ring(const struct device *d, unsigned vector)
{
	CHECK(!eventfd_write(d->host[vector], 1));
}

static void interrupt_wait(const struct device *d, unsigned vector)
{
	struct pollfd p = {.fd = d->guest[vector], .events = POLLIN};
	eventfd_t n;

	CHECK(poll(&p, 1, 10000) == 1);
	CHECK(!eventfd_read(p.fd, &n));
}

static void guest_begin(const struct device *d, struct line_view *view)
{
	CHECK(!line_view_init(view, d->at, d->bytes));
	CHECK(view->queues == QUEUES && view->host_peer == 1);
	line_view_begin(view, 77, ~0u);
	ring(d, 0);
	while (line_view_begun(view) == LINE_EAGAIN)
		interrupt_wait(d, 0);
	CHECK(!line_view_begun(view));
}

/* Sleeps for every answer, as an interrupt would end it. */
static int32_t ask(const struct device *d, unsigned queue, struct line_tx *tx,
		   const struct line_entry *e, unsigned char *page)
{
	uint32_t at;
	int32_t result;
	bool put = e->op == LINE_OP_PUT;

	CHECK(!line_tx_post(tx, e, put ? page : NULL, true, &at));
	if (line_tx_publish(tx))
		ring(d, 1 + queue);
	while (!line_tx_done(tx, at))
		if (line_tx_arm(tx, at))
			interrupt_wait(d, 1 + queue);
	result = line_tx_result(tx, at);
	if (e->op == LINE_OP_GET)
		memcpy(page, line_tx_slot(tx, at), LINE_PAGE_BYTES);
	line_tx_release(tx, at);
	return result;
}

static void queue_use(const struct device *d, const struct line_view *view,
		      unsigned queue)
{
	unsigned char page[LINE_PAGE_BYTES], got[LINE_PAGE_BYTES];
	static line_u8 kept[LINE_ENTRIES_MAX];
	struct line_entry e = {.op = LINE_OP_POOL_CREATE,
			       .pool = LINE_POOL_PERSISTENT};
	struct line_tx tx;

	CHECK(!line_tx_init(&tx, view, queue, kept));
	e.pool = ask(d, queue, &tx, &e, NULL);
	CHECK(e.pool == (int)queue);
	for (e.index = 0; e.index < 600; e.index++) {
		memset(page, (int)e.index, sizeof(page));
		page[7] = (unsigned char)queue;
		e.op = LINE_OP_PUT;
		CHECK(!ask(d, queue, &tx, &e, page));
		e.op = LINE_OP_GET;
		CHECK(!ask(d, queue, &tx, &e, got));
		CHECK(!memcmp(page, got, sizeof(got)));
	}
}

static void scenario_guest(void)
{
	struct line_view view;
	struct device d;

	for (int life = 0; life < 2; life++) {
		device_open(&d);
		CHECK(ftruncate(d.memory, 4096) < 0);
		guest_begin(&d, &view);
		for (unsigned q = 0; q < QUEUES; q++)
			queue_use(&d, &view, q);
		/* A device that is torn out: the next begins with no pools. */
		device_close(&d);
	}
}

static void scenario_settings(void)
{
	struct line_wishes wishes;
	struct line_view view;
	struct device d;

	device_open(&d);
	guest_begin(&d, &view);
	line_view_wishes(&view, &wishes);
	CHECK(wishes.swap_pages == ((16 << 20) - (16 << 20) / 32) / 4096);
	CHECK(wishes.swap_priority > 0);
	CHECK(wishes.ephemeral);
}

static void scenario_one_device(void)
{
	struct device d;

	device_open(&d);
	CHECK(port_open("vm", 0) == -EBUSY);
	device_close(&d);
	device_open(&d);
}

static void scenario_flags(void)
{
	int fd = port_open("vm", SOCK_NONBLOCK);

	CHECK(fd >= 0);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(!(fcntl(fd, F_GETFD) & FD_CLOEXEC));
	CHECK(port_open("vm", SOCK_CLOEXEC) == -EBUSY);
	close(fd);
	fd = port_open("vm", SOCK_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(!(fcntl(fd, F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void scenario_other_name(void)
{
	CHECK(port_open("other", 0) == -ENOENT);
	CHECK(port_open("vm", 0) >= 0);
}

static void scenario_nothing(void)
{
	CHECK(port_open("vm", 0) == -ENOENT);
}

/* A helper that the VMM forks is no VMM. */
static void scenario_fork(void)
{
	struct line_view view;
	struct device d;
	int status;
	pid_t pid;

	device_open(&d);
	guest_begin(&d, &view);
	pid = fork();
	if (!pid)
		_exit(port_open("vm", 0) == -ENOENT ? 0 : 1);
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	queue_use(&d, &view, 0);
}

static const struct scenario {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{"guest", scenario_guest},
	{"settings", scenario_settings},
	{"one_device", scenario_one_device},
	{"flags", scenario_flags},
	{"other_name", scenario_other_name},
	{"nothing", scenario_nothing},
	{"fork", scenario_fork},
};

static int child_main(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(scenarios); i++)
		if (!strcmp(name, scenarios[i].name)) {
			scenarios[i].run();
			return 0;
		}
	return 97;
}

/* ---- the parent ---------------------------------------------------------- */

_Noreturn static void child_exec(const char *scenario, const char *tmem)
{
	preload_stderr();
	setenv("TIDEPOOL_RUN_DIR", dir, 1);
	setenv("TIDEPOOL_NAME", "vm", 1);
	setenv("TIDEPOOL_TMEM_QUEUES", "3", 1);
	if (tmem)
		setenv("TIDEPOOL_TMEM", tmem, 1);
	preload_exec("--vmm", scenario);
}

static void child_passes(const char *scenario, const char *tmem)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		child_exec(scenario, tmem);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(!status, "%s: status %#x: %s", scenario, status,
		      preload_said());
}

START_TEST(device_is_served_and_served_again)
{
	child_passes("guest", "16M");
	ck_assert_ptr_nonnull(strstr(preload_said(), "up to 16 MiB"));
}
END_TEST

START_TEST(guest_is_told_what_is_wanted)
{
	child_passes("settings", "16M");
}
END_TEST

START_TEST(one_device_at_a_time)
{
	child_passes("one_device", "1M");
	ck_assert_ptr_nonnull(strstr(preload_said(), "busy"));
}
END_TEST

START_TEST(socket_keeps_its_flags)
{
	child_passes("flags", "1M");
}
END_TEST

START_TEST(other_paths_are_left_alone)
{
	child_passes("other_name", "1M");
}
END_TEST

START_TEST(without_the_word_there_is_no_line_and_it_is_said)
{
	child_passes("nothing", NULL);
	ck_assert_ptr_nonnull(strstr(preload_said(), "`tmem` is not set"));
	child_passes("nothing", "0");
}
END_TEST

START_TEST(forked_helper_gets_no_line)
{
	child_passes("fork", "16M");
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("agent port");
	TCase *tc = tcase_create("port");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, device_is_served_and_served_again);
	tcase_add_test(tc, guest_is_told_what_is_wanted);
	tcase_add_test(tc, one_device_at_a_time);
	tcase_add_test(tc, socket_keeps_its_flags);
	tcase_add_test(tc, other_paths_are_left_alone);
	tcase_add_test(tc, without_the_word_there_is_no_line_and_it_is_said);
	tcase_add_test(tc, forked_helper_gets_no_line);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(int argc, char **argv)
{
	int failed;

	if (argc == 3 && !strcmp(argv[1], "--vmm"))
		return child_main(argv[2]);
	preload_find();
	if (!mkdtemp(dir) || chdir(dir))
		return 1;
	failed = suite_run(suite_make());
	unlink("stderr");
	if (chdir("/") || rmdir(dir))
		return 1;
	return failed;
}
