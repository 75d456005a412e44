// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The line as a whole: the device, its beginning and its end; line.h is the
 * interface, queue.c what happens on one queue.
 *
 * One work item (control) does everything that may sleep, under one mutex:
 * begins, tells users, begins again. What must not sleep only marks and wakes
 * it: the interrupt of vector 0, and the watch, a timer that runs once a second
 * while anybody waits for an answer and not at all otherwise.
 *
 *     DOWN --begin--> UP --(broken, closed, out of patience)--> DOWN
 *      |                                                         |
 *      '<---------- try again, at most every RETRY_MOST ---------'
 *
 * Going down is line.epoch = 0 first, then each queue, under its lock; coming
 * up is line.epoch first, then each queue if the epoch is still ours. So a
 * queue is never up in an epoch that has ended.
 *
 * Patience is counted in looks of the watch, not in time: a guest that was
 * stopped for an hour has looked once.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/random.h>
#include <linux/timer.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "queue.h"
#include "stats.h"

#define BAR_REGISTERS 0
#define BAR_MEMORY    2
#define BEGIN_LOOKS   100 /* for the host to answer: for 5 s */
#define RETRY_LEAST   HZ
#define RETRY_MOST    (30 * HZ)

static unsigned int patience = 30;
module_param(patience, uint, 0644);
MODULE_PARM_DESC(patience, "seconds without an answer until the line is down");

static struct {
	/* Set while there is a device; only start and stop change them. */
	struct pci_dev *pdev;
	void __iomem *registers;
	void *memory;
	struct line_view view;
	unsigned int queues;
	unsigned int vectors;

	u32 epoch; /* 0: down */
	struct tm_settings settings;
	spinlock_t settings_lock;

	/* The mutex's. */
	struct mutex lock;
	struct list_head users;
	bool told;  /* users think it is up */
	u32 wishes; /* count of the settings they know */

	struct delayed_work control;
	struct workqueue_struct *wq;
	unsigned long retry;	  /* jiffies */
	wait_queue_head_t called; /* vector 0 */
	struct timer_list watch;
	struct queue queue[LINE_QUEUES_MAX];
} line;

/* ---- for users: posting ---------------------------------------------------
 */

u32 tm_line_epoch(void)
{
	return READ_ONCE(line.epoch);
}

u32 tm_line_features(void)
{
	return tm_line_epoch() ? line.view.features : 0;
}

unsigned int tm_line_queues(void)
{
	return READ_ONCE(line.queues);
}

/* Neighbours share a queue, so a run of pages is one doorbell. */
unsigned int tm_line_queue_of(const struct line_entry *entry)
{
	unsigned int queues = READ_ONCE(line.queues);
	u64 key = entry->oid[0] ^ entry->oid[1] ^ entry->oid[2];

	if (queues <= 1)
		return 0;
	return (unsigned int)((key + (entry->index >> 5)) % queues);
}

static void watch_start(void)
{
	if (!timer_pending(&line.watch))
		mod_timer(&line.watch, jiffies + HZ);
}

int tm_line_submit(struct tm_request *rq)
{
	int rc = queue_submit(&line.queue[tm_line_queue_of(&rq->entry)], rq);

	if (!rc)
		watch_start();
	return rc;
}

void tm_line_kick(void)
{
	unsigned int i, queues = READ_ONCE(line.queues);

	for (i = 0; i < queues; i++)
		queue_kick(&line.queue[i]);
}

void tm_line_poll(unsigned int queue)
{
	queue_poll(&line.queue[queue]);
}

static void call_done(struct tm_request *rq, int result)
{
	rq->result = result;
	complete((struct completion *)(unsigned long)rq->entry.cookie);
}

int tm_line_call(struct tm_request *rq)
{
	DECLARE_COMPLETION_ONSTACK(answered);
	u64 since;
	int rc;

	rq->entry.cookie = (unsigned long)&answered;
	rq->done = call_done;
	rc = tm_line_submit(rq);
	if (rc)
		return rc;
	tm_line_poll(tm_line_queue_of(&rq->entry));
	if (!try_wait_for_completion(&answered)) {
		since = ktime_get_ns();
		wait_for_completion(&answered);
		tm_count_wait(since);
	}
	return rq->result;
}

unsigned long tm_line_lock(unsigned int queue)
	__acquires(&line.queue[queue].lock)
{
	unsigned long flags;

	spin_lock_irqsave(&line.queue[queue].lock, flags);
	return flags;
}

void tm_line_unlock(unsigned int queue, unsigned long flags)
	__releases(&line.queue[queue].lock)
{
	spin_unlock_irqrestore(&line.queue[queue].lock, flags);
}

bool tm_line_post_locked(unsigned int queue, u32 epoch,
			 const struct line_entry *entry, struct page *page)
{
	return queue_post(&line.queue[queue], epoch, entry, page);
}

void tm_line_show(struct seq_file *m)
{
	unsigned int i;

	for (i = 0; i < tm_line_queues(); i++)
		queue_show(&line.queue[i], m);
}

/* ---- up and down ----------------------------------------------------------
 */

void tm_line_settings(struct tm_settings *out)
{
	unsigned long flags;

	spin_lock_irqsave(&line.settings_lock, flags);
	*out = line.settings;
	spin_unlock_irqrestore(&line.settings_lock, flags);
}

static void settings_store(const struct line_wishes *wishes)
{
	struct tm_settings next = {};
	unsigned long flags;

	if (wishes) {
		next.swap_pages = wishes->swap_pages;
		next.swap_priority = wishes->swap_priority;
		next.balloon_pages = wishes->balloon_pages;
		next.ephemeral = wishes->ephemeral;
	}
	spin_lock_irqsave(&line.settings_lock, flags);
	line.settings = next;
	spin_unlock_irqrestore(&line.settings_lock, flags);
}

static void control_now(void)
{
	if (READ_ONCE(line.pdev))
		mod_delayed_work(line.wq, &line.control, 0);
}

/* Any context. Requests end here; users are told by control. */
static void line_down(const char *why)
{
	unsigned int i;

	if (!xchg(&line.epoch, 0))
		return;
	if (why) {
		pr_warn("the line to the host is down: %s\n", why);
		tm_count(TM_LINE_BROKEN);
	}
	for (i = 0; i < LINE_QUEUES_MAX; i++)
		queue_end(&line.queue[i]);
}

static void watch_run(struct timer_list *timer)
{
	enum queue_health health;
	bool busy = false;
	unsigned int i;

	if (!tm_line_epoch())
		return;
	for (i = 0; i < line.queues; i++) {
		health = queue_watch(&line.queue[i], READ_ONCE(patience));
		if (health == QUEUE_BROKEN) {
			line_down("no answer");
			control_now();
			return;
		}
		busy |= health == QUEUE_BUSY;
	}
	if (busy && line_view_alive(&line.view))
		control_now();
	if (busy)
		mod_timer(timer, jiffies + HZ);
}

static void bell_control(void)
{
	writel(line.view.host_peer << 16 | LINE_VECTOR_CONTROL,
	       line.registers + LINE_REG_DOORBELL);
}

/* Answered or refused, or the guest gives up waiting. */
static bool begin_settled(void)
{
	return line_view_begun(&line.view) != LINE_EAGAIN;
}

/* Up only while the epoch is: line_down may have come between. */
static int queues_begin(u32 epoch)
{
	void __iomem *doorbell = line.registers + LINE_REG_DOORBELL;
	unsigned int i;
	int rc;

	WRITE_ONCE(line.epoch, epoch);
	for (i = 0; i < line.queues; i++) {
		rc = queue_begin(&line.queue[i], &line.view, doorbell,
				 &line.epoch);
		if (rc)
			return rc;
	}
	return 0;
}

static int line_up(void)
{
	unsigned int tries = BEGIN_LOOKS;
	struct line_wishes wishes;
	int rc;

	line_view_begin(&line.view, get_random_u32(),
			LINE_FEATURE_FLUSH_RANGE | LINE_FEATURE_STATS |
				LINE_FEATURE_BALLOON);
	bell_control();
	/* Looks now and then, should the interrupt be lost. */
	while (tries-- && !begin_settled())
		wait_event_timeout(line.called, begin_settled(), HZ / 20);
	rc = line_view_begun(&line.view);
	if (rc)
		return rc == LINE_EAGAIN ? -ETIMEDOUT : -EIO;
	line_view_wishes(&line.view, &wishes);
	line.wishes = wishes.count;
	settings_store(&wishes);
	rc = queues_begin(line.view.epoch);
	if (rc)
		line_down(NULL);
	return rc;
}

static void user_begin(struct tm_user *user)
{
	int rc = user->begin(line.view.epoch);

	if (rc)
		pr_warn("%s cannot begin: %d\n", user->name, rc);
}

static void users_tell_down(void)
{
	struct tm_user *user;

	if (!line.told)
		return;
	line.told = false;
	settings_store(NULL);
	list_for_each_entry(user, &line.users, link) user->broken();
}

static void users_tell_up(void)
{
	struct tm_user *user;

	line.told = true;
	list_for_each_entry(user, &line.users, link) user_begin(user);
}

/* The host may store settings many times for one interrupt. */
static void users_tell_settings(void)
{
	struct line_wishes wishes;
	struct tm_user *user;

	line_view_wishes(&line.view, &wishes);
	if (wishes.count == line.wishes)
		return;
	line.wishes = wishes.count;
	settings_store(&wishes);
	list_for_each_entry(user, &line.users, link) user->settings();
}

static void try_up(void)
{
	int rc = line_up();

	if (!rc) {
		pr_info("the line to the host is up: %u queues of %u\n",
			line.queues, line.view.entries);
		line.retry = RETRY_LEAST;
		users_tell_up();
		return;
	}
	pr_info_ratelimited("the host does not begin: %d\n", rc);
	queue_delayed_work(line.wq, &line.control, line.retry);
	line.retry = min_t(unsigned long, line.retry * 2, RETRY_MOST);
}

static void control_run(struct work_struct *work)
{
	mutex_lock(&line.lock);
	if (!line.pdev)
		goto out;
	if (tm_line_epoch() && line_view_alive(&line.view))
		line_down("the host ended it");
	if (tm_line_epoch()) {
		users_tell_settings();
		goto out;
	}
	users_tell_down();
	try_up();
out:
	mutex_unlock(&line.lock);
}

void tm_line_look(void)
{
	control_now();
}

void tm_line_user_add(struct tm_user *user)
{
	mutex_lock(&line.lock);
	list_add_tail(&user->link, &line.users);
	if (line.told)
		user_begin(user);
	mutex_unlock(&line.lock);
}

void tm_line_user_remove(struct tm_user *user)
{
	mutex_lock(&line.lock);
	list_del(&user->link);
	mutex_unlock(&line.lock);
}

/* Makes the counters seen; the ABI's page 1. */
void tm_line_stats(const struct line_stats *stats)
{
	mutex_lock(&line.lock);
	if (line.told && tm_line_epoch())
		line_view_stats(&line.view, stats);
	mutex_unlock(&line.lock);
}

/* ---- the device -----------------------------------------------------------
 */

static irqreturn_t control_irq(int irq, void *arg)
{
	tm_count(TM_INTERRUPTS);
	wake_up(&line.called);
	control_now();
	return IRQ_HANDLED;
}

static irqreturn_t queue_irq(int irq, void *arg)
{
	struct queue *q = arg;

	tm_count(TM_INTERRUPTS);
	tasklet_schedule(&q->tasklet);
	return IRQ_HANDLED;
}

static int irq_request(struct pci_dev *pdev, unsigned int vector)
{
	int irq = pci_irq_vector(pdev, vector);

	if (vector == LINE_VECTOR_CONTROL)
		return request_irq(irq, control_irq, 0, KBUILD_MODNAME, &line);
	return request_irq(irq, queue_irq, 0, KBUILD_MODNAME,
			   &line.queue[vector - LINE_VECTOR_QUEUE]);
}

static void irqs_free(struct pci_dev *pdev, unsigned int vectors)
{
	while (vectors--)
		free_irq(pci_irq_vector(pdev, vectors),
			 vectors == LINE_VECTOR_CONTROL
				 ? (void *)&line
				 : (void *)&line
					   .queue[vectors - LINE_VECTOR_QUEUE]);
	pci_free_irq_vectors(pdev);
}

/* One vector for each queue; fewer vectors mean fewer queues. */
static int irqs_request(struct pci_dev *pdev)
{
	int got = pci_alloc_irq_vectors(pdev, 2, 1 + line.view.queues,
					PCI_IRQ_MSIX);
	int i, rc;

	if (got < 0)
		return got;
	for (i = 0; i < got; i++) {
		rc = irq_request(pdev, i);
		if (rc) {
			irqs_free(pdev, i);
			return rc;
		}
	}
	line.vectors = got;
	return 0;
}

static void queues_free(void)
{
	unsigned int i;

	for (i = 0; i < LINE_QUEUES_MAX; i++)
		queue_free(&line.queue[i]);
}

static int queues_alloc(u32 entries)
{
	unsigned int i;
	int rc;

	for (i = 0; i < line.view.queues; i++) {
		rc = queue_alloc(&line.queue[i], entries);
		if (rc) {
			queues_free();
			return rc;
		}
	}
	return 0;
}

static int memory_map(struct pci_dev *pdev)
{
	resource_size_t bytes = pci_resource_len(pdev, BAR_MEMORY);
	int rc = -ENOMEM;

	line.registers = pci_iomap(pdev, BAR_REGISTERS, 0);
	line.memory = memremap(pci_resource_start(pdev, BAR_MEMORY), bytes,
			       MEMREMAP_WB);
	if (line.registers && line.memory)
		rc = line_view_init(&line.view, line.memory, bytes);
	if (!rc)
		return 0;
	if (rc != -ENOMEM)
		rc = -ENODEV; /* not of a version we know */
	if (line.memory)
		memunmap(line.memory);
	if (line.registers)
		pci_iounmap(pdev, line.registers);
	return rc;
}

static void memory_unmap(struct pci_dev *pdev)
{
	memunmap(line.memory);
	pci_iounmap(pdev, line.registers);
}

static int device_open(struct pci_dev *pdev)
{
	int rc = memory_map(pdev);

	if (rc)
		return rc;
	rc = queues_alloc(line.view.entries);
	if (rc)
		goto unmap;
	rc = irqs_request(pdev);
	if (rc)
		goto free_queues;
	WRITE_ONCE(line.queues, line.vectors - 1);
	return 0;
free_queues:
	queues_free();
unmap:
	memory_unmap(pdev);
	return rc;
}

/* Others use this kind of device, too, for what is their own. */
static bool device_is_line(struct pci_dev *pdev)
{
	struct line_host *host;
	bool is_line;

	if (pci_resource_len(pdev, BAR_MEMORY) < LINE_PAGE_BYTES)
		return false;
	host = memremap(pci_resource_start(pdev, BAR_MEMORY), LINE_PAGE_BYTES,
			MEMREMAP_WB);
	if (!host)
		return false;
	is_line = READ_ONCE(host->magic) == LINE_MAGIC;
	memunmap(host);
	return is_line;
}

/* Returns before the line is up: a host may take its time. */
int tm_line_start(struct pci_dev *pdev)
{
	int rc = -EBUSY;

	if (!device_is_line(pdev))
		return -ENODEV;
	mutex_lock(&line.lock);
	if (line.pdev) {
		pci_warn(pdev, "one line is enough; this one is left alone\n");
		goto out;
	}
	rc = device_open(pdev);
	if (rc)
		goto out;
	line.retry = RETRY_LEAST;
	WRITE_ONCE(line.pdev, pdev);
	control_now();
out:
	mutex_unlock(&line.lock);
	return rc;
}

static void users_tell_gone(void)
{
	struct tm_user *user;

	list_for_each_entry(user, &line.users, link)
	{
		if (user->gone)
			user->gone();
	}
}

void tm_line_stop(struct pci_dev *pdev)
{
	mutex_lock(&line.lock);
	users_tell_gone();
	WRITE_ONCE(line.pdev, NULL);
	mutex_unlock(&line.lock);
	cancel_delayed_work_sync(&line.control);

	mutex_lock(&line.lock);
	line_down(NULL);
	users_tell_down();
	compat_timer_delete_sync(&line.watch);
	line_view_end(&line.view);
	bell_control();
	irqs_free(pdev, line.vectors);
	WRITE_ONCE(line.queues, 0);
	queues_free();
	memory_unmap(pdev);
	mutex_unlock(&line.lock);
}

int tm_line_init(void)
{
	unsigned int i;

	line.wq = alloc_workqueue(KBUILD_MODNAME, WQ_MEM_RECLAIM, 0);
	if (!line.wq)
		return -ENOMEM;
	mutex_init(&line.lock);
	spin_lock_init(&line.settings_lock);
	INIT_LIST_HEAD(&line.users);
	init_waitqueue_head(&line.called);
	INIT_DELAYED_WORK(&line.control, control_run);
	timer_setup(&line.watch, watch_run, 0);
	for (i = 0; i < LINE_QUEUES_MAX; i++)
		queue_init(&line.queue[i], i);
	return 0;
}

void tm_line_exit(void)
{
	/* A late submit may have started it again. */
	compat_timer_delete_sync(&line.watch);
	destroy_workqueue(line.wq);
}
