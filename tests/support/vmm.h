/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that treats its memory as a VMM treats guest RAM, to be run with
 * libhvagent.so preloaded. It knows what every page must hold.
 */
#ifndef TESTS_SUPPORT_VMM_H
#define TESTS_SUPPORT_VMM_H

#include "hv/base/types.h"

#define VMM_MIB	  48
#define VMM_PAGES (VMM_MIB * 256)
/* Of the pages vmm_fill writes: three in eight have a twin, one is zero. */
#define VMM_DUPS (VMM_PAGES / 8 * 3)

/*
 * The child's main: does what `scenario` names. Writes "ready" when its memory
 * is full and waits for a line before it goes on. Exit code 0: every byte was
 * as it should be at all times.
 */
int vmm_main(const char *scenario);

#endif
