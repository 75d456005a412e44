// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counters, summed: /sys/kernel/debug/tidepool_tmem/counters, and the stats of
 * struct line_guest, which the host reads for `tmem-ctl why`.
 *
 * The host's copy is written by a deferrable work item, started by whoever
 * changed something and at rest when nothing changes: an idle guest is not
 * woken for it. It goes on by itself only while the host would like pages back
 * (balloon_pages), since what can be spared changes without us, and under
 * memory pressure, since word of that grows old; and even then it does not wake
 * a processor that sleeps.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/mm.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "line.h"
#include "offer.h"
#include "psi.h"
#include "stats.h"

#define PUBLISH_AFTER (5 * HZ)

DEFINE_PER_CPU(u64[TM_COUNTERS], tm_counters);

struct dentry *tm_debugfs;
static struct delayed_work publish;
static u64 offered;

static const char *const names[TM_COUNTERS] = {
	[TM_SWAP_WRITES] = "swap_writes",
	[TM_SWAP_READS] = "swap_reads",
	[TM_SWAP_REFUSED] = "swap_refused",
	[TM_SWAP_ERRORS] = "swap_errors",
	[TM_SWAP_LOST] = "swap_lost",
	[TM_SWAP_FREED] = "swap_freed",
	[TM_CACHE_PUTS] = "cache_puts",
	[TM_CACHE_DROPPED] = "cache_dropped",
	[TM_CACHE_HITS] = "cache_hits",
	[TM_CACHE_MISSES] = "cache_misses",
	[TM_CACHE_FLUSHES] = "cache_flushes",
	[TM_WAIT_NS] = "wait_ns",
	[TM_KICKS] = "kicks",
	[TM_INTERRUPTS] = "interrupts",
	[TM_RING_FULL] = "ring_full",
	[TM_LINE_BROKEN] = "line_broken",
};

u64 tm_counter_read(enum tm_counter which)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu) sum += per_cpu(tm_counters[which], cpu);
	return sum;
}

/* Those of pages that came back after they had been given up. */
static u64 refaults_read(void)
{
	return global_node_page_state(WORKINGSET_REFAULT_FILE) +
	       global_node_page_state(WORKINGSET_REFAULT_ANON);
}

static void stats_fill(struct line_stats *out)
{
	memset(out, 0, sizeof(*out));
	out->swap_writes = tm_counter_read(TM_SWAP_WRITES);
	out->swap_reads = tm_counter_read(TM_SWAP_READS);
	out->swap_refused = tm_counter_read(TM_SWAP_REFUSED);
	out->swap_errors =
		tm_counter_read(TM_SWAP_ERRORS) + tm_counter_read(TM_SWAP_LOST);
	out->cache_puts = tm_counter_read(TM_CACHE_PUTS);
	out->cache_dropped = tm_counter_read(TM_CACHE_DROPPED);
	out->cache_hits = tm_counter_read(TM_CACHE_HITS);
	out->cache_misses = tm_counter_read(TM_CACHE_MISSES);
	out->cache_flushes = tm_counter_read(TM_CACHE_FLUSHES);
	out->wait_ns = tm_counter_read(TM_WAIT_NS);
	out->refaults = refaults_read();
	out->psi_some_permille = tm_psi_now();
	out->offer_pages = offered;
}

static void publish_run(struct work_struct *work)
{
	struct tm_settings settings;
	struct line_stats stats;
	u32 psi = tm_psi_now();

	tm_line_settings(&settings);
	offered = tm_offer(settings.balloon_pages, refaults_read(), psi);
	stats_fill(&stats);
	tm_line_stats(&stats);
	if (settings.balloon_pages || psi)
		tm_stats_wake();
}

void tm_stats_wake(void)
{
	if (!delayed_work_pending(&publish))
		schedule_delayed_work(&publish, PUBLISH_AFTER);
}

void tm_stats_now(void)
{
	mod_delayed_work(system_wq, &publish, 0);
}

static int counters_show(struct seq_file *m, void *unused)
{
	unsigned int i;

	for (i = 0; i < TM_COUNTERS; i++)
		seq_printf(m, "%s %llu\n", names[i], tm_counter_read(i));
	seq_printf(m, "psi_some_permille %u\n", tm_psi_now());
	seq_printf(m, "offer_pages %llu\n", offered);
	seq_printf(m, "epoch %u\n", tm_line_epoch());
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(counters);

static int queues_show(struct seq_file *m, void *unused)
{
	tm_line_show(m);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(queues);

/* A new line knows nothing of us yet. */
static int stats_begin(u32 epoch)
{
	tm_stats_wake();
	return 0;
}

static void stats_broken(void)
{
}

static struct tm_user stats_user = {
	.name = "stats",
	.begin = stats_begin,
	.broken = stats_broken,
	.settings = tm_stats_wake,
};

int tm_stats_init(void)
{
	INIT_DEFERRABLE_WORK(&publish, publish_run);
	tm_debugfs = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("counters", 0444, tm_debugfs, NULL, &counters_fops);
	debugfs_create_file("queues", 0444, tm_debugfs, NULL, &queues_fops);
	tm_line_user_add(&stats_user);
	return 0;
}

/* Nobody else of the module may run any more, since all wake it. */
void tm_stats_exit(void)
{
	tm_line_user_remove(&stats_user);
	cancel_delayed_work_sync(&publish);
	debugfs_remove_recursive(tm_debugfs);
}
