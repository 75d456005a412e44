/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any text as hvd.conf: accepted, or refused with a text that names a place;
 * what is accepted is in its ranges.
 *
 * fuzz-max-len: 2048
 */
#include "hv/daemon/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool truth)
{
	if (!truth)
		abort();
}

static void accepted_check(const struct config *config)
{
	size_t i;

	must(config->run_dir[0] == '/');
	must(strnlen(config->run_dir, sizeof(config->run_dir)) + 13 <
	     sizeof(config->run_dir));
	must(strnlen(config->metrics, sizeof(config->metrics)) <
	     sizeof(config->metrics));
	must(config->tax_percent <= 99);
	must(config->cow_permille <= 1000);
	must(config->share <= SHARE_NEVER);
	for (i = 0; i < config->domains; i++)
		must(config_domain_find(config, config->domain[i].name) ==
		     &config->domain[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[CONFIG_TEXT_MAX] = "", *content = malloc(size + 1);
	struct config config;

	if (!content)
		return 0;
	memcpy(content, data, size);
	content[size] = 0;
	config_default(&config);
	if (config_parse(&config, content, text))
		must(text[0] && strchr(text, ':'));
	else
		accepted_check(&config);
	config_fini(&config);
	free(content);
	return 0;
}
