/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Will the dynamic loader put a preloaded library into this program? */
#ifndef HV_CTL_ELF_H
#define HV_CTL_ELF_H

#include "hv/base/types.h"

enum elf_verdict {
	ELF_PRELOADS,
	ELF_SCRIPT,	/* "#!": what it starts cannot be known */
	ELF_STATIC,	/* no PT_INTERP: no dynamic loader */
	ELF_FOREIGN,	/* of another machine or word size */
	ELF_PRIVILEGED, /* setuid, setgid, capabilities: loader refuses */
	ELF_NOT_ELF,
};

/* path: a file. -errno if it cannot be read. */
MUST_CHECK int elf_judge(const char *path, enum elf_verdict *out);

#endif
