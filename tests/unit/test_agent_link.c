/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's socket against an hvd played by the test: greeting, descriptors,
 * bad messages, the bound of the queue, and which releases may be sent after
 * which HAVE. link.c is no part of a library, so it is compiled in.
 */
#include "hv/agent/link.c"
#include "tests/support/run.h"

#include <check.h>
#include <fcntl.h>
#include <sys/mman.h>

static char dir[] = "/tmp/test_agent_link.XXXXXX";
static int listener = -1, peer = -1;
static struct link *ln;

static const struct wire_hello hello = {
	.name = "desk1", .shares = 1000, .page_bytes = PAGE_BYTES};

static void hvd_start(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(dir + sizeof(dir) - 7, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(link_create(dir, &ln), 0);
	listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/agent.sock", dir);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)),
			 0);
	ck_assert_int_eq(listen(listener, 4), 0);
}

static void hvd_stop(void)
{
	char path[64];

	link_destroy(ln);
	if (peer >= 0)
		close(peer);
	close(listener);
	peer = listener = -1;
	snprintf(path, sizeof(path), "%s/agent.sock", dir);
	unlink(path);
	rmdir(dir);
}

static void open_link(int pool_fd)
{
	ck_assert_int_eq(link_open(ln, &hello, pool_fd), 0);
	if (peer >= 0)
		close(peer);
	peer = accept(listener, NULL, NULL);
	ck_assert_int_ge(peer, 0);
}

/* One packet from the agent; fds_out: how many descriptors came with it. */
static size_t hvd_reads(void *buf, size_t room, size_t *fds_out)
{
	char control[CMSG_SPACE(4 * sizeof(int))];
	struct iovec iov = {buf, room};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(peer, &mh, MSG_DONTWAIT);
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	if (fds_out)
		*fds_out = n >= 0 && cm
				   ? (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int)
				   : 0;
	if (n <= 0)
		return 0;
	ck_assert_int_eq(wire_check(WIRE_AGENT, buf, (size_t)n), 0);
	return (size_t)n;
}

static void hvd_sends(const void *msg, size_t bytes, size_t nfds)
{
	char control[CMSG_SPACE(4 * sizeof(int))] = {0};
	struct iovec iov = {(void *)(uintptr_t)msg, bytes};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cm;

	if (nfds) {
		mh.msg_control = control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (size_t i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(cm) + i * sizeof(int), &listener,
			       sizeof(int));
	}
	ck_assert_int_eq(sendmsg(peer, &mh, 0), (ssize_t)bytes);
}

static void welcome_send(uint32_t uffd, size_t nfds)
{
	struct {
		struct wire_head head;
		struct wire_welcome body;
	} msg = {{WIRE_VERSION, WIRE_WELCOME, sizeof(msg)},
		 {.pool_bytes = PAGE_BYTES, .vm = 1, .uffd_device = uffd}};

	hvd_sends(&msg, sizeof(msg), nfds);
}

static int receive(uint16_t *type_out, size_t *nfds_out)
{
	struct link_message m;
	int rc = link_receive(ln, &m);

	*type_out = rc ? 0 : m.msg->type;
	*nfds_out = m.nfds;
	for (size_t i = 0; i < m.nfds; i++)
		close(m.fds[i]);
	return rc;
}

static void become_welcome(void)
{
	char buf[1024];
	uint16_t type;
	size_t nfds;

	ck_assert_uint_gt(hvd_reads(buf, sizeof(buf), NULL), 0);
	welcome_send(0, 1);
	ck_assert_int_eq(receive(&type, &nfds), 0);
}

static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

START_TEST(no_hvd_is_an_error_not_a_wait)
{
	close(listener);
	listener = -1;
	ck_assert_int_eq(link_open(ln, &hello, -1), -ECONNREFUSED);
	ck_assert(!link_is_open(ln));
	ck_assert_int_eq(link_fd(ln), -1);
	ck_assert_int_eq(link_flush(ln), -ENOTCONN);
}
END_TEST

START_TEST(long_run_dir_is_refused)
{
	struct link *other;
	char name[200];

	memset(name, 'a', sizeof(name));
	name[0] = '/';
	name[199] = '\0';
	ck_assert_int_eq(link_create(name, &other), -ENAMETOOLONG);
}
END_TEST

START_TEST(hello_carries_the_old_pool)
{
	struct {
		struct wire_head head;
		struct wire_hello body;
	} msg;
	size_t fds;

	open_link(listener);
	ck_assert_uint_eq(hvd_reads(&msg, sizeof(msg), &fds), sizeof(msg));
	ck_assert_uint_eq(fds, 1);
	ck_assert_str_eq(msg.body.name, "desk1");
	open_link(-1);
	ck_assert_uint_eq(hvd_reads(&msg, sizeof(msg), &fds), sizeof(msg));
	ck_assert_uint_eq(fds, 0);
}
END_TEST

START_TEST(welcome_brings_its_descriptors)
{
	uint16_t type;
	size_t nfds;

	open_link(-1);
	ck_assert_int_eq(receive(&type, &nfds), -EAGAIN);
	welcome_send(1, 2);
	ck_assert_int_eq(receive(&type, &nfds), 0);
	ck_assert_uint_eq(type, WIRE_WELCOME);
	ck_assert_uint_eq(nfds, 2);
}
END_TEST

/* What is wrong: descriptors missing or too many, in every combination. */
START_TEST(welcome_with_wrong_descriptors_ends_the_link)
{
	static const struct {
		uint32_t uffd;
		size_t nfds;
	} wrong[] = {{0, 0}, {0, 2}, {1, 1}, {1, 0}, {1, 3}, {0, 3}};
	int before;
	uint16_t type;
	size_t nfds;

	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		open_link(-1);
		before = open_fds();
		welcome_send(wrong[i].uffd, wrong[i].nfds);
		ck_assert_int_eq(receive(&type, &nfds), -EPROTO);
		ck_assert_int_eq(open_fds(), before);
	}
}
END_TEST

START_TEST(message_out_of_turn_ends_the_link)
{
	struct {
		struct wire_head head;
		struct wire_target body;
	} target = {.head = {WIRE_VERSION, WIRE_TARGET, sizeof(target)}};
	uint16_t type;
	size_t nfds;

	open_link(-1);
	hvd_sends(&target, sizeof(target), 0);
	ck_assert_int_eq(receive(&type, &nfds), -EPROTO);
	open_link(-1);
	become_welcome();
	hvd_sends(&target, sizeof(target), 0);
	ck_assert_int_eq(receive(&type, &nfds), 0);
	hvd_sends(&target, sizeof(target), 1);
	ck_assert_int_eq(receive(&type, &nfds), -EPROTO);
	open_link(-1);
	become_welcome();
	welcome_send(0, 1);
	ck_assert_int_eq(receive(&type, &nfds), -EPROTO);
}
END_TEST

START_TEST(garbage_ends_the_link)
{
	static char big[WIRE_MAX + 8];
	struct wire_head head = {WIRE_VERSION + 1, WIRE_TARGET, sizeof(head)};
	uint16_t type;
	size_t nfds;

	open_link(-1);
	hvd_sends("x", 1, 0);
	ck_assert_int_eq(receive(&type, &nfds), -EPROTO);
	hvd_sends(&head, sizeof(head), 0);
	ck_assert_int_eq(receive(&type, &nfds), -EPROTONOSUPPORT);
	hvd_sends(big, sizeof(big), 0);
	ck_assert_int_eq(receive(&type, &nfds), -EPROTO);
	close(peer);
	peer = -1;
	ck_assert_int_eq(receive(&type, &nfds), -ECONNRESET);
}
END_TEST

/* ---- the queue --------------------------------------------------------- */

static union {
	struct wire_head head;
	struct {
		struct wire_head head;
		struct wire_offer offer[1000];
	} offer;
	unsigned char all[WIRE_MAX];
} out;

static const struct wire_head *offer_of(uint64_t page)
{
	out.head =
		(struct wire_head){WIRE_VERSION, WIRE_OFFER, sizeof(out.offer)};
	for (size_t i = 0; i < ARRAY_LEN(out.offer.offer); i++)
		out.offer.offer[i] = (struct wire_offer){page, 1, 0};
	return &out.head;
}

START_TEST(queue_is_bounded_and_keeps_order)
{
	static union {
		struct {
			struct wire_head head;
			struct wire_offer offer[1000];
		} msg;
		unsigned char all[WIRE_MAX];
	} in;
	uint64_t sent = 0, got = 0;

	open_link(-1);
	become_welcome();
	while (!link_send(ln, offer_of(sent)))
		sent++;
	ck_assert_uint_gt(sent, 8);
	ck_assert(link_is_full(ln));
	ck_assert_uint_le(ln->queued_bytes, QUEUE_MAX);
	ck_assert_int_eq(link_send(ln, offer_of(0)), -EAGAIN);
	ck_assert_int_eq(link_flush(ln), 0);
	ck_assert_int_eq(link_events(ln), POLLIN | POLLOUT);
	while (hvd_reads(&in, sizeof(in), NULL)) {
		ck_assert_uint_eq(in.msg.offer[0].page, got++);
		ck_assert_int_eq(link_flush(ln), 0);
	}
	ck_assert_uint_eq(got, sent);
	ck_assert_int_eq(link_events(ln), POLLIN);
	ck_assert_int_eq(link_send(ln, offer_of(0)), 0);
}
END_TEST

START_TEST(have_knows_no_bound)
{
	open_link(-1);
	link_bound_lift(ln);
	for (int i = 0; i < 200; i++)
		ck_assert_int_eq(link_send(ln, offer_of(0)), 0);
	ck_assert_uint_gt(ln->queued_bytes, QUEUE_MAX);
	link_bound_set(ln);
	ck_assert_int_eq(link_send(ln, offer_of(0)), -EAGAIN);
}
END_TEST

START_TEST(closed_link_drops_what_was_queued)
{
	char buf[1024];

	open_link(-1);
	while (!link_send(ln, offer_of(0)))
		;
	link_close(ln);
	ck_assert_int_eq(link_send(ln, offer_of(0)), -ENOTCONN);
	open_link(-1);
	become_welcome();
	ck_assert_int_eq(link_flush(ln), 0);
	ck_assert_uint_eq(hvd_reads(buf, sizeof(buf), NULL), 0);
}
END_TEST

/* ---- releases ------------------------------------------------------------ */

/* Reads packets until none is left; counts releases of `frame`. */
static size_t releases_read(uint32_t frame)
{
	static union {
		struct wire_head head;
		struct {
			struct wire_head head;
			uint32_t frame[RELEASES_WIRE];
		} msg;
	} in;
	size_t found = 0;

	for (;;) {
		ck_assert_int_eq(link_flush(ln), 0);
		if (!hvd_reads(&in, sizeof(in), NULL))
			return found;
		if (in.head.type != WIRE_RELEASE)
			continue;
		for (size_t i = 0; i < wire_count(&in.head, sizeof(uint32_t));
		     i++)
			found += in.msg.frame[i] == frame;
	}
}

static void release(uint32_t frame)
{
	link_release(ln, &frame, 1);
}

START_TEST(release_before_the_walk_vanishes_after_it_is_sent)
{
	open_link(-1);
	release(1); /* between HELLO and the walk */
	link_release(ln, NULL, 0);
	release(2);
	become_welcome();
	release(2);
	ck_assert_uint_eq(releases_read(2), 2);
	release(1);
	ck_assert_uint_eq(releases_read(1), 1);
	link_close(ln);
	release(3); /* hvd away: the next walk will not count it */
	open_link(-1);
	link_release(ln, NULL, 0);
	become_welcome();
	ck_assert_uint_eq(releases_read(3), 0);
}
END_TEST

START_TEST(release_waits_for_welcome_and_follows_have)
{
	union {
		struct wire_head head;
		unsigned char all[WIRE_MAX];
	} in;
	bool released = false;

	open_link(-1);
	link_bound_lift(ln);
	link_release(ln, NULL, 0);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(link_send(ln, offer_of(0)), 0);
	link_bound_set(ln);
	release(9);
	become_welcome();
	for (int left = 101; left;) {
		ck_assert_int_eq(link_flush(ln), 0);
		while (hvd_reads(&in, sizeof(in), NULL)) {
			ck_assert(!released);
			released = in.head.type == WIRE_RELEASE;
			left--;
		}
	}
	ck_assert(released);
}
END_TEST

START_TEST(release_is_kept_while_hvd_reads_nothing)
{
	const size_t many = 3 * RELEASES_WIRE + 17;

	open_link(-1);
	link_releases_begin(ln);
	become_welcome();
	while (!link_send(ln, offer_of(0)))
		;
	for (size_t i = 0; i < many; i++)
		release(5);
	ck_assert_int_eq(link_flush(ln), 0);
	ck_assert_uint_eq(releases_read(5), many);
}
END_TEST

static void *release_many(void *arg)
{
	for (int i = 0; i < 100000; i++)
		link_release(ln, arg, 1);
	return NULL;
}

START_TEST(releases_of_many_threads_are_all_sent)
{
	static uint32_t frame = 8;
	pthread_t id[4];
	size_t found = 0;

	open_link(-1);
	link_releases_begin(ln);
	become_welcome();
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(
			pthread_create(&id[i], NULL, release_many, &frame), 0);
	for (int i = 0; i < 100; i++)
		found += releases_read(8);
	for (int i = 0; i < 4; i++)
		pthread_join(id[i], NULL);
	ck_assert_uint_eq(found + releases_read(8), 400000);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("agent link");
	TCase *tc = tcase_create("link");

	tcase_add_checked_fixture(tc, hvd_start, hvd_stop);
	tcase_add_test(tc, no_hvd_is_an_error_not_a_wait);
	tcase_add_test(tc, long_run_dir_is_refused);
	tcase_add_test(tc, hello_carries_the_old_pool);
	tcase_add_test(tc, welcome_brings_its_descriptors);
	tcase_add_test(tc, welcome_with_wrong_descriptors_ends_the_link);
	tcase_add_test(tc, message_out_of_turn_ends_the_link);
	tcase_add_test(tc, garbage_ends_the_link);
	tcase_add_test(tc, queue_is_bounded_and_keeps_order);
	tcase_add_test(tc, have_knows_no_bound);
	tcase_add_test(tc, closed_link_drops_what_was_queued);
	tcase_add_test(tc, release_before_the_walk_vanishes_after_it_is_sent);
	tcase_add_test(tc, release_waits_for_welcome_and_follows_have);
	tcase_add_test(tc, release_is_kept_while_hvd_reads_nothing);
	tcase_add_test(tc, releases_of_many_threads_are_all_sent);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
