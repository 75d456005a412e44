/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tmem-pressure: tells the module tidepool_tmem while processes of this guest
 * wait for memory, which the kernel tells processes (PSI) and no modules.
 *
 *     calm --trigger--> pressure --(below CALM, and no trigger since)--> calm
 *
 * Calm, it sleeps in poll until the kernel's trigger: a tenth of a second lost
 * within one. Under pressure it tells the 10 s average every 2 s, which is how
 * often the kernel makes a new one; and once that it is over. The average lags
 * behind, so under pressure at least 1 is told.
 *
 * A program, not a script: its pages are locked, so that it does not wait for
 * memory itself, and they are few.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PRESSURE  "/proc/pressure/memory"
#define ATTRIBUTE "/sys/bus/pci/drivers/tidepool_tmem/psi_some_permille"
#define TRIGGER	  "some 100000 1000000" /* us, of so many */
#define CALM	  10			/* permille */
#define LOOK	  2			/* seconds */

static int pressure = -1, attribute = -1;

static _Noreturn void end(int status, const char *what)
{
	fprintf(stderr, "tmem-pressure: %s: %s\n", what, strerror(errno));
	exit(status);
}

static void open_both(void)
{
	attribute = open(ATTRIBUTE, O_WRONLY | O_CLOEXEC);
	if (attribute < 0)
		end(1, ATTRIBUTE);
	pressure = open(PRESSURE, O_RDWR | O_CLOEXEC);
	if (pressure < 0 && (errno == ENOENT || errno == EOPNOTSUPP)) {
		fprintf(stderr, "tmem-pressure: this kernel has no PSI\n");
		exit(0);
	}
	if (pressure < 0)
		end(1, PRESSURE);
	/* With its NUL, as the kernel asks for. */
	if (write(pressure, TRIGGER, sizeof(TRIGGER)) != sizeof(TRIGGER))
		end(1, "the trigger");
}

/* Permille of the time, rounded up. */
static int average(void)
{
	unsigned int percent, hundredths;
	char text[256];
	ssize_t n = pread(pressure, text, sizeof(text) - 1, 0);

	if (n < 0)
		end(1, PRESSURE);
	text[n] = '\0';
	if (sscanf(text, "some avg10=%3u.%2u", &percent, &hundredths) != 2) {
		errno = EBADMSG;
		end(1, PRESSURE);
	}
	return (int)(percent * 10 + (hundredths + 9) / 10);
}

/* Since last asked; waits for it so many milliseconds, -1: for ever. */
static bool triggered(int wait)
{
	struct pollfd fd = {.fd = pressure, .events = POLLPRI};
	int n = poll(&fd, 1, wait);

	if (n < 0)
		end(1, "poll");
	if (fd.revents & (POLLERR | POLLNVAL)) {
		errno = EIO;
		end(1, "the trigger");
	}
	return n > 0;
}

static void tell(int permille)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", permille);

	if (pwrite(attribute, text, (size_t)n, 0) == n)
		return;
	/* The module went: nobody is there to be told. */
	end(errno == ENODEV ? 0 : 1, ATTRIBUTE);
}

static int at_least_one(int permille)
{
	return permille > 0 ? permille : 1;
}

int main(void)
{
	const struct timespec look = {.tv_sec = LOOK};
	bool pressed;

	open_both();
	/* As far as it may. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	pressed = average() >= CALM;
	for (;;) {
		while (pressed) {
			tell(at_least_one(average()));
			nanosleep(&look, NULL);
			pressed = triggered(0);
			pressed |= average() >= CALM;
		}
		tell(0);
		pressed = triggered(-1);
	}
}
