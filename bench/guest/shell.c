/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Process 1 of a small guest that is told what to do (bench/lib/shell_guest.py
 * tells it). Each line on ttyS1 is a command for busybox' sh, whose output goes
 * back on the same line of serial bytes, followed by
 *
 *   @@ EXIT-STATUS
 *
 * Not a shell script itself, since it must answer in a guest whose swap device
 * has died: what it needs is locked in memory, and its root must be a ramfs
 * (rootfstype=ramfs), whose pages are never swapped.
 *
 * Kernel modules named in /modules, in that order, are loaded first; the first
 * answer is `@@ ` and how many of them failed.
 */
#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define LINE_MAX_BYTES 65536

static char line[LINE_MAX_BYTES];

static void run(int tty, const char *const *argv)
{
	static const char *const env[] = {"PATH=/bin", "HOME=/", NULL};
	int null = open("/dev/null", O_RDONLY);

	dup2(null, 0);
	dup2(tty, 1);
	dup2(tty, 2);
	setsid();
	/* It takes what it does not change. */
	execve("/bin/busybox", (char *const *)(uintptr_t)argv,
	       (char *const *)(uintptr_t)env);
	_exit(127);
}

/* Its exit status, 128 + n for a signal; who else ended is only buried. */
static int command(int tty, const char *const *argv)
{
	int status = 0;
	pid_t got, pid = fork();

	if (pid < 0)
		return 126;
	if (!pid)
		run(tty, argv);
	do {
		got = waitpid(-1, &status, 0);
	} while (got != pid && (got >= 0 || errno == EINTR));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int tty_open(const char *path)
{
	struct termios raw;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || tcgetattr(fd, &raw))
		return fd;
	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
	return fd;
}

static void answer(int tty, int status)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "\n@@ %d\n", status);
	ssize_t done = write(tty, text, (size_t)n);

	(void)done; /* whom to tell? */
}

/* Without stdio, which would read ahead what belongs to nobody yet. */
static int line_read(int tty)
{
	size_t n = 0;

	for (;;) {
		char c;
		ssize_t got = read(tty, &c, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got != 1)
			return -EIO;
		if (c == '\n')
			break;
		if (n + 1 < sizeof(line))
			line[n++] = c;
	}
	line[n] = 0;
	return 0;
}

static void system_prepare(void)
{
	static const struct {
		const char *type, *where;
	} mounts[] = {{"proc", "/proc"},
		      {"sysfs", "/sys"},
		      {"devtmpfs", "/dev"},
		      {"debugfs", "/sys/kernel/debug"}};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].where, 0755);
		mount(mounts[i].type, mounts[i].where, mounts[i].type, 0, NULL);
	}
}

int main(void)
{
	static const char *const install[] = {"busybox", "--install", "-s",
					      "/bin", NULL};
	static const char *const sh[] = {"sh", "-c", line, NULL};
	int tty, failed;

	system_prepare();
	failed = modules_load();
	tty = tty_open("/dev/ttyS1");
	if (tty < 0) {
		printf("shell: no ttyS1\n");
		return 1;
	}
	command(tty, install);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	answer(tty, failed);
	while (!line_read(tty))
		answer(tty, command(tty, sh));
	reboot(RB_POWER_OFF);
	return 1;
}
