/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The real hvd and agents over real sockets: sharing, lies, death, restart. */
#include "tests/support/daemon.h"
#include "tests/support/run.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DOMAINS "{\"method\": \"domains\"}"
#define LIST	"{\"method\": \"list\"}"
#define HOST	"{\"method\": \"host\"}"

static struct daemon d;
static struct peer a, b, c;

static const struct wire_want *want_of(struct peer *p)
{
	const struct wire_head *head = peer_hear(p, WIRE_WANT);

	ck_assert_ptr_nonnull(head);
	return (const void *)(head + 1);
}

static struct wire_grant grant_of(struct peer *p)
{
	const struct wire_head *head = peer_hear(p, WIRE_GRANT);
	struct wire_grant grant;

	ck_assert_ptr_nonnull(head);
	memcpy(&grant, head + 1, sizeof(grant));
	return grant;
}

static void release(struct peer *p, uint32_t frame)
{
	const struct wire_release r = {frame};

	peer_send(p, WIRE_RELEASE, &r, sizeof(r));
}

static void have(struct peer *p, uint32_t frame, uint32_t refs)
{
	const struct wire_have h = {frame, refs};

	if (refs)
		peer_send(p, WIRE_HAVE, &h, sizeof(h));
	else
		peer_send(p, WIRE_HAVE, NULL, 0);
}

/* a and b, in one domain, come to share a content; the frame. */
static uint32_t share_one(uint32_t content)
{
	struct wire_grant ga, gb;

	peer_offer(&a, 100 + content, content);
	/* In order: two sockets are read in any. */
	daemon_await(&d, DOMAINS, "domains.0.index_entries",
		     daemon_number(&d, DOMAINS, "domains.0.frames") + 1);
	peer_offer(&b, 200 + content, content);
	peer_publish(&b, want_of(&b), content);
	ga = grant_of(&a);
	gb = grant_of(&b);
	ck_assert_uint_eq(ga.page, 100 + content);
	ck_assert_uint_eq(gb.page, 200 + content);
	ck_assert_uint_eq(ga.frame, gb.frame);
	return ga.frame;
}

static void start_two(void)
{
	daemon_start(&d, NULL, NULL);
	peer_join(&a, &d, "a", "lab");
	peer_join(&b, &d, "b", "lab");
}

static void stop_two(void)
{
	peer_kill(&a);
	peer_kill(&b);
	daemon_stop(&d);
}

START_TEST(equal_pages_are_shared)
{
	uint32_t f;

	start_two();
	f = share_one(1);
	ck_assert(peer_reads(&a, f, 1));
	ck_assert(peer_reads(&b, f, 1));
	ck_assert_int_lt(write(a.pool_fd, "x", 1), 0); /* read-only */
	ck_assert_int_eq(fcntl(a.pool_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	ck_assert_int_eq(daemon_number(&d, DOMAINS, "domains.0.saved_pages"),
			 1);
	release(&a, f);
	release(&b, f);
	daemon_await(&d, DOMAINS, "domains.0.frames", 0);
	stop_two();
}
END_TEST

/* By default every VM is its own domain; a name is one only if equal. */
START_TEST(domains_never_share)
{
	daemon_start(&d, NULL, NULL);
	peer_join(&a, &d, "a", "lab");
	peer_join(&b, &d, "b", "office");
	peer_join(&c, &d, "lab", ""); /* named as another's domain is */
	ck_assert_mem_ne(a.welcome.secret, b.welcome.secret, 192);
	ck_assert_mem_ne(a.welcome.secret, c.welcome.secret, 192);
	peer_offer(&a, 1, 5);
	peer_offer(&b, 1, 5);
	peer_offer(&c, 1, 5);
	/* Not even with a's own hash. */
	memcpy(b.welcome.secret, a.welcome.secret, 192);
	memcpy(c.welcome.secret, a.welcome.secret, 192);
	peer_offer(&b, 2, 5);
	peer_offer(&c, 2, 5);
	peer_hears_not(&a, WIRE_WANT, 300);
	peer_hears_not(&b, WIRE_WANT, 10);
	peer_hears_not(&c, WIRE_WANT, 10);
	ck_assert_int_eq(daemon_number(&d, DOMAINS, "domains.0.frames_pending"),
			 0);
	ck_assert_int_eq(
		daemon_number(&d, "{\"method\":\"host\"}", "pool_frames"), 0);
	ck_assert_int_eq(daemon_number(&d, "{\"method\":\"host\"}", "domains"),
			 3);
	peer_kill(&c);
	stop_two();
}
END_TEST

/* ---- what an agent may send -----------------------------------------------
 */

static const struct {
	const char *what;
	size_t bytes;
	struct wire_head head;
	bool after_hello;
} bad[] = {
	{"garbage", 100, {0xaaaa, 0xaaaa, 0xaaaaaaaa}, false},
	{"one byte", 1, {0}, false},
	{"another version", 288, {WIRE_VERSION + 1, WIRE_HELLO, 288}, false},
	{"truncated", 200, {WIRE_VERSION, WIRE_HELLO, 288}, false},
	{"too long for its head", 400, {WIRE_VERSION, WIRE_HELLO, 288}, false},
	{"oversized",
	 WIRE_MAX + 24,
	 {WIRE_VERSION, WIRE_OFFER, WIRE_MAX + 24},
	 false},
	{"no HELLO", 32, {WIRE_VERSION, WIRE_OFFER, 32}, false},
	{"hvd's own type", 8, {WIRE_VERSION, WIRE_WANT, 8}, false},
	{"garbage", 100, {0xaaaa, 0xaaaa, 0xaaaaaaaa}, true},
	{"another version", 32, {WIRE_VERSION + 1, WIRE_OFFER, 32}, true},
	{"truncated", 31, {WIRE_VERSION, WIRE_OFFER, 32}, true},
	{"oversized",
	 WIRE_MAX + 24,
	 {WIRE_VERSION, WIRE_OFFER, WIRE_MAX + 24},
	 true},
	{"hvd's own type", 40, {WIRE_VERSION, WIRE_TARGET, 40}, true},
	{"HAVE though it never left", 8, {WIRE_VERSION, WIRE_HAVE, 8}, true},
	{"a RESULT nobody asked for",
	 8 + sizeof(struct wire_result),
	 {WIRE_VERSION, WIRE_RESULT, 8 + sizeof(struct wire_result)},
	 true},
};

START_TEST(malformed_messages_end_their_sender_alone)
{
	char *packet = calloc(1, WIRE_MAX + 64);

	ck_assert_ptr_nonnull(packet);
	daemon_start(&d, NULL, NULL);
	peer_join(&a, &d, "a", "lab");
	peer_open(&c, &d);
	if (bad[_i].after_hello) {
		peer_hello(&c, "c", "lab", false);
		ck_assert_ptr_nonnull(peer_hear(&c, WIRE_WELCOME));
	}
	memcpy(packet, &bad[_i].head, sizeof(bad[_i].head));
	peer_send_raw(&c, packet, bad[_i].bytes);
	ck_assert_msg(peer_is_closed(&c), "%s is accepted", bad[_i].what);
	peer_kill(&c);
	/* All others are served as before. */
	peer_join(&b, &d, "b", "lab");
	ck_assert(peer_reads(&a, share_one(3), 3));
	stop_two();
	free(packet);
}
END_TEST

START_TEST(second_hello_ends_the_connection)
{
	start_two();
	peer_hello(&b, "b2", "lab", false);
	ck_assert(peer_is_closed(&b));
	stop_two();
}
END_TEST

static const struct wire_refuse *refused(struct peer *p)
{
	const struct wire_head *head = peer_hear(p, WIRE_REFUSE);

	ck_assert_ptr_nonnull(head);
	return (const void *)(head + 1);
}

START_TEST(names_are_given_once)
{
	start_two();
	peer_open(&c, &d);
	peer_hello(&c, "a", "office", false);
	ck_assert_ptr_nonnull(strstr(refused(&c)->text, "already registered"));
	ck_assert(peer_is_closed(&c));
	/* And one process is one VM. */
	peer_connect(&a, &d);
	peer_hello(&a, "a2", "lab", false);
	ck_assert_ptr_nonnull(strstr(refused(&a)->text, "as a"));
	peer_kill(&c);
	stop_two();
}
END_TEST

START_TEST(a_liar_harms_itself_alone)
{
	struct wire_want want;
	uint32_t i, f;

	start_two();
	peer_join(&c, &d, "c", "lab");
	f = share_one(9);
	for (i = 0; i < 17; i++) {
		peer_offer(&a, i, 1000 + i);
		daemon_await(&d, DOMAINS, "domains.0.index_entries", i + 2);
		peer_offer(&c, i, 1000 + i);
		want = *want_of(&c);
		peer_publish(&c, &want, 66); /* other bytes than its hash */
	}
	ck_assert(peer_is_closed(&c));
	ck_assert(peer_reads(&a, f, 9));
	peer_hears_not(&a, WIRE_GRANT, 50);
	/* What is a's alone again can be shared by the honest. */
	peer_offer(&b, 900, 1003);
	peer_publish(&b, want_of(&b), 1003);
	ck_assert_uint_eq(grant_of(&a).page, 3);
	peer_kill(&c);
	stop_two();
}
END_TEST

/* ---- death ----------------------------------------------------------------
 */

START_TEST(a_vmm_killed_gives_all_back)
{
	uint32_t f;

	start_two();
	f = share_one(4);
	peer_offer(&a, 50, 7); /* in the middle of merging: b is asked */
	daemon_await(&d, DOMAINS, "domains.0.index_entries", 2);
	peer_offer(&b, 51, 7);
	want_of(&b);
	peer_kill(&b);
	daemon_await(&d, DOMAINS, "domains.0.sharing_pages", 1);
	daemon_await(&d, DOMAINS, "domains.0.frames_pending", 0);
	ck_assert(peer_reads(&a, f, 4));
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.1.vm"), -1);
	peer_join(&b, &d, "b", "lab");
	peer_offer(&b, 52, 7);
	peer_publish(&b, want_of(&b), 7);
	ck_assert_uint_eq(grant_of(&a).page, 50);
	stop_two();
}
END_TEST

START_TEST(a_lost_connection_frees_nothing_while_the_process_lives)
{
	uint32_t f;

	start_two();
	f = share_one(4);
	release(&a, f);
	daemon_await(&d, DOMAINS, "domains.0.sharing_pages", 1);
	peer_close(&b);
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(
			daemon_number(&d, DOMAINS, "domains.0.sharing_pages"),
			1);
	ck_assert(peer_reads(&a, f, 4));
	/* It comes back, and says it has it still. */
	peer_connect(&b, &d);
	peer_hello(&b, "b", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&b, WIRE_WELCOME));
	have(&b, f, 1);
	have(&b, 0, 0);
	peer_offer(&a, 300, 4);
	ck_assert_uint_eq(grant_of(&a).frame, f);
	ck_assert_int_eq(daemon_number(&d, DOMAINS, "domains.0.sharing_pages"),
			 2);
	/* Lost for good: its process ends. */
	release(&a, f);
	peer_close(&b);
	peer_kill(&b);
	daemon_await(&d, DOMAINS, "domains.0.frames", 0);
	peer_kill(&a);
	daemon_stop(&d);
}
END_TEST

START_TEST(hvd_killed_loses_nothing)
{
	uint32_t f, g, h;

	start_two();
	peer_join(&c, &d, "c", "office");
	f = share_one(1);
	g = share_one(2);
	h = share_one(3);
	daemon_kill(&d);
	ck_assert(peer_is_closed(&a));
	ck_assert(peer_reads(&a, f, 1));
	release(&b, h); /* never heard by anyone */
	daemon_restart(&d);
	ck_assert_int_eq(daemon_number(&d, "{\"method\":\"host\"}", "vms"), 3);
	peer_connect(&a, &d);
	peer_hello(&a, "a", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&a, WIRE_WELCOME));
	have(&a, f, 1);
	have(&a, g, 1);
	have(&a, 0, 0);
	daemon_await(&d, DOMAINS, "domains.0.frames", 2);
	/* b is not heard yet: its frames are safe from use and from death. */
	release(&a, g);
	daemon_await(&d, DOMAINS, "domains.0.frames", 1);
	ck_assert(peer_reads(&b, h, 3));
	peer_connect(&b, &d);
	peer_hello(&b, "b", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&b, WIRE_WELCOME));
	ck_assert_mem_eq(a.welcome.secret, b.welcome.secret, 192);
	have(&b, f, 1);
	have(&b, h, 2);
	have(&b, 0, 0);
	daemon_await(&d, DOMAINS, "domains.0.sharing_pages", 4);
	ck_assert(daemon_log_has(&d, "recovered"));
	/* All goes on: an old content, and a new one. */
	peer_offer(&a, 40, 3);
	ck_assert_uint_eq(grant_of(&a).frame, h);
	ck_assert(peer_reads(&a, share_one(8), 8));
	ck_assert(peer_reads(&a, f, 1));
	peer_kill(&c);
	stop_two();
}
END_TEST

START_TEST(a_new_vm_waits_for_the_pool)
{
	uint32_t f;

	start_two();
	f = share_one(1);
	daemon_kill(&d);
	daemon_restart(&d);
	peer_open(&c, &d);
	peer_hello(&c, "c", "lab", false);
	peer_hears_not(&c, WIRE_WELCOME, 500);
	/* Another domain has nothing to wait for. */
	peer_connect(&a, &d);
	peer_hello(&a, "a", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&a, WIRE_WELCOME));
	ck_assert_ptr_nonnull(peer_hear(&c, WIRE_WELCOME));
	ck_assert(peer_reads(&c, f, 1));
	/* b died meanwhile: that ends the recovery. */
	have(&a, 0, 0);
	peer_kill(&b);
	daemon_await(&d, DOMAINS, "domains.0.frames", 0);
	peer_offer(&c, 1, 6);
	daemon_await(&d, DOMAINS, "domains.0.index_entries", 1);
	peer_offer(&a, 1, 6);
	want_of(&a);
	peer_kill(&c);
	peer_kill(&a);
	daemon_stop(&d);
}
END_TEST

START_TEST(vms_that_died_with_hvd_leave_nothing)
{
	start_two();
	share_one(1);
	daemon_kill(&d);
	peer_kill(&a);
	peer_kill(&b);
	daemon_restart(&d);
	ck_assert_int_eq(daemon_number(&d, "{\"method\":\"host\"}", "domains"),
			 0);
	peer_join(&a, &d, "a", "lab");
	peer_join(&b, &d, "b", "lab");
	ck_assert(peer_reads(&a, share_one(1), 1));
	stop_two();
}
END_TEST

START_TEST(a_foreign_pool_is_refused)
{
	start_two();
	peer_join(&c, &d, "c", "office");
	daemon_kill(&d);
	daemon_restart(&d);
	/* c's pool is not that of lab; a file of our own is none at all. */
	peer_connect(&a, &d);
	close(a.pool_fd);
	a.pool_fd = dup(c.pool_fd);
	peer_hello(&a, "a", "lab", true);
	ck_assert_ptr_nonnull(strstr(refused(&a)->text, "frame pool"));
	peer_connect(&b, &d);
	close(b.pool_fd);
	b.pool_fd = memfd_create("mine", MFD_CLOEXEC);
	peer_hello(&b, "b", "lab", true);
	ck_assert_ptr_nonnull(strstr(refused(&b)->text, "frame pool"));
	/* A domain nobody recorded. */
	peer_connect(&b, &d);
	peer_hello(&b, "b", "elsewhere", true);
	ck_assert_ptr_nonnull(peer_hear(&b, WIRE_REFUSE));
	peer_kill(&c);
	stop_two();
}
END_TEST

/* The same of an hvd that was there all the time. */
START_TEST(a_vm_comes_back_to_its_own_domain_and_pool)
{
	start_two();
	peer_join(&c, &d, "c", "office");
	peer_connect(&a, &d);
	peer_hello(&a, "a", "office", false);
	ck_assert_ptr_nonnull(strstr(refused(&a)->text, "belongs to domain"));
	peer_connect(&a, &d);
	close(a.pool_fd);
	a.pool_fd = dup(c.pool_fd);
	peer_hello(&a, "a", "lab", true);
	ck_assert_ptr_nonnull(strstr(refused(&a)->text, "frame pool"));
	peer_kill(&c);
	stop_two();
}
END_TEST

/*
 * Of 1 GiB pressure wants 49 MiB free, and a million references 195 for writes
 * to them: those 195 MiB are kept free, not both. 75 MiB beyond are no
 * shortage.
 */
START_TEST(the_reserve_is_part_of_what_is_free)
{
	const uint64_t mib = 1 << 20, reserve = 1000000 * 4096ULL / 20;
	struct wire_stats stats = {.mm.ram_pages = 1 << 20};
	struct wire_target target;
	uint32_t f;

	start_two();
	f = share_one(1);
	peer_close(&b);
	peer_connect(&b, &d);
	peer_hello(&b, "b", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&b, WIRE_WELCOME));
	have(&b, f, 999999); /* and a one */
	have(&b, 0, 0);
	daemon_await(&d, HOST, "cow_reserve_bytes", (int64_t)reserve);
	json_decref(daemon_call(&d,
				"{\"method\": \"budget\", \"params\": "
				"{\"bytes\": 1073741824}}",
				NULL));
	stats.mm.private_pages =
		(1024 * mib - reserve + 49 * mib - 75 * mib) / PAGE_BYTES;
	peer_send(&a, WIRE_STATS, &stats, sizeof(stats));
	do {
		target = peer_target(&a);
		ck_assert_uint_le(target.pressure, 1);
	} while (target.pressure != 1);
	stop_two();
}
END_TEST

START_TEST(a_false_have_ends_the_connection)
{
	uint32_t f;

	start_two();
	f = share_one(1);
	daemon_kill(&d);
	daemon_restart(&d);
	peer_connect(&a, &d);
	peer_hello(&a, "a", "lab", true);
	have(&a, f + 1000, 1); /* never written */
	ck_assert(peer_is_closed(&a));
	ck_assert(daemon_log_has(&d, "its HAVE says what cannot be true"));
	peer_connect(&b, &d);
	peer_hello(&b, "b", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&b, WIRE_WELCOME));
	have(&b, f, 1);
	have(&b, 0, 0);
	daemon_await(&d, DOMAINS, "domains.0.frames", 1);
	ck_assert(peer_reads(&b, f, 1));
	stop_two();
}
END_TEST

START_TEST(a_damaged_record_is_no_end)
{
	char path[128];
	FILE *file;

	start_two();
	share_one(1);
	daemon_kill(&d);
	snprintf(path, sizeof(path), "%s/state.json", d.dir);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs("{\"version\": 1, \"domains\": [{\"name\": 7}], \"agents\"",
	      file);
	fclose(file);
	daemon_restart(&d);
	ck_assert(daemon_log_has(&d, "cannot come back"));
	peer_connect(&a, &d);
	peer_hello(&a, "a", "lab", true);
	ck_assert_ptr_nonnull(strstr(refused(&a)->text, "no record"));
	peer_join(&c, &d, "c", "lab");
	peer_kill(&c);
	stop_two();
}
END_TEST

START_TEST(hvd_stopped_for_a_while_is_harmless)
{
	uint32_t i, f;

	start_two();
	f = share_one(1);
	daemon_signal(&d, SIGSTOP);
	peer_offer(&a, 7, 70);
	poll(NULL, 0, 2000);
	for (i = 0; i < 100; i++)
		peer_offer(&a, 1000 + i, 2000 + i);
	ck_assert(peer_reads(&a, f, 1));
	daemon_signal(&d, SIGCONT);
	daemon_await(&d, DOMAINS, "domains.0.index_entries", 102);
	peer_offer(&b, 8, 70);
	peer_publish(&b, want_of(&b), 70);
	ck_assert_uint_eq(grant_of(&a).page, 7);
	stop_two();
}
END_TEST

/* b never reads. hvd may neither wait for it nor hoard for it. */
START_TEST(who_does_not_read_delays_nobody)
{
	const uint32_t per = 2000;
	struct wire_offer *offer = calloc(per, sizeof(*offer));
	uint32_t i, round;
	struct peer *p;

	ck_assert_ptr_nonnull(offer);
	start_two();
	peer_join(&c, &d, "c", "lab");
	fcntl(b.fd, F_SETFL, O_NONBLOCK);
	for (round = 0; round < 600; round++) {
		p = round % 2 ? &b : &a;
		for (i = 0; i < per; i++)
			offer[i] =
				(struct wire_offer){round / 2 * per + i,
						    round / 2 * per + i + 1, 0};
		if (p == &a) {
			peer_send(p, WIRE_OFFER, offer, per * sizeof(*offer));
			continue;
		}
		struct wire_head head = {
			WIRE_VERSION, WIRE_OFFER,
			(uint32_t)(sizeof(head) + per * sizeof(*offer))};
		memmove((char *)p->in, &head, sizeof(head));
		memcpy(p->in + sizeof(head), offer, per * sizeof(*offer));
		if (send(p->fd, p->in, head.bytes, MSG_NOSIGNAL) < 0)
			break; /* its offers are not read any more */
	}
	/* The others are served within their patience. */
	free(offer);
	peer_offer(&c, 1, 5);
	peer_offer(&c, 2, 5);
	peer_publish(&c, want_of(&c), 5);
	ck_assert_uint_lt(grant_of(&c).frame, WIRE_FRAME_NONE);
	ck_assert_int_eq(daemon_number(&d,
				       "{\"method\":\"check\","
				       "\"params\":{\"vm\":\"zzz\"}}",
				       "ok"),
			 -1);
	peer_kill(&c);
	stop_two();
}
END_TEST

START_TEST(one_hvd_per_folder)
{
	int status;
	pid_t pid;

	start_two();
	pid = fork();
	if (!pid) {
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		execl(d.hvd, "hvd", "--run-dir", d.dir, (char *)NULL);
		_exit(127);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 1);
	ck_assert(peer_reads(&a, share_one(1), 1));
	stop_two();
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("daemon");
	TCase *tc = tcase_create("daemon");

	(void)argc;
	daemon_find(&d, argv[0]);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, equal_pages_are_shared);
	tcase_add_test(tc, domains_never_share);
	tcase_add_loop_test(tc, malformed_messages_end_their_sender_alone, 0,
			    ARRAY_LEN(bad));
	tcase_add_test(tc, second_hello_ends_the_connection);
	tcase_add_test(tc, names_are_given_once);
	tcase_add_test(tc, a_liar_harms_itself_alone);
	tcase_add_test(tc, a_vmm_killed_gives_all_back);
	tcase_add_test(tc,
		       a_lost_connection_frees_nothing_while_the_process_lives);
	tcase_add_test(tc, hvd_killed_loses_nothing);
	tcase_add_test(tc, a_new_vm_waits_for_the_pool);
	tcase_add_test(tc, vms_that_died_with_hvd_leave_nothing);
	tcase_add_test(tc, a_foreign_pool_is_refused);
	tcase_add_test(tc, a_vm_comes_back_to_its_own_domain_and_pool);
	tcase_add_test(tc, the_reserve_is_part_of_what_is_free);
	tcase_add_test(tc, a_false_have_ends_the_connection);
	tcase_add_test(tc, a_damaged_record_is_no_end);
	tcase_add_test(tc, hvd_stopped_for_a_while_is_harmless);
	tcase_add_test(tc, who_does_not_read_delays_nobody);
	tcase_add_test(tc, one_hvd_per_folder);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
