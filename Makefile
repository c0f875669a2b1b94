# A thin front door: meson and ninja do the building (see meson.build), tools/ and test/ the rest.
#
#   make            build build/trapeze (CC=clang takes another compiler)
#   make demo       boot Debian to a login prompt (root, no password); installs and builds what is missing
#   make check      build with gcc and clang, run every test
#   make bench      the long tests and measurements
#   make install    into PREFIX (default /usr/local), below DESTDIR
#   make format     put C files into the tree's style

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=

# Without CC meson takes the system's compiler, through ccache where there is one.
ifeq ($(origin CC),default)
CC :=
endif
ifneq ($(CC),)
export CC
endif
export DESTDIR

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

# Meson keeps the compiler of its first setup: another CC wants a new one.
$(BUILD)/build.ninja: $(BUILD)/.cc
	@if [ -f $@ ]; then meson setup --wipe $(BUILD); else meson setup $(BUILD); fi
	@echo "$(CC)" >$(BUILD)/.cc; touch $@

$(BUILD)/.cc: force
	@tools/install-deps build
	@mkdir -p $(BUILD)
	@[ "$$(cat $@ 2>/dev/null)" = "$(CC)" ] || echo "$(CC)" >$@

demo: all
	@tools/install-deps demo
	@TRAPEZE=$(BUILD)/trapeze tools/demo

check:
	@tools/install-deps build check demo
	@test/check

bench: all
	@tools/install-deps check demo bench
	@meson test -C $(BUILD) --benchmark --verbose

install: all
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@meson install -C $(BUILD)

format:
	@test/style/format -i

clean:
	rm -rf build build-*

force:
.PHONY: all demo check bench install format clean force
