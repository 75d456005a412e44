/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `hv attach-line`, and what `hv qemu --tmem` adds. There is nothing at the
 * path: the agent in QEMU takes the connection (hv/agent/port.c), which is why
 * no hvd is asked. The device always gets as many vectors as a line can have,
 * so that the number of queues is the agent's business alone.
 */
#include "hv/ctl/attach.h"

#include "guest-drivers/abi/tmem_line.h"
#include "hv/ctl/qemu_line.h"
#include "hv/ctl/quote.h"
#include "hv/ctl/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define CHARDEV "socket,id=tidepool-tmem,path="
#define DEVICE	"ivshmem-doorbell,chardev=tidepool-tmem,vectors=%u"

int attach_make(const char *run_dir, const char *name, struct attach *out)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int n = snprintf(path, sizeof(path), "%s/%s.tmem", run_dir, name);
	char *to = out->chardev;

	if (n < 0 || (size_t)n >= sizeof(path))
		return -ENAMETOOLONG;
	to = stpcpy(to, CHARDEV);
	/* to QEMU, two commas in a value are one */
	for (const char *from = path; *from; from++) {
		if (*from == ',')
			*to++ = ',';
		*to++ = *from;
	}
	*to = '\0';
	snprintf(out->device, sizeof(out->device), DEVICE,
		 LINE_VECTOR_QUEUE + LINE_QUEUES_MAX);
	out->word[0] = "-chardev";
	out->word[1] = out->chardev;
	out->word[2] = "-device";
	out->word[3] = out->device;
	out->word[4] = NULL;
	return 0;
}

_Static_assert(sizeof(((struct attach *)0)->chardev) >
		       sizeof(CHARDEV) +
			       2 * sizeof(((struct sockaddr_un *)0)->sun_path),
	       "a path of commas fits");

static void attach_print(const struct ctl *ctl, const struct attach *attach)
{
	bool json = ctl_has(ctl, OPT_JSON);

	fputs(json ? "{\"argv\": [" : "", ctl->out);
	for (size_t i = 0; attach->word[i]; i++) {
		fputs(!i ? "" : json ? ", " : " ", ctl->out);
		if (json)
			json_print(ctl->out, attach->word[i]);
		else
			word_print(ctl->out, attach->word[i]);
	}
	fputs(json ? "]}\n" : "\n", ctl->out);
}

enum ctl_exit attach_verb(struct ctl *ctl)
{
	const char *name = ctl->n_args ? ctl->args[0] : getenv("TIDEPOOL_NAME");
	const char *dir = getenv("TIDEPOOL_RUN_DIR");
	struct attach attach;

	dir = dir && *dir ? dir : HV_RUN_DIR;
	if (!name || !*name)
		return ctl_usage(ctl, "name the VM, here or in TIDEPOOL_NAME");
	if (!qemu_name_valid(name))
		return ctl_usage(ctl, "`%s` is not a valid name", name);
	if (*dir != '/')
		return ctl_usage(ctl,
				 "TIDEPOOL_RUN_DIR `%s`: give the whole "
				 "path",
				 dir);
	if (attach_make(dir, name, &attach))
		return ctl_refuse(ctl, "TIDEPOOL_RUN_DIR is too long for a "
				       "socket");
	attach_print(ctl, &attach);
	return CTL_DONE;
}
