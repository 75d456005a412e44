/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The handlers behind the tables of verbs.c. */
#ifndef HV_CTL_VERBS_H
#define HV_CTL_VERBS_H

#include "hv/ctl/program.h"

/* looking: look.c */
enum ctl_exit look_list(struct ctl *ctl);
enum ctl_exit look_tmem_list(struct ctl *ctl);
enum ctl_exit look_show(struct ctl *ctl);
enum ctl_exit look_stats(struct ctl *ctl);
enum ctl_exit look_domains(struct ctl *ctl);
enum ctl_exit look_host(struct ctl *ctl);
enum ctl_exit look_why(struct ctl *ctl);
enum ctl_exit look_freeable(struct ctl *ctl);
enum ctl_exit look_check(struct ctl *ctl);
enum ctl_exit look_version(struct ctl *ctl);

/* changing: change.c */
enum ctl_exit change_set(struct ctl *ctl);
enum ctl_exit change_flush(struct ctl *ctl);
enum ctl_exit change_unshare(struct ctl *ctl);
enum ctl_exit change_unmanage(struct ctl *ctl);
enum ctl_exit change_pressure(struct ctl *ctl);
enum ctl_exit change_budget(struct ctl *ctl);

/* a guest's own pages: client.c */
enum ctl_exit client_freeze(struct ctl *ctl);
enum ctl_exit client_thaw(struct ctl *ctl);
enum ctl_exit client_destroy(struct ctl *ctl);
enum ctl_exit client_auth(struct ctl *ctl);
enum ctl_exit client_save(struct ctl *ctl);
enum ctl_exit client_restore(struct ctl *ctl);

enum ctl_exit attach_verb(struct ctl *ctl); /* attach.c */
enum ctl_exit qemu_verb(struct ctl *ctl);   /* qemu.c */
enum ctl_exit screen_verb(struct ctl *ctl); /* screen.c */

#endif
