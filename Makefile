# SPDX-License-Identifier: GPL-2.0-or-later
# Tidepool's one Makefile. Every source folder is a layer; what is in it is
# built by wildcard, so a new file needs no line here. Everything built goes
# to $(BUILD). `make help` lists the targets.

BUILD   ?= build
SAN     ?=
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= gcc
CLANG   ?= clang
Q       ?= @

ifneq ($(SAN),)
OUT := $(BUILD)/$(SAN)
else
OUT := $(BUILD)
endif

WARN := -Wall -Wextra -Werror -Wshadow -Wundef -Wmissing-prototypes \
	-Wstrict-prototypes -Wcast-qual -Wwrite-strings -Wvla
ifneq ($(findstring clang,$(CC)),)
WARN += -Wconditional-uninitialized -Wshorten-64-to-32
endif
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SAN_tsan := -fsanitize=thread
OPT      ?= -O2 -g
CPPFLAGS += -I. -D_GNU_SOURCE
CFLAGS   += -std=c11 $(OPT) -fPIC -pthread -fvisibility=hidden \
	    -fno-omit-frame-pointer $(WARN) $(SAN_$(SAN))
LDFLAGS  += -pthread $(SAN_$(SAN))

LIBS_CORE   := -llz4 -lzstd -lxxhash -luring
LIBS_DAEMON := -ljansson -lsystemd -linih -lmicrohttpd
ifeq ($(SAN),)
# Its archive: the shared library brings libstdc++ along, 1 MiB resident.
LIBS_DAEMON += -l:libjemalloc_pic.a -lm
endif
LIBS_CTL    := -ljansson -lncurses -ltinfo

src = $(wildcard $(1)/*.c)
obj = $(patsubst %.c,$(OUT)/obj/%.o,$(1))

BASE_O   := $(call obj,$(call src,hv/base))
TMEM_O   := $(call obj,$(call src,tmem))
CORE_O   := $(BASE_O) $(call obj,$(call src,hv/mm) $(call src,sharing) \
	    $(call src,hv/line))
AGENT_O  := $(call obj,$(call src,hv/agent))
DAEMON_O := $(call obj,$(filter-out hv/daemon/main.c,$(call src,hv/daemon)))
MINI_O   := $(call obj,$(call src,guest-drivers/mini))
LIBHV_O  := $(call obj,$(call src,hv/libhv))
CTL_MAIN := hv/ctl/hv.c hv/ctl/tmem-ctl.c
CTL_O    := $(call obj,$(filter-out $(CTL_MAIN),$(call src,hv/ctl)))

LIBS := $(OUT)/libtidepool.a $(OUT)/libtmem.a
BINS := $(OUT)/libhvagent.so $(OUT)/hvd $(OUT)/hv $(OUT)/tmem-ctl

UNIT_SRC := $(call src,tests/unit)
UNIT     := $(patsubst tests/unit/%.c,$(OUT)/tests/%,$(UNIT_SRC))
SUPPORT_O := $(call obj,$(call src,tests/support))
TOOL_SRC := $(call src,bench)
TOOLS    := $(patsubst bench/%.c,$(OUT)/bench/%,$(TOOL_SRC))
TOOL_LIB_O := $(call obj,$(call src,bench/lib))

.DELETE_ON_ERROR:
.SECONDARY: # objects of tests are kept, not made again each time
.PHONY: all help deps run check bench fuzz check-layers format install clean \
	unit tools guest-module guest-package

all: $(LIBS) $(BINS)

help:
	@echo "make              build everything into $(BUILD)/"
	@echo "make run          set up, then pack real desktops on this host"
	@echo "                  (GUESTS=n RAM=MiB TMEM=0; results:"
	@echo "                  build/run/summary.json)"
	@echo "make check        every test; the last line counts them"
	@echo "                  (KERNELS='6.1 6.12': other host kernels to run"
	@echo "                  on, 6.1 alone by default; see tests/check.sh)"
	@echo "make bench        measurements side by side with their rivals"
	@echo "                  (B=name for one, FULL=1; build/bench/report.html)"
	@echo "make fuzz         fuzz each parser for FUZZ_SECONDS (default 20)"
	@echo "make check-layers which folder may include which"
	@echo "make guest-module the guests' Linux module, for Debian 6.1 (cloud and"
	@echo "                  full) and 6.12"
	@echo "make guest-package  its package for Debian guests (DKMS)"
	@echo "make format       clang-format the tree"
	@echo "make install      DESTDIR= PREFIX=$(PREFIX)"
	@echo "make clean        remove $(BUILD)/"
	@echo "SAN=asan or SAN=tsan builds and checks under a sanitizer"

deps:
	$(Q)tests/rig/deps.sh

# Chosen at run time, where the processor has it.
$(OUT)/obj/sharing/hash_avx2.o: CFLAGS += -mavx2

# A guest's compiler need know no later C.
$(OUT)/obj/guest-drivers/mini/%.o: CFLAGS += -std=c99

$(OUT)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(OUT)/libtidepool.a: $(CORE_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# Self-contained: a program needs only -ltmem -llz4 -lxxhash. (zstd is hv/mm's.)
$(OUT)/libtmem.a: $(TMEM_O) $(BASE_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(OUT)/libhvagent.so: $(AGENT_O) $(LIBS) hv/agent/exports.map
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,--version-script=hv/agent/exports.map \
		-Wl,-z,defs -o $@ $(AGENT_O) $(LIBS) $(LIBS_CORE) -linih -ldl

# hvd without its main, for the tests.
$(OUT)/libhvd.a: $(DAEMON_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(OUT)/hvd: $(OUT)/obj/hv/daemon/main.o $(OUT)/libhvd.a $(LIBS)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_CORE) $(LIBS_DAEMON)

$(OUT)/hv $(OUT)/tmem-ctl: $(OUT)/%: $(OUT)/obj/hv/ctl/%.o $(CTL_O) $(LIBHV_O) \
		$(LIBS)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_CTL)

# Archives for the tests, which then link what they use and nothing else; the
# commands and hvd without their mains.
$(OUT)/libhv.a: $(LIBHV_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(OUT)/libctl.a: $(CTL_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# The guest's end of the line, for tests and benches to be a guest with.
$(OUT)/libmini.a: $(MINI_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(OUT)/tests/%: $(OUT)/obj/tests/unit/%.o $(SUPPORT_O) $(OUT)/libctl.a \
		$(OUT)/libhv.a $(OUT)/libhvd.a $(LIBS) $(OUT)/libmini.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_CORE) -ljansson -linih -lsystemd \
		-lmicrohttpd -lncurses -ltinfo -lcheck -lsubunit -lrt -lm

# What the benches' programs share; each links what it uses of it.
$(OUT)/libbench.a: $(TOOL_LIB_O)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(OUT)/bench/%: $(OUT)/obj/bench/%.o $(OUT)/libbench.a $(LIBS) \
		$(OUT)/libmini.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_CORE) -lm

unit: $(UNIT) $(OUT)/hvd
tools: $(TOOLS)

run: deps
	$(Q)$(MAKE) --no-print-directory all tools
	$(Q)bench/run.py $(if $(GUESTS),--guests $(GUESTS)) $(if $(RAM),--ram $(RAM))

check: deps
	$(Q)tests/check.sh

bench: deps
	$(Q)$(MAKE) --no-print-directory all tools
	$(Q)bench/bench.py $(if $(filter-out 0,$(FULL)),--full) --build $(BUILD) $(B)

fuzz: deps
	$(Q)tests/fuzz/run.sh $(or $(FUZZ_SECONDS),20)

guest-module:
	$(Q)tests/rig/module.sh 6.1
	$(Q)tests/rig/module.sh 6.1-full
	$(Q)tests/rig/module.sh 6.12

guest-package:
	$(Q)mkdir -p $(BUILD)
	$(Q)$(MAKE) --no-print-directory -C guest-drivers/linux deb \
		OUT=$(abspath $(BUILD))

check-layers:
	$(Q)tests/check-layers.sh

format:
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format -i

# Sets up this host as `make install` leaves it: a changed hvd.conf stays.
INSTALL  ?= install
SYSCONF  ?= /etc
UNITDIR  ?= $(PREFIX)/lib/systemd/system
COMPDIR  ?= $(PREFIX)/share/bash-completion/completions
to = $(DESTDIR)$(1)

install: all
	$(Q)$(INSTALL) -d $(call to,$(PREFIX)/bin) $(call to,$(PREFIX)/sbin) \
		$(call to,$(PREFIX)/lib/tidepool) $(call to,$(COMPDIR)) \
		$(call to,$(UNITDIR)) $(call to,$(SYSCONF)/tidepool)
	$(Q)$(INSTALL) -m 755 $(OUT)/hv $(OUT)/tmem-ctl $(call to,$(PREFIX)/bin)
	$(Q)$(INSTALL) -m 755 $(OUT)/hvd $(call to,$(PREFIX)/sbin)
	$(Q)$(INSTALL) -m 644 $(OUT)/libhvagent.so \
		$(call to,$(PREFIX)/lib/tidepool)
	$(Q)$(INSTALL) -m 644 $(wildcard completions/*) $(call to,$(COMPDIR))
	$(Q)for page in $(wildcard docs/man/*.[1-8]); do \
		$(INSTALL) -D -m 644 -t \
		$(call to,$(PREFIX)/share/man)/man$${page##*.} $$page || exit; \
	done
	$(Q)for unit in $(wildcard hv/daemon/hvd.service); do \
		sed 's,/usr/local/,$(PREFIX)/,g' $$unit >$(OUT)/hvd.service && \
		$(INSTALL) -m 644 $(OUT)/hvd.service $(call to,$(UNITDIR)) || \
		exit; \
	done
	$(Q)for conf in $(wildcard hv/daemon/hvd.conf); do \
		[ -e $(call to,$(SYSCONF)/tidepool/hvd.conf) ] || \
		$(INSTALL) -m 644 $$conf $(call to,$(SYSCONF)/tidepool) || exit; \
	done

clean:
	$(Q)rm -rf $(BUILD)

-include $(shell find $(OUT)/obj -name '*.d' 2>/dev/null)
