/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What has to outlive hvd: which domains there are (secret, which file their
 * pool is) and which processes may hold frames of them. RUN_DIR/state.json.
 */
#ifndef HV_DAEMON_STATE_H
#define HV_DAEMON_STATE_H

#include "hv/daemon/hvd.h"

/* Replaces the file in one step. Failures are logged. */
void state_save(struct hvd *hvd);
/* Recreates domains and those VMs whose processes still run. */
void state_load(struct hvd *hvd);

#endif
