/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libhvagent.so in a process that behaves as a VMM (tests/support/vmm.c), with
 * and without an hvd. The VMM checks every byte of its memory itself; here it
 * is seen to that the memory really was shared, that references end up exact,
 * and that one line says why where nothing is managed.
 */
#include "tests/support/mini_hvd.h"
#include "tests/support/preload.h"
#include "tests/support/run.h"
#include "tests/support/vmm.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/test_agent_preload.XXXXXX";
static struct mini_hvd *hvd;

struct vmm {
	pid_t pid;
	int in, out;
};

static const struct {
	const char *name, *value;
} none[] = {{NULL, NULL}};

/* ---- a VMM --------------------------------------------------------------- */

_Noreturn static void child_exec(const char *scenario, const char *name,
				 const char *value, uid_t uid)
{
	preload_stderr();
	if (uid && setuid(uid))
		_exit(99);
	setenv("TIDEPOOL_RUN_DIR", dir, 1);
	setenv("TIDEPOOL_NAME", "vmm", 1);
	if (name)
		setenv(name, value, 1);
	preload_exec("--vmm", scenario);
}

static struct vmm vmm_start_as(const char *scenario, const char *name,
			       const char *value, uid_t uid)
{
	int in[2], out[2];
	struct vmm v;

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	v.pid = fork();
	if (!v.pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		child_exec(scenario, name, value, uid);
	}
	close(in[0]);
	close(out[1]);
	v.in = in[1];
	v.out = out[0];
	return v;
}

static struct vmm vmm_start(const char *scenario)
{
	return vmm_start_as(scenario, none->name, none->value, 0);
}

static void vmm_waits(const struct vmm *v, const char *word)
{
	struct pollfd p = {v->out, POLLIN, 0};
	char line[32] = "";

	ck_assert_int_eq(poll(&p, 1, 60000), 1);
	ck_assert_msg(read(v->out, line, sizeof(line) - 1) > 0,
		      "the VMM died: %s", preload_said());
	ck_assert_msg(!strncmp(line, word, strlen(word)), "said %s", line);
}

static void vmm_go(const struct vmm *v)
{
	ck_assert_int_eq(write(v->in, "\n", 1), 1);
}

static void vmm_ends_well(const struct vmm *v)
{
	int status;

	ck_assert_int_eq(waitpid(v->pid, &status, 0), v->pid);
	close(v->in);
	close(v->out);
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status),
		      "status %#x: %s", status, preload_said());
}

static size_t lines_with(const char *word)
{
	size_t n = 0;

	for (const char *at = preload_said(); (at = strstr(at, word)); at++)
		n++;
	return n;
}

/* Waits for x to become true; x is evaluated once a 20 ms. */
#define EVENTUALLY(seconds, x)                                                 \
	do {                                                                   \
		int left_ = (seconds)*50;                                      \
                                                                               \
		while (!(x) && left_--)                                        \
			usleep(20000);                                         \
		ck_assert_msg(left_ >= 0, "not within %d s: %s\n%s", seconds,  \
			      #x, preload_said());                             \
	} while (0)

static struct domain_stats domain_now(void)
{
	struct domain_stats d;

	mini_hvd_domain(hvd, &d);
	return d;
}

static struct mm_stats stats_now(void)
{
	struct mm_stats s;

	mini_hvd_stats(hvd, &s);
	return s;
}

static const char *counts_text(void)
{
	static char text[4096];
	struct domain_stats d = domain_now();
	struct mm_stats s = stats_now();
	size_t n = 0;

#define PRINT_D(name, unit, help)                                              \
	n += (size_t)snprintf(text + n, sizeof(text) - n, #name "=%llu ",      \
			      (unsigned long long)d.name);
	DOMAIN_STATS(PRINT_D, PRINT_D)
#undef PRINT_D
#define PRINT_S(name, unit, help)                                              \
	n += (size_t)snprintf(text + n, sizeof(text) - n, #name "=%llu ",      \
			      (unsigned long long)s.name);
	MM_STATS(PRINT_S, PRINT_S)
#undef PRINT_S
	return text;
}

/* Nine in ten of the pages that have a twin are mapped from a frame. */
static void vmm_merges(void)
{
	int left = 40 * 50;

	while (domain_now().sharing_pages < VMM_DUPS / 10 * 9 && left--)
		usleep(20000);
	ck_assert_msg(left >= 0, "not merged in 40 s: %s\n%s", counts_text(),
		      preload_said());
}

/* hvd's references and the VM's own count of shared pages agree. */
static void references_agree(void)
{
	EVENTUALLY(10, domain_now().sharing_pages == stats_now().shared_pages);
	ck_assert_uint_eq(domain_now().release_unheld, 0);
	ck_assert_uint_eq(mini_hvd_liars(hvd), 0);
}

/* ---- with an hvd ------------------------------------------------------------
 */

static const char *const plain[] = {"discard", "unmap",	 "map_over", "remap",
				    "fork",    "dofork", "direct",   "uring",
				    "aio",     "lock",	 "write",    "vfio"};

static bool has_second_stop(const char *name)
{
	return !strcmp(name, "discard") || !strcmp(name, "write") ||
	       !strcmp(name, "vfio");
}

START_TEST(memory_is_right_while_shared)
{
	struct vmm v = vmm_start(plain[_i]);

	vmm_waits(&v, "ready");
	vmm_merges();
	vmm_go(&v);
	if (!strcmp(plain[_i], "unmap")) {
		vmm_waits(&v, "ready");
		vmm_merges(); /* memory announced again at the same place */
		vmm_go(&v);
	}
	if (has_second_stop(plain[_i])) {
		vmm_waits(&v, "done");
		references_agree();
		vmm_go(&v);
	}
	vmm_ends_well(&v);
	EVENTUALLY(10, domain_now().sharing_pages == 0);
	ck_assert_uint_eq(mini_hvd_liars(hvd), 0);
}
END_TEST

START_TEST(kvm_slot_shows_guest_ram)
{
	struct vmm v = vmm_start("slot");

	vmm_waits(&v, "ready");
	vmm_merges();
	vmm_go(&v);
	vmm_ends_well(&v);
}
END_TEST

START_TEST(discarded_pages_give_their_frames_back)
{
	struct vmm v = vmm_start("discard");

	vmm_waits(&v, "ready");
	vmm_merges();
	vmm_go(&v);
	vmm_waits(&v, "done");
	EVENTUALLY(10, domain_now().sharing_pages == 0);
	ck_assert_uint_eq(domain_now().release_unheld, 0);
	vmm_go(&v);
	vmm_ends_well(&v);
}
END_TEST

START_TEST(hvd_restarts_and_references_stay_exact)
{
	struct vmm v = vmm_start("write");

	vmm_waits(&v, "ready");
	vmm_merges();
	for (unsigned i = 2; i < 5; i++) {
		mini_hvd_hang_up(hvd);
		EVENTUALLY(20, mini_hvd_hellos(hvd) == i);
		vmm_merges();
	}
	mini_hvd_hang_up(hvd);
	vmm_go(&v); /* half of all pages are written while hvd is away */
	vmm_waits(&v, "done");
	EVENTUALLY(20, mini_hvd_hellos(hvd) == 5);
	references_agree();
	vmm_go(&v);
	vmm_ends_well(&v);
	ck_assert_uint_eq(lines_with("lost hvd"), 4);
}
END_TEST

START_TEST(garbage_ends_the_connection_not_the_vm)
{
	const struct {
		struct wire_head head;
		struct wire_grant grant[2];
	} wild = {{WIRE_VERSION, WIRE_GRANT, sizeof(wild)},
		  {{12345678, 60000, 0}, {0, 4000000, 0}}};
	struct vmm v = vmm_start("nothing");

	vmm_waits(&v, "ready");
	vmm_merges();
	mini_hvd_send_raw(hvd, "garbage", 7);
	EVENTUALLY(20, mini_hvd_hellos(hvd) == 2);
	vmm_merges();
	mini_hvd_send_raw(hvd, &wild, sizeof(wild));
	ck_assert_int_eq(mini_hvd_command(hvd, WIRE_CMD_CHECK), 0);
	vmm_go(&v);
	vmm_waits(&v, "done");
	vmm_go(&v);
	vmm_ends_well(&v);
}
END_TEST

START_TEST(commands_are_obeyed)
{
	struct vmm v = vmm_start("nothing");

	vmm_waits(&v, "ready");
	vmm_merges();
	ck_assert_int_eq(mini_hvd_command(hvd, WIRE_CMD_CHECK), 0);
	ck_assert_int_eq(mini_hvd_command(hvd, WIRE_CMD_FLUSH), 0);
	ck_assert_int_eq(mini_hvd_command(hvd, WIRE_CMD_UNSHARE), 0);
	vmm_merges();
	ck_assert_int_eq(mini_hvd_command(hvd, WIRE_CMD_UNMANAGE), 0);
	EVENTUALLY(10, domain_now().sharing_pages == 0);
	ck_assert_uint_eq(lines_with("unmanaged: "), 1);
	vmm_go(&v);
	vmm_waits(&v, "done");
	vmm_go(&v);
	vmm_ends_well(&v);
	ck_assert_uint_eq(mini_hvd_hellos(hvd), 1);
}
END_TEST

START_TEST(cold_pages_are_compressed_and_come_back)
{
	struct vmm v = vmm_start("nothing");

	vmm_waits(&v, "ready");
	EVENTUALLY(20, mini_hvd_hellos(hvd) == 1);
	mini_hvd_target(hvd, (uint64_t)8 << 20);
	EVENTUALLY(60, stats_now().compressed_pages + stats_now().held_pages >
			       VMM_PAGES / 10);
	vmm_go(&v);
	vmm_waits(&v, "done");
	vmm_go(&v);
	vmm_ends_well(&v);
}
END_TEST

START_TEST(writers_readers_and_restarts_at_once)
{
	struct vmm v = vmm_start("stress");

	vmm_waits(&v, "ready");
	vmm_go(&v);
	vmm_waits(&v, "done");
	mini_hvd_target(hvd, (uint64_t)16 << 20);
	for (int i = 0; i < 6; i++) {
		usleep(1500000);
		if (i % 2)
			mini_hvd_hang_up(hvd);
		mini_hvd_target(hvd, (uint64_t)16 << 20);
	}
	ck_assert_int_eq(kill(v.pid, 0), 0);
	vmm_go(&v);
	vmm_ends_well(&v);
	ck_assert_uint_eq(mini_hvd_liars(hvd), 0);
	ck_assert_uint_eq(domain_now().release_unheld, 0);
}
END_TEST

static bool userfaultfd_is_for_root(void)
{
	FILE *file = fopen("/proc/sys/vm/unprivileged_userfaultfd", "r");
	int c = file ? fgetc(file) : 'x';

	if (file)
		fclose(file);
	return c == '0' && !getuid();
}

START_TEST(without_the_right_to_userfaultfd_hvd_lends_its_own)
{
	struct vmm v;

	if (!userfaultfd_is_for_root())
		return;
	mini_hvd_lend_uffd(hvd, true);
	v = vmm_start_as("nothing", NULL, NULL, 65534);
	vmm_waits(&v, "ready");
	vmm_merges();
	vmm_go(&v);
	vmm_waits(&v, "done");
	vmm_go(&v);
	vmm_ends_well(&v);
}
END_TEST

START_TEST(without_any_userfaultfd_one_line_says_so)
{
	struct vmm v;

	if (!userfaultfd_is_for_root())
		return;
	v = vmm_start_as("nothing", NULL, NULL, 65534);
	vmm_waits(&v, "ready");
	EVENTUALLY(10, lines_with("unmanaged: userfaultfd is not permitted"));
	vmm_go(&v);
	vmm_waits(&v, "done");
	vmm_go(&v);
	vmm_ends_well(&v);
	ck_assert_uint_eq(lines_with("unmanaged: "), 1);
}
END_TEST

START_TEST(direct_reads_out_of_sight_end_takes_by_copy)
{
	struct vmm v = vmm_start(_i ? "aio" : "uring");

	vmm_waits(&v, "ready");
	vmm_go(&v);
	vmm_ends_well(&v);
	ck_assert_uint_eq(lines_with("only be taken by copying"), 1);
}
END_TEST

/* ---- without one
 * -------------------------------------------------------------- */

START_TEST(memory_is_right_without_hvd)
{
	struct vmm v = vmm_start(plain[_i]);

	vmm_waits(&v, "ready");
	EVENTUALLY(10, lines_with("unmanaged: "));
	vmm_go(&v);
	if (!strcmp(plain[_i], "unmap")) {
		vmm_waits(&v, "ready");
		vmm_go(&v);
	}
	if (has_second_stop(plain[_i])) {
		vmm_waits(&v, "done");
		vmm_go(&v);
	}
	vmm_ends_well(&v);
	ck_assert_uint_eq(lines_with("unmanaged: "), 1);
}
END_TEST

/* hvd or none: this memory is left alone, and one line says why. */
static const struct {
	const char *scenario, *name, *value, *line;
} unfit[] = {
	{"shared", NULL, NULL, "unmanaged: guest RAM is shared memory"},
	{"forked", NULL, NULL, "unmanaged: guest RAM is not MADV_DONTFORK"},
	{"nothing", "TIDEPOOL_STORE", "much",
	 "unmanaged: TIDEPOOL_STORE: want a size"},
	{"nothing", "TIDEPOOL_CONFIG", "/nowhere",
	 "unmanaged: /nowhere: No such file"},
	{"nothing", "TIDEPOOL_NAME", "a b", "unmanaged: TIDEPOOL_NAME: want"},
};

START_TEST(unfit_memory_is_left_alone)
{
	struct vmm v = vmm_start_as(unfit[_i].scenario, unfit[_i].name,
				    unfit[_i].value, 0);

	vmm_waits(&v, "ready");
	EVENTUALLY(10, lines_with(unfit[_i].line));
	vmm_go(&v);
	if (!strcmp(unfit[_i].scenario, "nothing")) {
		vmm_waits(&v, "done");
		vmm_go(&v);
	}
	vmm_ends_well(&v);
	ck_assert_uint_eq(lines_with("unmanaged: "), 1);
	ck_assert_uint_eq(mini_hvd_hellos(hvd), 0);
}
END_TEST

START_TEST(process_without_guest_ram_is_untouched)
{
	struct vmm v = vmm_start("small");

	vmm_ends_well(&v);
	ck_assert_str_eq(preload_said(), "");
}
END_TEST

/* ---- the suite
 * ------------------------------------------------------------------ */

static void folder_make(void)
{
	memcpy(dir + sizeof(dir) - 7, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chmod(dir, 0777), 0);
	ck_assert_int_eq(chdir(dir), 0);
}

static void folder_remove(void)
{
	unlink("stderr");
	ck_assert_int_eq(chdir("/"), 0);
	rmdir(dir);
}

static void hvd_make(void)
{
	folder_make();
	hvd = mini_hvd_start(dir);
}

static void hvd_remove(void)
{
	mini_hvd_stop(hvd);
	folder_remove();
}

static Suite *suite_make(void)
{
	Suite *suite = suite_create("agent preload");
	TCase *with = tcase_create("with hvd");
	TCase *without = tcase_create("without hvd");
	const int all = (int)ARRAY_LEN(plain);

	tcase_add_checked_fixture(with, hvd_make, hvd_remove);
	tcase_set_timeout(with, 120);
	tcase_add_loop_test(with, memory_is_right_while_shared, 0, all);
	if (!access("/dev/kvm", R_OK | W_OK))
		tcase_add_test(with, kvm_slot_shows_guest_ram);
	else
		puts("no /dev/kvm: kvm_slot_shows_guest_ram is left out");
	tcase_add_test(with, discarded_pages_give_their_frames_back);
	tcase_add_test(with, hvd_restarts_and_references_stay_exact);
	tcase_add_test(with, garbage_ends_the_connection_not_the_vm);
	tcase_add_test(with, commands_are_obeyed);
	tcase_add_test(with, cold_pages_are_compressed_and_come_back);
	tcase_add_test(with, writers_readers_and_restarts_at_once);
	tcase_add_test(with,
		       without_the_right_to_userfaultfd_hvd_lends_its_own);
	tcase_add_test(with, without_any_userfaultfd_one_line_says_so);
	tcase_add_loop_test(with, direct_reads_out_of_sight_end_takes_by_copy,
			    0, 2);
	tcase_add_loop_test(with, unfit_memory_is_left_alone, 0,
			    (int)ARRAY_LEN(unfit));
	tcase_add_test(with, process_without_guest_ram_is_untouched);
	tcase_add_checked_fixture(without, folder_make, folder_remove);
	tcase_set_timeout(without, 60);
	tcase_add_loop_test(without, memory_is_right_without_hvd, 0, all);
	suite_add_tcase(suite, with);
	suite_add_tcase(suite, without);
	return suite;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--vmm"))
		return vmm_main(argv[2]);
	preload_refuse_tsan();
	preload_find();
	return suite_run(suite_make());
}
