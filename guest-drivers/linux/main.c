// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tidepool_tmem: lets this guest keep swapped pages and evicted page cache in
 * its host's page store. This file: the PCI driver and the module.
 *
 *     swap.c  cache.c  stats.c      users
 *          \    |    /
 *            line.c                 the line as a whole
 *            queue.c                one queue of it
 *            ../mini/line.c         the ring's core, of any guest
 *
 * The device is a stock ivshmem-doorbell, which others use for other things:
 * one whose memory does not begin with our magic is left alone without a word.
 *
 * Hibernation: the host's copy of swapped pages goes with the machine that is
 * switched off, so it is refused while the swap device is in use. Sleep (S3)
 * keeps them: the host does not notice. There is no shutdown hook: processes
 * may need swapped pages to the very end, and who boots next in the same
 * machine begins a new epoch, which ends ours.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/pci.h>
#include <linux/suspend.h>

#include "cache.h"
#include "compat.h"
#include "line.h"
#include "psi.h"
#include "stats.h"
#include "swap.h"

static int tm_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int rc = pci_enable_device(pdev);

	if (rc)
		return rc;
	rc = pci_request_regions(pdev, KBUILD_MODNAME);
	if (rc)
		goto disable;
	pci_set_master(pdev); /* MSI-X are writes of the device's */
	rc = tm_line_start(pdev);
	if (rc)
		goto release;
	return 0;
release:
	pci_clear_master(pdev);
	pci_release_regions(pdev);
disable:
	pci_disable_device(pdev);
	return rc;
}

static void tm_remove(struct pci_dev *pdev)
{
	tm_line_stop(pdev);
	pci_clear_master(pdev);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
}

/* The PCI core has put registers and vectors back. */
static int tm_resume(struct device *dev)
{
	tm_line_look();
	return 0;
}

static DEFINE_SIMPLE_DEV_PM_OPS(tm_pm, NULL, tm_resume);

static int tm_pm_notify(struct notifier_block *nb, unsigned long event,
			void *unused)
{
	if (event != PM_HIBERNATION_PREPARE || !tm_swap_busy())
		return NOTIFY_DONE;
	pr_warn("no hibernation while tmemswap0 is in use: swapoff first\n");
	return NOTIFY_BAD;
}

static struct notifier_block tm_pm_notifier = {
	.notifier_call = tm_pm_notify,
};

static const struct pci_device_id tm_ids[] = {
	{PCI_DEVICE(LINE_PCI_VENDOR, LINE_PCI_DEVICE)},
	{},
};
MODULE_DEVICE_TABLE(pci, tm_ids);

static struct pci_driver tm_driver = {
	.name = KBUILD_MODNAME,
	.id_table = tm_ids,
	.probe = tm_probe,
	.remove = tm_remove,
	.groups = tm_psi_groups,
	.driver.pm = pm_sleep_ptr(&tm_pm),
};

/* In this order, and out in the other: each uses those before. */
static const struct part {
	int (*init)(void);
	void (*exit)(void);
} parts[] = {
	{tm_line_init, tm_line_exit},
	{tm_stats_init, tm_stats_exit},
	{tm_swap_init, tm_swap_exit},
	{tm_cache_init, tm_cache_exit},
};

static void parts_exit(unsigned int count)
{
	while (count--)
		parts[count].exit();
}

static int parts_init(void)
{
	unsigned int i;
	int rc;

	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		rc = parts[i].init();
		if (rc) {
			parts_exit(i);
			return rc;
		}
	}
	return 0;
}

static int __init tm_init(void)
{
	int rc = parts_init();

	if (rc)
		return rc;
	rc = register_pm_notifier(&tm_pm_notifier);
	if (rc)
		goto exit_parts;
	rc = pci_register_driver(&tm_driver);
	if (rc)
		goto unregister;
	return 0;
unregister:
	unregister_pm_notifier(&tm_pm_notifier);
exit_parts:
	parts_exit(ARRAY_SIZE(parts));
	return rc;
}

static void __exit tm_exit(void)
{
	pci_unregister_driver(&tm_driver);
	unregister_pm_notifier(&tm_pm_notifier);
	parts_exit(ARRAY_SIZE(parts));
}

module_init(tm_init);
module_exit(tm_exit);

MODULE_DESCRIPTION("swap and page cache in the host's page store");
MODULE_AUTHOR("Tidepool");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
