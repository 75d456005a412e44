/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `tmem-ctl top`: the live screen. One loop: ask hvd, draw, wait for a key or
 * the next second. Signals only set a flag, so the terminal is always put back
 * by the one endwin() at the end; ncurses' own handlers, which leave by exit(),
 * are not installed because newterm() finds ours in place. A part is drawn as
 * its letter on its colour: readable without colours too. Without a terminal
 * (a pipe, a dumb TERM) one table is printed instead.
 *
 *   row 0, 1   host: pressure, memory, budget, pools
 *   row 2      legend
 *   row 3      heads
 *   row 4...   VMs
 *   last row   keys, or that hvd does not answer
 */
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"
#include "hv/ctl/top.h"
#include "hv/ctl/verbs.h"
#include "hv/ctl/view.h"

#include <curses.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROW_LEGEND 2
#define ROW_HEADS  3
#define ROW_VMS	   4
#define NAME_WIDTH 14
#define TAIL_WIDTH 16 /* refaults and faults per second */
#define BAR_MIN	   10
#define BAR_MAX	   240
#define TIMEOUT_MS 3000

static volatile sig_atomic_t screen_ended;

struct screen {
	struct ctl *ctl;
	struct top top;
	struct hv_value *host;
	bool away; /* hvd did not answer the last time */
	size_t scroll;
};

/* ---- asking ---------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Keeps the last sample when hvd does not answer. */
static int screen_ask(struct screen *s)
{
	struct hv_value *host, *list;
	int rc = hv_host(s->ctl->hv, &host);

	if (rc)
		return rc;
	rc = hv_list(s->ctl->hv, &list);
	if (rc) {
		hv_value_free(host);
		return rc;
	}
	hv_value_free(s->host);
	s->host = host;
	rc = top_sample(&s->top, list, now_ns());
	hv_value_free(list);
	return rc;
}

static const char *host_text(const struct screen *s, char *buf,
			     const char *path, enum view_unit unit)
{
	struct view_field field = {NULL, path, unit};

	view_format(buf, s->host, &field);
	text_clean(buf);
	return buf;
}

/* Two lines about the host; both forms of output begin with them. */
static void host_lines(const struct screen *s, char *one, char *two, size_t n)
{
	char a[VIEW_TEXT_MAX], b[VIEW_TEXT_MAX], c[VIEW_TEXT_MAX],
		d[VIEW_TEXT_MAX];
	bool forced = false;

	if (hv_value_bool(s->host, "pressure_forced", &forced))
		forced = false;
	snprintf(one, n,
		 "pressure %.8s%s   available %.9s of %.9s   budget %.10s",
		 host_text(s, a, "pressure", VIEW_TEXT),
		 forced ? " (forced)" : "",
		 host_text(s, b, "available_bytes", VIEW_BYTES),
		 host_text(s, c, "memory_bytes", VIEW_BYTES),
		 host_text(s, d, "budget_bytes", VIEW_BUDGET));
	snprintf(two, n,
		 "VMs %.20s   frame pools %.9s   index %.9s   metadata %.9s",
		 host_text(s, a, "vms", VIEW_ID),
		 host_text(s, b, "pool_bytes", VIEW_BYTES),
		 host_text(s, c, "index_bytes", VIEW_BYTES),
		 host_text(s, d, "metadata_bytes", VIEW_BYTES));
}

static const char *percent_text(char *buf, double percent)
{
	if (percent < 0)
		return strcpy(buf, "-");
	snprintf(buf, SIZE_TEXT_MAX, "%.1f%%", percent);
	return buf;
}

static const char *rate_text(char *buf, double rate)
{
	return rate < 0 ? strcpy(buf, "-") : count_format(buf, rate);
}

static const char *pages_text(char *buf, uint64_t pages)
{
	return size_format(buf, pages > UINT64_MAX / PAGE_BYTES
					? UINT64_MAX
					: pages * PAGE_BYTES);
}

/* ---- as a table ------------------------------------------------------ */

static void table_heads(struct table *table)
{
	static const char *const heads[] = {"NAME",	   "RAM",     "PRIVATE",
					    "SHARED",	   "ZERO",    "COMPR",
					    "SWAPPED",	   "BALLOON", "FREE",
					    "REFAULT/MIN", "FAULTS/S"};

	for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
		table_cell(table, heads[i]);
		table_align(table, i, i ? TABLE_RIGHT : TABLE_LEFT);
	}
}

static void table_vm(struct table *table, const struct top_vm *vm)
{
	char buf[SIZE_TEXT_MAX];

	table_cell(table, vm->name);
	table_cell(table, pages_text(buf, vm->ram_pages));
	for (int i = 0; i < TOP_PARTS; i++)
		table_cell(table, pages_text(buf, vm->part[i]));
	table_cell(table, percent_text(buf, vm->refault_percent));
	table_cell(table, rate_text(buf, vm->faults_per_s));
}

static enum ctl_exit screen_print(struct screen *s)
{
	char one[256], two[256];
	struct table *table;
	int rc = table_create(TOP_PARTS + 4, &table);

	if (rc)
		return ctl_refuse(s->ctl, "%s", strerror(-rc));
	host_lines(s, one, two, sizeof(one));
	fprintf(s->ctl->out, "%s\n%s\n\n", one, two);
	table_heads(table);
	for (size_t i = 0; i < s->top.n; i++)
		table_vm(table, &s->top.vms[i]);
	rc = table_print(table, s->ctl->out);
	table_destroy(table);
	return rc ? ctl_refuse(s->ctl, "%s", strerror(-rc)) : CTL_DONE;
}

static enum ctl_exit screen_json(struct ctl *ctl)
{
	struct hv_value *host = NULL, *list = NULL;
	char *a = NULL, *b = NULL;
	enum ctl_exit exit_code = CTL_DONE;

	if (hv_host(ctl->hv, &host) || hv_list(ctl->hv, &list)) {
		exit_code = ctl_fail(ctl);
	} else {
		a = hv_value_json(host, HV_ONE_LINE);
		b = hv_value_json(hv_value_get(list, "vms"), HV_ONE_LINE);
		fprintf(ctl->out, "{\"host\":%s,\"vms\":%s}\n", a ? a : "null",
			b ? b : "null");
	}
	free(a);
	free(b);
	hv_value_free(host);
	hv_value_free(list);
	return exit_code;
}

/* ---- drawing --------------------------------------------------------- */

static void colours_init(void)
{
	static const short paper[TOP_PARTS] = {
		[TOP_PRIVATE] = COLOR_RED,
		[TOP_SHARED] = COLOR_GREEN,
		[TOP_ZERO] = COLOR_CYAN,
		[TOP_COMPRESSED] = COLOR_YELLOW,
		[TOP_SWAPPED] = COLOR_MAGENTA,
		[TOP_BALLOONED] = COLOR_BLUE,
		[TOP_FREE] = -1,
	};

	if (!has_colors() || start_color() == ERR)
		return;
	use_default_colors();
	for (short i = 0; i < TOP_PARTS; i++)
		init_pair((short)(i + 1),
			  paper[i] == -1	   ? -1
			  : paper[i] == COLOR_BLUE ? COLOR_WHITE
						   : COLOR_BLACK,
			  paper[i]);
}

static chtype part_cell(enum top_part part)
{
	chtype letter = (unsigned char)top_part_texts[part].letter;

	return has_colors() ? letter | (chtype)COLOR_PAIR((int)part + 1)
			    : letter;
}

/* Never past the right edge: curses would go on in the next line. */
static void PRINTF(3, 4) draw_text(int y, int x, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (y < LINES && x < COLS)
		mvaddnstr(y, x, text, COLS - x);
}

static void legend_draw(void)
{
	int x = 0;

	for (int i = 0; i < TOP_PARTS; i++) {
		const char *name = top_part_texts[i].name;

		if (ROW_LEGEND >= LINES || x + 2 >= COLS)
			return;
		mvaddch(ROW_LEGEND, x, part_cell((enum top_part)i));
		draw_text(ROW_LEGEND, x + 2, "%s", name);
		x += (int)strlen(name) + 4;
	}
}

static int bar_width(void)
{
	int width = COLS - NAME_WIDTH - 7 - 7 - TAIL_WIDTH - 2;

	return width < BAR_MIN ? BAR_MIN : width > BAR_MAX ? BAR_MAX : width;
}

static void heads_draw(void)
{
	int x = NAME_WIDTH + 14 + 1 + bar_width();

	attron(A_BOLD);
	draw_text(ROW_HEADS, 0, "%-*s%7s%7s", NAME_WIDTH, "NAME", "RAM",
		  "PRIV");
	draw_text(ROW_HEADS, NAME_WIDTH + 15, "WHERE IT IS");
	draw_text(ROW_HEADS, x, "%8s%8s", "REFLT/M", "FAULT/S");
	attroff(A_BOLD);
}

static void vm_draw(int y, const struct top_vm *vm)
{
	unsigned char cells[BAR_MAX];
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], name[TOP_NAME_MAX];
	int width = bar_width(), x = NAME_WIDTH + 15;

	strcpy(name, vm->name);
	text_clean(name);
	draw_text(y, 0, "%-*.*s%7s%7s", NAME_WIDTH, NAME_WIDTH - 1, name,
		  pages_text(a, vm->ram_pages),
		  pages_text(b, vm->part[TOP_PRIVATE]));
	top_bar(vm, (size_t)width, cells);
	for (int i = 0; i < width && x + i < COLS; i++)
		mvaddch(y, x + i, part_cell((enum top_part)cells[i]));
	draw_text(y, x + width, "%8s%8s", percent_text(a, vm->refault_percent),
		  rate_text(b, vm->faults_per_s));
}

static size_t rows_for_vms(void)
{
	return LINES > ROW_VMS + 1 ? (size_t)(LINES - ROW_VMS - 1) : 0;
}

static void keys_draw(const struct screen *s)
{
	int x = 0;

	attron(A_REVERSE);
	if (s->away) {
		draw_text(LINES - 1, 0,
			  "no hvd: still trying, q quits (%s: %s)",
			  hv_socket(s->ctl->hv), hv_error(s->ctl->hv));
		attroff(A_REVERSE);
		return;
	}
	draw_text(LINES - 1, x, "q quit");
	x += 7;
	for (int i = 0; i < TOP_KEYS; i++) {
		const struct top_key_text *key = &top_key_texts[i];

		draw_text(LINES - 1, x, "%c %s%s", key->key, key->name,
			  (int)s->top.key == i ? "*" : "");
		x += (int)strlen(key->name) + 3 + ((int)s->top.key == i);
	}
	attroff(A_REVERSE);
}

static void screen_draw(const struct screen *s)
{
	char one[256], two[256];
	size_t rows = rows_for_vms();

	erase();
	host_lines(s, one, two, sizeof(one));
	draw_text(0, 0, "%s", one);
	draw_text(1, 0, "%s", two);
	legend_draw();
	heads_draw();
	for (size_t i = 0; i < rows && s->scroll + i < s->top.n; i++)
		vm_draw(ROW_VMS + (int)i, &s->top.vms[s->scroll + i]);
	if (!s->top.n)
		draw_text(ROW_VMS, 0,
			  "No VM is managed; `hv qemu` starts one.");
	keys_draw(s);
	refresh();
}

/* ---- the loop -------------------------------------------------------- */

static void screen_key(struct screen *s, int key)
{
	size_t rows = rows_for_vms();
	size_t last = s->top.n > rows ? s->top.n - rows : 0;

	for (int i = 0; i < TOP_KEYS; i++)
		if (top_key_texts[i].key == key)
			top_sort(&s->top, (enum top_key)i);
	if (key == 'q' || key == 'Q')
		screen_ended = 1;
	if (key == KEY_DOWN || key == KEY_NPAGE)
		s->scroll += key == KEY_DOWN ? 1 : rows;
	if (key == KEY_UP || key == KEY_PPAGE)
		s->scroll -= min_u64(s->scroll, key == KEY_UP ? 1 : rows);
	s->scroll = min_u64(s->scroll, last);
}

static void screen_loop(struct screen *s, uint64_t seconds)
{
	uint64_t next = now_ns() + seconds * 1000000000;

	while (!screen_ended) {
		uint64_t now = now_ns();
		int key;

		if (now >= next) {
			s->away = screen_ask(s) != 0;
			next = now_ns() + seconds * 1000000000;
		}
		screen_draw(s);
		now = now_ns();
		timeout(next > now ? (int)((next - now) / 1000000 + 1) : 0);
		key = getch();
		if (key != ERR)
			screen_key(s, key);
	}
}

static void on_signal(int signal)
{
	(void)signal;
	screen_ended = 1;
}

static void signals_set(void (*handler)(int))
{
	struct sigaction action = {.sa_handler = handler};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static enum ctl_exit screen_run(struct screen *s, uint64_t seconds)
{
	SCREEN *terminal;

	screen_ended = 0;
	signals_set(on_signal);
	terminal = newterm(NULL, s->ctl->out, stdin);
	if (!terminal) {
		signals_set(SIG_DFL);
		return screen_print(s);
	}
	cbreak();
	noecho();
	curs_set(0);
	keypad(stdscr, TRUE);
	colours_init();
	screen_loop(s, seconds);
	endwin();
	delscreen(terminal);
	signals_set(SIG_DFL);
	return CTL_DONE;
}

/* One table, as it is now. */
static enum ctl_exit screen_once(struct ctl *ctl)
{
	struct screen s = {.ctl = ctl};
	enum ctl_exit exit_code;

	if (ctl_has(ctl, OPT_JSON))
		return screen_json(ctl);
	top_init(&s.top);
	if (ctl_has(ctl, OPT_SORT) &&
	    top_key_find(ctl->opt[OPT_SORT], &s.top.key))
		return ctl_usage(ctl, "cannot sort by `%s`",
				 ctl->opt[OPT_SORT]);
	exit_code = screen_ask(&s) ? ctl_fail(ctl) : screen_print(&s);
	hv_value_free(s.host);
	top_fini(&s.top);
	return exit_code;
}

enum ctl_exit screen_verb(struct ctl *ctl)
{
	struct screen s = {.ctl = ctl};
	enum ctl_exit exit_code;
	uint64_t seconds = 1;

	if (ctl_has(ctl, OPT_JSON) || !isatty(fileno(ctl->out)) ||
	    !isatty(STDIN_FILENO))
		return ctl_has(ctl, OPT_WATCH) ? ctl_watch(ctl, screen_once)
					       : screen_once(ctl);
	exit_code = ctl_seconds(ctl, &seconds);
	if (exit_code)
		return exit_code;
	top_init(&s.top);
	if (ctl_has(ctl, OPT_SORT) &&
	    top_key_find(ctl->opt[OPT_SORT], &s.top.key))
		return ctl_usage(ctl, "cannot sort by `%s`",
				 ctl->opt[OPT_SORT]);
	hv_timeout_set(ctl->hv, TIMEOUT_MS);
	exit_code = screen_ask(&s) ? ctl_fail(ctl) : screen_run(&s, seconds);
	hv_value_free(s.host);
	top_fini(&s.top);
	return exit_code;
}
