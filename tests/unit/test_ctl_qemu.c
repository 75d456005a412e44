/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hv qemu: what it reads out of a QEMU command line, which programs it takes,
 * what it makes of both. The QEMU it really executes here is env(1).
 */
#include "hv/ctl/elf.h"
#include "hv/ctl/qemu_line.h"
#include "tests/support/command.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <elf.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];

static void set_up(void)
{
	FILE *agent;
	char path[96];

	strcpy(dir, "/tmp/test-ctl-qemu-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/agent.so", dir);
	agent = fopen(path, "w");
	fclose(agent);
	setenv("TIDEPOOL_AGENT", path, 1);
	setenv("TIDEPOOL_RUN_DIR", dir, 1);
	unsetenv("LD_PRELOAD");
	unsetenv("XDG_RUNTIME_DIR");
}

static void tear_down(void)
{
	char command[128];

	command_forget();
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static int hv(const char *words)
{
	char line[1100];

	snprintf(line, sizeof(line), "qemu %s", words);
	return command_run(&program_hv, line);
}

/* ---- reading --------------------------------------------------------- */

#define X86 "qemu-system-x86_64 "

static const struct {
	const char *line;
	const char *name;
	enum qemu_balloon balloon;
	unsigned flaws;
} lines[] = {
	{X86 "-m 2G", "", QEMU_BALLOON_FITS, 0},
	{X86 "-name desk1", "desk1", QEMU_BALLOON_FITS, 0},
	{X86 "--name guest=desk1,debug-threads=on", "desk1", 0, 0},
	{X86 "-name debug-threads=on,guest=a", "a", 0, 0},
	{X86 "-name debug-threads=on", "", 0, 0},
	{X86 "-name a,process=b", "a", 0, 0},
	{X86 "-name guest=a,,b,process=c", "a-b", 0, 0},
	{X86 "-name Büro/1", "B--ro-1", 0, 0},
	{X86 "-name ///", "", 0, 0},
	{X86 "-name process=x,,guest=y", "", 0, 0},
	{X86 "-name", "", 0, 0},
	{X86 "-M microvm", "", QEMU_BALLOON_NO_PCI, 0},
	{X86 "-machine type=microvm,acpi=on", "", QEMU_BALLOON_NO_PCI, 0},
	{X86 "-machine accel=kvm,type=isapc", "", QEMU_BALLOON_NO_PCI, 0},
	{X86 "-machine q35", "", QEMU_BALLOON_FITS, 0},
	{X86 "-machine none", "", QEMU_BALLOON_NO_PCI, 0},
	{"/opt/q/" X86, "", QEMU_BALLOON_FITS, 0},
	{"kvm -m 1G", "", QEMU_BALLOON_FITS, 0},
	{"qemu-system-aarch64 -M virt-7.2", "", QEMU_BALLOON_FITS, 0},
	{"qemu-system-aarch64 -M raspi3b", "", QEMU_BALLOON_NO_PCI, 0},
	{"qemu-system-ppc64 -m 1G", "", QEMU_BALLOON_FITS, 0},
	{"qemu-system-s390x -m 1G", "", QEMU_BALLOON_NO_PCI, 0},
	{"qemu-system-m68k -m 1G", "", QEMU_BALLOON_UNKNOWN, 0},
	{"my-vmm -m 1G", "", QEMU_BALLOON_UNKNOWN, 0},
	{X86 "-device virtio-balloon-pci,id=b", "", QEMU_BALLOON_PRESENT, 0},
	{X86 "-device {\"driver\":\"virtio-balloon-pci\"}", "",
	 QEMU_BALLOON_PRESENT, 0},
	{X86 "-balloon virtio", "", QEMU_BALLOON_PRESENT, 0},
	{X86 "-object memory-backend-ram,id=m,size=1G", "", 0, 0},
	{X86 "-object memory-backend-ram,id=m,share=on", "", 0,
	 QEMU_RAM_SHARED},
	{X86 "-object memory-backend-file,id=m,mem-path=/x,share=off", "", 0,
	 QEMU_RAM_FILE},
	{X86 "-object memory-backend-memfd,id=m", "", 0,
	 QEMU_RAM_FILE | QEMU_RAM_SHARED},
	{X86 "-object memory-backend-memfd,id=m,share=off", "", 0,
	 QEMU_RAM_FILE},
	{X86 "-object {\"qom-type\":\"memory-backend-ram\",\"share\":true}", "",
	 0, QEMU_RAM_SHARED},
	{X86 "-object {\"qom-type\":\"memory-backend-ram\",\"share\":false}",
	 "", 0, 0},
	{X86 "-object {\"share\":true,\"qom-type\":\"secret\"}", "", 0, 0},
	{X86 "-object {share", "", 0, 0},
	{X86 "-mem-path /dev/hugepages", "", 0, QEMU_RAM_FILE},
	{X86 "-overcommit mem-lock=on", "", 0, QEMU_RAM_LOCKED},
	{X86 "-machine q35,mem-merge=off", "", 0, QEMU_RAM_NO_MERGE},
	{X86 "-device vfio-pci,host=01:00.0", "", 0, QEMU_VFIO},
	{X86 "-drive file=a,share-rw=on", "", 0, 0},
};

START_TEST(line_is_read_for_what_matters)
{
	char copy[512], *argv[32];
	struct qemu_line line;

	strcpy(copy, lines[_i].line);
	words_split(copy, argv);
	qemu_line_read(argv, &line);
	ck_assert_str_eq(line.name, lines[_i].name);
	ck_assert_int_eq(line.balloon, lines[_i].balloon);
	ck_assert_uint_eq(line.flaws, lines[_i].flaws);
}
END_TEST

START_TEST(long_name_is_cut)
{
	char name[300], option[] = "-name", qemu[] = "qemu-system-x86_64";
	char *argv[] = {qemu, option, name, NULL};
	struct qemu_line line;

	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	qemu_line_read(argv, &line);
	ck_assert_uint_eq(strlen(line.name), 63);
	ck_assert(qemu_name_valid(line.name));
	ck_assert(!qemu_name_valid(name));
	ck_assert(!qemu_name_valid(""));
	ck_assert(!qemu_name_valid(".a"));
	ck_assert(!qemu_name_valid("a b"));
}
END_TEST

/* Any words: the name is valid or empty, and nothing is read past an end. */
START_TEST(random_lines_do_no_harm)
{
	static const char letters[] = "-name=guest,{}\":share on/\xc3\xbcmM";
	static const char *const options[] = {"-name", "-object",  "-machine",
					      "-M",    "--device", "-x"};
	struct qemu_line line;
	struct rng rng;

	rng_start(&rng, "random_lines_do_no_harm");
	for (int round = 0; round < 20000; round++) {
		char *argv[6], *heap[6] = {0};
		size_t n = 1 + rng_below(&rng, 5);

		for (size_t i = 0; i < n; i++) {
			size_t len = rng_below(&rng, 40);

			heap[i] = calloc(1, len + 16);
			if (i % 2)
				strcpy(heap[i], options[rng_below(&rng, 6)]);
			else
				for (size_t c = 0; c < len; c++)
					heap[i][c] = letters[rng_below(
						&rng, sizeof(letters) - 1)];
			argv[i] = strdup(heap[i]); /* no slack after it */
		}
		argv[n] = NULL;
		qemu_line_read(argv, &line);
		ck_assert(!*line.name || qemu_name_valid(line.name));
		for (size_t i = 0; i < n; i++) {
			free(argv[i]);
			free(heap[i]);
		}
	}
}
END_TEST

/* ---- programs -------------------------------------------------------- */

static enum elf_verdict verdict_of(const void *bytes, size_t n, mode_t mode)
{
	enum elf_verdict verdict;
	char path[96];
	FILE *file;

	snprintf(path, sizeof(path), "%s/program", dir);
	unlink(path);
	file = fopen(path, "w");
	fwrite(bytes, 1, n, file);
	fclose(file);
	ck_assert_int_eq(chmod(path, mode), 0);
	ck_assert_int_eq(elf_judge(path, &verdict), 0);
	return verdict;
}

struct program_file {
	Elf64_Ehdr head;
	Elf64_Phdr phdr[2];
};

static struct program_file program_make(uint32_t second_type)
{
	struct program_file file = {
		.head = {.e_type = ET_DYN,
			 .e_machine = EM_X86_64,
			 .e_phoff = sizeof(Elf64_Ehdr),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 2},
		.phdr = {{.p_type = PT_LOAD}, {.p_type = second_type}}};

	memcpy(file.head.e_ident, ELFMAG, SELFMAG);
	file.head.e_ident[EI_CLASS] = ELFCLASS64;
	return file;
}

START_TEST(only_dynamic_programs_preload)
{
	struct program_file file = program_make(PT_INTERP);
	enum elf_verdict verdict;

	ck_assert_int_eq(elf_judge("/proc/self/exe", &verdict), 0);
	ck_assert_int_eq(verdict, ELF_PRELOADS);
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_PRELOADS);
	file = program_make(PT_NULL);
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_STATIC);
	file = program_make(PT_INTERP);
	file.head.e_machine = EM_68K;
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_FOREIGN);
	file = program_make(PT_INTERP);
	file.head.e_ident[EI_CLASS] = ELFCLASS32;
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_FOREIGN);
	ck_assert_int_eq(verdict_of("#!/bin/sh\n", 10, 0755), ELF_SCRIPT);
	ck_assert_int_eq(verdict_of("", 0, 0755), ELF_NOT_ELF);
	ck_assert_int_eq(verdict_of("\177ELF", 4, 0755), ELF_NOT_ELF);
	ck_assert_int_eq(elf_judge(dir, &verdict), -EACCES);
	ck_assert_int_eq(elf_judge("/nonexistent", &verdict), -ENOENT);
}
END_TEST

START_TEST(headers_that_lie_are_no_programs)
{
	struct program_file file = program_make(PT_INTERP);

	file.head.e_phoff = UINT64_MAX - 8;
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_NOT_ELF);
	file.head.e_phoff = sizeof(file) - sizeof(Elf64_Phdr) + 1;
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_NOT_ELF);
	file = program_make(PT_INTERP);
	file.head.e_phnum = 0xffff;
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_NOT_ELF);
	file = program_make(PT_INTERP);
	file.head.e_phentsize = 1;
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 0755), ELF_NOT_ELF);
}
END_TEST

START_TEST(setuid_programs_do_not_preload)
{
	struct program_file file = program_make(PT_INTERP);
	enum elf_verdict verdict;
	char path[96];

	/* one's own setuid bit changes nothing */
	ck_assert_int_eq(verdict_of(&file, sizeof(file), 04755), ELF_PRELOADS);
	if (geteuid())
		return; /* cannot give a file away */
	snprintf(path, sizeof(path), "%s/program", dir);
	ck_assert_int_eq(chown(path, 65534, 65534), 0);
	ck_assert_int_eq(chmod(path, 04755), 0);
	ck_assert_int_eq(elf_judge(path, &verdict), 0);
	ck_assert_int_eq(verdict, ELF_PRIVILEGED);
	ck_assert_int_eq(chmod(path, 02755), 0);
	ck_assert_int_eq(elf_judge(path, &verdict), 0);
	ck_assert_int_eq(verdict, ELF_PRIVILEGED);
	ck_assert_int_eq(chmod(path, 0755), 0);
	ck_assert_int_eq(elf_judge(path, &verdict), 0);
	ck_assert_int_eq(verdict, ELF_PRELOADS);
}
END_TEST

/* ---- what is made of it
 * -------------------------------------------------------- */

/* A dynamic program whose name is that of a QEMU. */
static const char *qemu_link(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (symlink("/usr/bin/env", path) && errno != EEXIST)
		ck_abort_msg("symlink");
	return path;
}

static const char *env_of(json_t *run, const char *name)
{
	return json_string_value(
		json_object_get(json_object_get(run, "env"), name));
}

static json_t *dry_run(const char *options, const char *qemu, const char *words)
{
	char line[1024];
	json_t *run;

	snprintf(line, sizeof(line), "--dry-run --json %s -- %s %s", options,
		 qemu_link(qemu), words);
	ck_assert_int_eq(hv(line), CTL_DONE);
	run = json_loads(out_text, 0, NULL);
	ck_assert_ptr_nonnull(run);
	return run;
}

static bool argv_has(json_t *run, const char *word)
{
	json_t *argv = json_object_get(run, "argv"), *item;
	size_t i;

	json_array_foreach (argv, i, item)
		if (strstr(json_string_value(item), word))
			return true;
	return false;
}

START_TEST(command_line_becomes_managed)
{
	char wanted[160];
	json_t *run;

	setenv("LD_PRELOAD", "/other.so", 1);
	run = dry_run("--domain d --reservation 1M --limit 2G --shares 7 "
		      "--store 1.5M --swap /s/w --swap-size 3K",
		      "qemu-system-x86_64", "-name guest=desk1 -m 1G");
	unsetenv("LD_PRELOAD");
	snprintf(wanted, sizeof(wanted), "%s/agent.so:/other.so", dir);
	ck_assert_str_eq(env_of(run, "LD_PRELOAD"), wanted);
	ck_assert_str_eq(env_of(run, "TIDEPOOL_NAME"), "desk1");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_DOMAIN"), "d");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_RESERVATION"), "1048576");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_LIMIT"), "2147483648");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_SHARES"), "7");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_STORE"), "1572864");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_SWAP"), "/s/w");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_SWAP_SIZE"), "3072");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_RUN_DIR"), dir);
	snprintf(wanted, sizeof(wanted), "%s/desk1.qmp", dir);
	ck_assert_str_eq(env_of(run, "TIDEPOOL_QMP"), wanted);
	snprintf(wanted, sizeof(wanted), "unix:%s/desk1.qmp,server=on,wait=off",
		 dir);
	ck_assert(argv_has(run, wanted));
	ck_assert(argv_has(run, "virtio-balloon-pci,free-page-reporting=on,"
				"deflate-on-oom=on,id=tidepool-balloon"));
	ck_assert_str_eq(err_text, "");
	json_decref(run);
}
END_TEST

START_TEST(guest_gets_its_page_store)
{
	char wanted[160];
	json_t *run = dry_run("--tmem 64M --tmem-swap 1M", "qemu-system-x86_64",
			      "-name desk1");

	ck_assert_str_eq(env_of(run, "TIDEPOOL_TMEM"), "67108864");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_TMEM_SWAP"), "1048576");
	snprintf(wanted, sizeof(wanted),
		 "socket,id=tidepool-tmem,path=%s/desk1.tmem", dir);
	ck_assert(argv_has(run, wanted));
	ck_assert(argv_has(
		run, "ivshmem-doorbell,chardev=tidepool-tmem,vectors=17"));
	json_decref(run);
	run = dry_run("--tmem 0", "qemu-system-x86_64", "-name desk1");
	ck_assert(!argv_has(run, "ivshmem"));
	json_decref(run);
	run = dry_run("", "qemu-system-x86_64", "-name desk1");
	ck_assert(!argv_has(run, "ivshmem"));
	json_decref(run);
}
END_TEST

START_TEST(line_is_printed_for_other_qemus)
{
	char wanted[256];

	ck_assert_int_eq(command_run(&program_hv, "attach-line desk1"),
			 CTL_DONE);
	snprintf(wanted, sizeof(wanted),
		 "-chardev socket,id=tidepool-tmem,path=%s/desk1.tmem -device "
		 "ivshmem-doorbell,chardev=tidepool-tmem,vectors=17\n",
		 dir);
	ck_assert_str_eq(out_text, wanted);
}
END_TEST

START_TEST(nothing_asked_nothing_said)
{
	char wanted[64];
	json_t *run = dry_run("", "qemu-system-x86_64", "-m 1G");

	snprintf(wanted, sizeof(wanted), "qemu-%d", (int)getpid());
	ck_assert_str_eq(env_of(run, "TIDEPOOL_NAME"), wanted);
	ck_assert_ptr_null(env_of(run, "TIDEPOOL_DOMAIN"));
	ck_assert_ptr_null(env_of(run, "TIDEPOOL_LIMIT"));
	json_decref(run);
	run = dry_run("--name given", "qemu-system-x86_64", "-name other");
	ck_assert_str_eq(env_of(run, "TIDEPOOL_NAME"), "given");
	json_decref(run);
}
END_TEST

START_TEST(store_may_be_a_percentage)
{
	char line[256];
	json_t *run = dry_run("--store 20%", "qemu-system-x86_64", "-m 1G");

	ck_assert_str_eq(env_of(run, "TIDEPOOL_STORE"), "20%");
	json_decref(run);
	snprintf(line, sizeof(line), "--dry-run --store 101%% -- %s",
		 qemu_link("qemu-system-x86_64"));
	ck_assert_int_eq(hv(line), CTL_USAGE);
}
END_TEST

/* The agent and hvd know nothing of our working folder. */
START_TEST(paths_become_absolute)
{
	char wanted[160];
	json_t *run;

	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_int_eq(mkdir("run", 0755), 0);
	setenv("TIDEPOOL_RUN_DIR", "run", 1);
	setenv("TIDEPOOL_AGENT", "agent.so", 1);
	run = dry_run("--name a", "qemu-system-x86_64", "-m 1G");
	snprintf(wanted, sizeof(wanted), "%s/run", dir);
	ck_assert_str_eq(env_of(run, "TIDEPOOL_RUN_DIR"), wanted);
	snprintf(wanted, sizeof(wanted), "%s/run/a.qmp", dir);
	ck_assert_str_eq(env_of(run, "TIDEPOOL_QMP"), wanted);
	snprintf(wanted, sizeof(wanted), "%s/agent.so", dir);
	ck_assert_str_eq(env_of(run, "LD_PRELOAD"), wanted);
	json_decref(run);
}
END_TEST

START_TEST(balloon_is_added_where_it_fits)
{
	json_t *run = dry_run("--no-balloon", "qemu-system-x86_64", "-m 1G");

	ck_assert(!argv_has(run, "virtio-balloon"));
	json_decref(run);
	run = dry_run("", "qemu-system-x86_64", "-M microvm");
	ck_assert(!argv_has(run, "virtio-balloon"));
	ck_assert_ptr_nonnull(strstr(err_text, "no PCI bus"));
	json_decref(run);
	run = dry_run("", "qemu-system-sparc", "-m 1G");
	ck_assert(!argv_has(run, "virtio-balloon"));
	ck_assert_ptr_nonnull(strstr(err_text, "no balloon added"));
	json_decref(run);
	run = dry_run("", "qemu-system-x86_64", "-device virtio-balloon-pci");
	ck_assert(!argv_has(run, "tidepool-balloon"));
	ck_assert_str_eq(err_text, "");
	json_decref(run);
}
END_TEST

START_TEST(flaws_are_warned_of)
{
	json_decref(dry_run("", "qemu-system-x86_64",
			    "-object memory-backend-memfd,id=m,size=1G"));
	ck_assert_ptr_nonnull(strstr(err_text, "guest RAM is shared"));
	json_decref(dry_run("", "qemu-system-x86_64", "-device vfio-pci"));
	ck_assert_ptr_nonnull(strstr(err_text, "VFIO"));
}
END_TEST

static const char *const misuses[] = {
	"--name a/b -- QEMU",
	"--domain .x -- QEMU",
	"--swap /x -- QEMU",
	"--swap-size 1G -- QEMU",
	"--swap x --swap-size 1G -- QEMU",
	"--limit 1G --reservation 2G -- QEMU",
	"--limit x -- QEMU",
	"--shares 0x1 -- QEMU",
	"--tmem-swap 1G -- QEMU",
	"--tmem lots -- QEMU",
	"--nonsense -- QEMU",
};

START_TEST(misuse_is_exit_2)
{
	char line[256];

	snprintf(line, sizeof(line), "--dry-run %.*s%s",
		 (int)strlen(misuses[_i]) - 4, misuses[_i],
		 qemu_link("qemu-system-x86_64"));
	ck_assert_int_eq(hv(line), CTL_USAGE);
	ck_assert_str_eq(out_text, "");
}
END_TEST

START_TEST(unmanageable_is_refused_unless_told)
{
	struct program_file file = program_make(PT_NULL);
	char line[256];

	verdict_of(&file, sizeof(file), 0755);
	snprintf(line, sizeof(line), "--dry-run -- %s/program", dir);
	ck_assert_int_eq(hv(line), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "statically linked"));
	snprintf(line, sizeof(line), "--dry-run --if-possible -- %s/program",
		 dir);
	ck_assert_int_eq(hv(line), CTL_DONE);
	ck_assert_ptr_nonnull(strstr(err_text, "running unmanaged"));
	ck_assert_ptr_null(strstr(out_text, "LD_PRELOAD"));
	ck_assert_ptr_null(strstr(out_text, "-qmp"));
}
END_TEST

START_TEST(missing_agent_is_refused_unless_told)
{
	char line[256];

	setenv("TIDEPOOL_AGENT", "/nonexistent/agent.so", 1);
	snprintf(line, sizeof(line), "-- %s", qemu_link("qemu-system-x86_64"));
	ck_assert_int_eq(hv(line), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "/nonexistent/agent.so"));
	ck_assert_int_eq(hv("-- /nonexistent/qemu"), CTL_REFUSED);
	ck_assert_int_eq(hv("-- no-such-qemu-anywhere"), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "not in PATH"));
}
END_TEST

/* A second VM of one name would take the first one's QMP socket away. */
START_TEST(running_name_is_refused)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char line[256];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/desk1.qmp", dir);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	snprintf(line, sizeof(line), "--name desk1 -- %s",
		 qemu_link("qemu-system-x86_64"));
	ck_assert_int_eq(hv(line), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "is running"));
	close(fd);
}
END_TEST

START_TEST(no_run_dir_means_no_balloon_control)
{
	json_t *run;

	setenv("TIDEPOOL_RUN_DIR", "/nonexistent/run", 1);
	run = dry_run("", "qemu-system-x86_64", "-m 1G");
	ck_assert_ptr_null(env_of(run, "TIDEPOOL_QMP"));
	ck_assert(!argv_has(run, "-qmp"));
	ck_assert_ptr_nonnull(strstr(err_text, "no QMP socket"));
	json_decref(run);
	setenv("XDG_RUNTIME_DIR", dir, 1);
	run = dry_run("--name a", "qemu-system-x86_64", "-m 1G");
	ck_assert_ptr_nonnull(strstr(env_of(run, "TIDEPOOL_QMP"), "/a.qmp"));
	json_decref(run);
}
END_TEST

/* exec: same pid, its output and exit code are the program's own. */
START_TEST(process_becomes_the_program)
{
	char script[128], line[256], seen[4096], wanted[128];
	int pipe_fd[2], status;
	ssize_t n;
	FILE *file;
	pid_t pid;

	snprintf(script, sizeof(script), "%s/qemu-system-x86_64", dir);
	file = fopen(script, "w");
	fputs("#!/bin/sh\necho $$ $TIDEPOOL_NAME $LD_PRELOAD \"$@\"\n"
	      "exit 42\n",
	      file);
	fclose(file);
	chmod(script, 0755);
	ck_assert_int_eq(pipe(pipe_fd), 0);
	pid = fork();
	if (!pid) {
		dup2(pipe_fd[1], STDOUT_FILENO);
		snprintf(line, sizeof(line), "--name x -- %s -m 1G", script);
		_exit(hv(line));
	}
	close(pipe_fd[1]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 42);
	n = read(pipe_fd[0], seen, sizeof(seen) - 1);
	ck_assert_int_gt(n, 0);
	seen[n] = '\0';
	snprintf(wanted, sizeof(wanted), "%d x %s/agent.so -m 1G -qmp", pid,
		 dir);
	ck_assert_ptr_eq(strstr(seen, wanted), seen);
	close(pipe_fd[0]);
}
END_TEST

START_TEST(dry_run_can_be_pasted_into_a_shell)
{
	char line[512];

	snprintf(line, sizeof(line), "--name a --dry-run -- %s -append a'b;c",
		 qemu_link("qemu-system-x86_64"));
	ck_assert_int_eq(hv(line), CTL_DONE);
	ck_assert_ptr_eq(strstr(out_text, "env LD_PRELOAD="), out_text);
	ck_assert_ptr_nonnull(strstr(out_text, " -append 'a'\\''b;c' -qmp "));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ctl_qemu");
	TCase *tc = tcase_create("qemu");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, line_is_read_for_what_matters, 0,
			    ARRAY_LEN(lines));
	tcase_add_test(tc, long_name_is_cut);
	tcase_add_test(tc, random_lines_do_no_harm);
	tcase_add_test(tc, only_dynamic_programs_preload);
	tcase_add_test(tc, headers_that_lie_are_no_programs);
	tcase_add_test(tc, setuid_programs_do_not_preload);
	tcase_add_test(tc, command_line_becomes_managed);
	tcase_add_test(tc, guest_gets_its_page_store);
	tcase_add_test(tc, line_is_printed_for_other_qemus);
	tcase_add_test(tc, nothing_asked_nothing_said);
	tcase_add_test(tc, store_may_be_a_percentage);
	tcase_add_test(tc, paths_become_absolute);
	tcase_add_test(tc, balloon_is_added_where_it_fits);
	tcase_add_test(tc, flaws_are_warned_of);
	tcase_add_loop_test(tc, misuse_is_exit_2, 0, ARRAY_LEN(misuses));
	tcase_add_test(tc, unmanageable_is_refused_unless_told);
	tcase_add_test(tc, missing_agent_is_refused_unless_told);
	tcase_add_test(tc, running_name_is_refused);
	tcase_add_test(tc, no_run_dir_means_no_balloon_control);
	tcase_add_test(tc, process_becomes_the_program);
	tcase_add_test(tc, dry_run_can_be_pasted_into_a_shell);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
