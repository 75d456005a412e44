/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Process 1's way to the bench outside: a serial line, because a guest without
 * network or disk has it at once, and the host sees it as a socket.
 */
#include "line.h"

#include "modules.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

uint64_t line_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int line_open(struct line *l)
{
	struct termios tio;
	int fd;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	/* What fails is on the console; who needs it will notice. */
	(void)modules_load();
	fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY);
	if (fd < 0)
		return -1;
	if (!tcgetattr(fd, &tio)) {
		cfmakeraw(&tio);
		tcsetattr(fd, TCSANOW, &tio);
	}
	l->in = fdopen(fd, "r");
	l->out = fdopen(dup(fd), "w");
	return l->in && l->out ? 0 : -1;
}

void line_serve(struct line *l, void (*answer)(FILE *out, const char *command))
{
	char command[128];

	fputs("ready\n", l->out);
	fflush(l->out);
	while (fgets(command, sizeof(command), l->in)) {
		command[strcspn(command, "\n")] = '\0';
		answer(l->out, command);
		fflush(l->out);
	}
	reboot(RB_POWER_OFF);
}
