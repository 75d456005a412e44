// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * See psi.h. An attribute of the driver, not a parameter of the module: those
 * can be written before its init and after its exit.
 */
#include <linux/device/driver.h>
#include <linux/kstrtox.h>
#include <linux/ktime.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>

#include "psi.h"
#include "stats.h"

#define SECONDS_MOST 30

static DEFINE_SPINLOCK(lock); /* of both */
static u32 told;
static time64_t until;

u32 tm_psi_now(void)
{
	u32 permille;

	spin_lock(&lock);
	permille = ktime_get_seconds() < until ? told : 0;
	spin_unlock(&lock);
	return permille;
}

/* True if pressure begins. */
static bool tell(u32 permille)
{
	bool begins = permille && !tm_psi_now();

	spin_lock(&lock);
	told = permille;
	until = ktime_get_seconds() + SECONDS_MOST;
	spin_unlock(&lock);
	return begins;
}

static ssize_t psi_some_permille_show(struct device_driver *driver, char *buf)
{
	return sysfs_emit(buf, "%u\n", tm_psi_now());
}

static ssize_t psi_some_permille_store(struct device_driver *driver,
				       const char *buf, size_t count)
{
	u32 permille;
	int rc = kstrtou32(buf, 10, &permille);

	if (rc)
		return rc;
	if (permille > 1000)
		return -EINVAL;
	if (tell(permille))
		tm_stats_now();
	else
		tm_stats_wake();
	return count;
}

static DRIVER_ATTR_RW(psi_some_permille);

static struct attribute *attrs[] = {
	&driver_attr_psi_some_permille.attr,
	NULL,
};

static const struct attribute_group group = {.attrs = attrs};

const struct attribute_group *tm_psi_groups[] = {&group, NULL};
