/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The objects of docs/control.md, made from what the daemon knows. */
#ifndef HV_DAEMON_REPORT_H
#define HV_DAEMON_REPORT_H

#include "hv/daemon/hvd.h"

#include <jansson.h>

struct vm;
struct trust;

/* New references; NULL: no memory. integer: at most what JSON's can be. */
json_t *report_integer(uint64_t n);
json_t *report_vm(const struct vm *vm);
json_t *report_host(const struct hvd *hvd);
json_t *report_domain(const struct trust *trust);
json_t *report_freeable(const struct hvd *hvd);

#endif
