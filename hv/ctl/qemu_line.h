/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a QEMU command line says, as far as managing its memory goes. */
#ifndef HV_CTL_QEMU_LINE_H
#define HV_CTL_QEMU_LINE_H

#include "hv/base/types.h"

#define QEMU_NAME_MAX 64 /* with the 0, as hvd takes it */

/* Why Tidepool's balloon device is not added, or that it can be. */
enum qemu_balloon {
	QEMU_BALLOON_FITS,
	QEMU_BALLOON_PRESENT, /* the command line has its own */
	QEMU_BALLOON_NO_PCI,  /* a machine without PCI */
	QEMU_BALLOON_UNKNOWN, /* a target we do not know */
};

/* Things that keep pages from being managed: worth a warning each. */
enum qemu_flaw {
	QEMU_RAM_SHARED = 1,   /* share=on, memfd */
	QEMU_RAM_FILE = 2,     /* memory-backend-file, -mem-path */
	QEMU_RAM_LOCKED = 4,   /* mem-lock=on */
	QEMU_RAM_NO_MERGE = 8, /* mem-merge=off hides it from the agent */
	QEMU_VFIO = 16,	       /* passthrough pins all of it */
};

struct qemu_line {
	char name[QEMU_NAME_MAX]; /* made valid; "": there is no -name */
	enum qemu_balloon balloon;
	unsigned flaws; /* enum qemu_flaw */
};

/* argv[0] is QEMU itself; ends with NULL. */
void qemu_line_read(char *const *argv, struct qemu_line *out);

/* Of 1 to 63 of [A-Za-z0-9._-], the first a letter or digit. */
bool qemu_name_valid(const char *name);

#endif
