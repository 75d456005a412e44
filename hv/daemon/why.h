/* SPDX-License-Identifier: GPL-2.0-or-later */
/* WHY of docs/control.md: what costs one VM time now, and what would help. */
#ifndef HV_DAEMON_WHY_H
#define HV_DAEMON_WHY_H

#include <jansson.h>

struct vm;

json_t *why_pack(const struct vm *vm);

#endif
