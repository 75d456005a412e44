/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The arguments that give a QEMU the device of a guest's page store. */
#ifndef HV_CTL_ATTACH_H
#define HV_CTL_ATTACH_H

#include "hv/base/types.h"

#define ATTACH_WORDS 4

struct attach {
	char chardev[320];
	char device[80];
	const char *word[ATTACH_WORDS + 1]; /* ended by NULL */
};

/* -ENAMETOOLONG: no socket could have this path. */
MUST_CHECK int attach_make(const char *run_dir, const char *name,
			   struct attach *out);

#endif
