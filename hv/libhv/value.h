/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside libhv: a JSON tree handed out as a value; the reference moves. */
#ifndef HV_LIBHV_VALUE_H
#define HV_LIBHV_VALUE_H

#include "hv/libhv/hv.h"

#include <jansson.h>

struct hv_value *hv_value_of(json_t *json);

#endif
