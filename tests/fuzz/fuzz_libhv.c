/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A lying hvd: the input is what it sends in answer to a few questions, and the
 * commands print what they believe of it, as tables and as JSON. Nothing of it
 * may reach the terminal as a control character.
 *
 * - fuzz-needs: hv/ctl/program.c hv/ctl/look.c hv/ctl/stats.c hv/ctl/change.c
 * - fuzz-needs: hv/ctl/view.c hv/ctl/table.c hv/ctl/size.c hv/ctl/top.c
 * - fuzz-max-len: 8192
 */
#include "hv/ctl/program.h"
#include "hv/ctl/top.h"
#include "hv/ctl/verbs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char arg[] = "desk1";
static char *args[] = {arg, NULL};

static const struct verb verbs[] = {
	{"list", "", "", "", 0, 0, 0, look_list},
	{"list", "", "", "", 0, 0, 0, look_tmem_list},
	{"show", "", "", "", 0, 1, 1, look_show},
	{"stats", "", "", "", 0, 0, 0, look_stats},
	{"stats", "", "", "", 0, 1, 1, look_stats},
	{"domains", "", "", "", 0, 0, 0, look_domains},
	{"host", "", "", "", 0, 0, 0, look_host},
	{"why", "", "", "", 0, 1, 1, look_why},
	{"freeable", "", "", "", 0, 0, 0, look_freeable},
	{"check", "", "", "", 0, 0, 0, look_check},
	{"set", "", "", "", 0, 1, 1, change_set},
};
static const struct program program = {"fuzz", "", verbs, ARRAY_LEN(verbs)};

/* The whole input is there before anything is asked, then the end. */
static struct hv *liar_start(const uint8_t *data, size_t size)
{
	struct hv *hv;
	int pair[2], room = 1 << 20;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		abort();
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (send(pair[1], data, size, MSG_NOSIGNAL) != (ssize_t)size)
		abort();
	if (hv_create_fd(pair[0], &hv))
		abort();
	close(pair[1]);
	return hv;
}

static void text_check(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] < 0x20 && text[i] != '\n')
			abort();
}

static void verb_try(const struct verb *verb, struct hv *hv, const char *json)
{
	struct ctl ctl = {.program = &program, .verb = verb, .hv = hv};
	char *text = NULL;
	size_t n = 0;

	ctl.args = verb->args_max ? args : args + 1;
	ctl.n_args = verb->args_max;
	ctl.opt[OPT_SHARES] = "5";
	ctl.opt[OPT_JSON] = json;
	ctl.out = ctl.err = open_memstream(&text, &n);
	(void)verb->run(&ctl);
	fclose(ctl.out);
	text_check(text, n);
	free(text);
}

static void top_try(struct hv *hv)
{
	unsigned char cells[64];
	struct hv_value *list;
	struct top top;

	top_init(&top);
	for (uint64_t i = 1; !hv_list(hv, &list); i++) {
		if (top_sample(&top, list, i))
			abort();
		hv_value_free(list);
		for (size_t v = 0; v < top.n; v++)
			top_bar(&top.vms[v], sizeof(cells), cells);
	}
	top_fini(&top);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hv *hv;

	for (size_t i = 0; i < 2 * ARRAY_LEN(verbs); i++) {
		hv = liar_start(data, size);
		verb_try(&verbs[i / 2], hv, i % 2 ? "" : NULL);
		hv_destroy(hv);
	}
	hv = liar_start(data, size);
	top_try(hv);
	hv_destroy(hv);
	return 0;
}
