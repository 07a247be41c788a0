# make            bin/webproxy, bin/simplecached (C side with AddressSanitizer), the same with _noasan, and the clients
# make KIT=DIR    the same with DIR/gfserver.o and DIR/gfserver_noasan.o instead of our own gfserver
# make demo       the main job on real files, every byte checked
# make test       everything that has a test
# make test-fast  unit tests, the channel, the origin, the form of the sources: under a minute once it is built
# make torture    TIME=600 SEED=7: the test that changes files, breaks connections and kills (60 s of it in make test), for longer
# make install    to PREFIX=/usr/local: programs (the _noasan ones, under their plain names), archive, headers, gfproxy.pc
# make headers    include/gfproxy.h and include/shm_channel.h anew, after a change in src/ffi
# make check      rustfmt, clippy, headers, form of the sources, rustdoc; shellcheck, clang, cargo-deny, oldest Rust where there
# make bench      gfproxy against its own limit, nginx and Varnish; with KIT=DIR the provided gfserver too, QUICK=1 in 2 minutes
# make models     loom's models of the channel (part of make test)
# make bench-channel  the bare channel against a futex and memcpy (part of make bench)
# make deps       installs what make test needs (deps-build, deps-demo, deps-bench: what those need)
# make clean      removes what the others made, but for what was installed
# make help       this text
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

BIN     ?= bin
BUILD   ?= build
TARGET  ?= $(or $(CARGO_TARGET_DIR),target)
PREFIX  ?= /usr/local
CARGO   ?= cargo
CC      := $(if $(filter default,$(origin CC)),gcc,$(CC))
CFLAGS  ?= -O2 -g
INSTALL ?= install

# A gfserver.o that was dropped into c/ is used like the one of a kit.
KIT     ?= $(if $(wildcard c/gfserver.o),c)
ifneq ($(KIT),)
$(foreach object,gfserver.o gfserver_noasan.o,$(if $(wildcard $(KIT)/$(object)),,\
    $(error KIT=DIR wants the directory that holds gfserver.o and gfserver_noasan.o: there is no $(KIT)/$(object))))
endif

# The objects of KIT may lie in a whole kit, whose mains the tests then take, too.
KIT_DIR ?= $(and $(KIT),$(wildcard $(KIT)/../cache/webproxy.c),$(abspath $(KIT)/..))

STRICT  := -std=gnu11 -Wall -Wextra -Werror -Iinclude -MMD -MP
ASAN    := -fsanitize=address -fno-omit-frame-pointer
LIBS     = $(shell pkg-config --libs libcurl) -lpthread -ldl -lm -lrt
LIB     := $(BUILD)/libgfproxy.a
VERSION  = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

# What webproxy is linked with besides its main and the archive: a gfserver and, where a kit brings one, its steque.
GFSERVER_DIR := $(or $(KIT),$(BUILD))
STEQUE       := $(and $(KIT),$(wildcard $(KIT)/steque.c))
SERVER       := $(GFSERVER_DIR)/gfserver.o $(if $(STEQUE),$(BUILD)/kit_steque.o)
SERVER_NOASAN := $(GFSERVER_DIR)/gfserver_noasan.o $(if $(STEQUE),$(BUILD)/kit_steque_noasan.o)

C_PROGRAMS    := webproxy simplecached webproxy_noasan simplecached_noasan fileserver
RUST_PROGRAMS := gfclient_download gfclient_measure
PROGRAMS      := $(addprefix $(BIN)/,$(C_PROGRAMS) $(RUST_PROGRAMS))
HEADERS       := $(addprefix include/,gfproxy.h gfserver.h shm_channel.h simplecache.h steque.h)

.PHONY: all
all: $(PROGRAMS) $(addprefix $(BUILD)/,gfserver.o gfserver_noasan.o producer consumer)

$(BIN)/webproxy:            $(BUILD)/webproxy.o $(BUILD)/options.o $(SERVER)
$(BIN)/simplecached:        $(BUILD)/simplecached.o $(BUILD)/options.o
$(BIN)/webproxy_noasan:     $(BUILD)/webproxy_noasan.o $(BUILD)/options_noasan.o $(SERVER_NOASAN)
$(BIN)/simplecached_noasan: $(BUILD)/simplecached_noasan.o $(BUILD)/options_noasan.o
$(BIN)/fileserver:          $(BUILD)/handle_with_file_noasan.o $(BUILD)/options_noasan.o $(SERVER_NOASAN)
$(BIN)/sendfile:            $(BUILD)/sendfile_noasan.o $(BUILD)/options_noasan.o $(SERVER_NOASAN)
$(BIN)/relay:               $(BUILD)/relay_noasan.o $(BUILD)/options_noasan.o $(SERVER_NOASAN)
$(BIN)/bare:                $(BUILD)/bare_noasan.o $(BUILD)/options_noasan.o

$(addprefix $(BIN)/,webproxy simplecached): LINK := $(ASAN) -static-libasan

# The daemon asks no origin: without libcurl and the 30 libraries behind it, it is at work in a quarter of the time, and a
# signal finds it so. What names libcurl is in sections that it does not need.
$(addprefix $(BIN)/,simplecached simplecached_noasan): LIBS = -Wl,--gc-sections -lpthread -ldl -lm -lrt

# Objects before libraries: what an object does not define is then taken from the archive.
$(addprefix $(BIN)/,$(C_PROGRAMS) sendfile relay bare): $(LIB) $(BUILD)/linked-with | $(BIN)
	$(CC) -o $@ $(LINK) $(filter %.o,$^) $(LIB) $(LDFLAGS) $(LIBS)

# Relinks when KIT, and with it an object of unknown age, is another than last time.
.PHONY: force
$(BUILD)/linked-with: force | $(BUILD)
	@echo '$(abspath $(SERVER))' | cmp -s - $@ || echo '$(abspath $(SERVER))' > $@

# The channel as a library of its own, in C.
$(addprefix $(BUILD)/,producer consumer): $(BUILD)/%: c/examples/%.c $(LIB)
	$(CC) $(CFLAGS) $(STRICT) -o $@ $< $(LIB) $(LDFLAGS) $(LIBS)

$(BUILD)/%_noasan.o: c/%.c | $(BUILD)
	$(CC) $(CFLAGS) $(STRICT) -c -o $@ $<

$(BUILD)/%_noasan.o: benches/%.c | $(BUILD)
	$(CC) $(CFLAGS) $(STRICT) -Ic -c -o $@ $<

$(BUILD)/%.o: c/%.c | $(BUILD)
	$(CC) $(CFLAGS) $(STRICT) $(ASAN) -c -o $@ $<

$(BUILD)/kit_steque_noasan.o: $(STEQUE) | $(BUILD)
	$(CC) $(CFLAGS) -c -o $@ $<

$(BUILD)/kit_steque.o: $(STEQUE) | $(BUILD)
	$(CC) $(CFLAGS) $(ASAN) -c -o $@ $<

-include $(wildcard $(BUILD)/*.d)

# Cargo knows what is fresh. Only a changed archive or program is copied, so that nothing is relinked in vain.
.PHONY: cargo
cargo: | deps-build
	$(CARGO) build --release --locked -p gfproxy -p gfclients --lib --bins --target-dir $(TARGET)

UPDATE = cmp -s $(TARGET)/release/$(@F) $@ || cp $(TARGET)/release/$(@F) $@

# Rust has no weak symbols of its own. A program's own handler of the name takes the place of ours.
WEAK := $(addprefix --weaken-symbol=,handle_with_curl handle_with_cache handle_with_cache_or_curl)

$(LIB): cargo | $(BUILD)
	@objcopy -D $(WEAK) $(TARGET)/release/$(@F) $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(addprefix $(BIN)/,$(RUST_PROGRAMS)): cargo | $(BIN)
	@$(UPDATE)

$(BIN) $(BUILD): | deps-build
	mkdir -p $@

# Installs what a goal misses, where it may; needs no network when nothing misses.
.PHONY: deps deps-build deps-demo deps-test deps-bench
deps: deps-test
deps-build deps-demo deps-test deps-bench: deps-%:
	@scripts/deps.sh $*

.PHONY: demo test bench check headers
demo: deps-demo all
	BIN=$(BIN) scripts/demo.sh

test: deps-test all models
	$(and $(wildcard $(KIT_DIR)/server/webproxy.c),KIT_DIR=$(KIT_DIR)) \
	GFPROXY_BIN=$(abspath $(BIN)) GFPROXY_BUILD=$(abspath $(BUILD)) TARGET=$(TARGET) \
	    $(CARGO) test --workspace --no-fail-fast --locked --target-dir $(TARGET)

# Without SEED another one each time.
TIME ?= 60
.PHONY: torture
torture: all
	GFPROXY_BIN=$(abspath $(BIN)) GFPROXY_BUILD=$(abspath $(BUILD)) GFPROXY_TORTURE_SECONDS=$(TIME) GFPROXY_SEED=$(SEED) \
	    $(CARGO) test --locked --target-dir $(TARGET) --test torture -- --nocapture

# The tests that need few programs, for the time between two edits.
.PHONY: test-fast
test-fast: all
	GFPROXY_BIN=$(abspath $(BIN)) GFPROXY_BUILD=$(abspath $(BUILD)) TARGET=$(TARGET) $(CARGO) test --workspace --locked \
	    --target-dir $(TARGET) --lib --test channel --test origin --test tidy

# Loom's models of the channel, which need a build of their own: in it the atomics are loom's.
.PHONY: models
models: deps-build
	RUSTFLAGS='--cfg loom' $(CARGO) test --locked -p shm-channel --lib --profile models --target-dir $(TARGET)/loom models::

# Both gfservers meet in one run, so each has its own build.
BENCH_BUILD  := $(BUILD)/bench
BENCH_GOALS   = $(addprefix $(1)/,webproxy_noasan simplecached_noasan sendfile relay bare)
bench: deps-bench
	$(MAKE) KIT= BIN=$(BENCH_BUILD)/own BUILD=$(BENCH_BUILD)/own/obj $(call BENCH_GOALS,$(BENCH_BUILD)/own)
	$(if $(KIT),$(MAKE) BIN=$(BENCH_BUILD)/kit BUILD=$(BENCH_BUILD)/kit/obj $(call BENCH_GOALS,$(BENCH_BUILD)/kit))
	$(CARGO) bench --locked --target-dir $(TARGET) --bench versus -- --own $(abspath $(BENCH_BUILD)/own) \
		$(if $(KIT),--provided $(abspath $(BENCH_BUILD)/kit)) \
		--results $(abspath $(BENCH_BUILD)/$(if $(QUICK),quick/)results.json) \
		$(if $(QUICK),--quick --output $(abspath $(BENCH_BUILD)/quick))
	$(if $(QUICK),,$(MAKE) bench-channel)

# The bare channel against a futex and memcpy.
.PHONY: bench-channel
bench-channel: deps-build
	$(CARGO) bench --locked --target-dir $(TARGET) --bench channel

# Runs a command where its program is installed, else says what was left out.
optional = @if command -v $(1) >/dev/null; then $(2); else echo 'SKIPPED: $(1) is not installed'; fi
MSRV     = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# The C sources have their own strict flags in every build; a test compares include/ with what cbindgen makes.
check: deps-build all
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --target-dir $(TARGET) -- -D warnings
	$(CARGO) test --locked --target-dir $(TARGET) --test kit headers::
	$(CARGO) test --locked --target-dir $(TARGET) --test tidy
	$(call optional,shellcheck,shellcheck scripts/*.sh .ci/run)
	$(call optional,clang,clang -std=gnu11 -Wall -Wextra -Werror -Iinclude -Ic -fsyntax-only c/*.c c/examples/*.c benches/*.c)
	$(call optional,cargo-deny,cargo deny --offline check bans licenses sources)
	$(if $(filter $(MSRV).% $(MSRV)-%,$(shell rustup toolchain list 2>/dev/null)),$(CARGO) +$(MSRV) check --workspace --locked,\
	    @echo 'SKIPPED: Rust $(MSRV) is not installed, only $(shell rustc --version)')
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items --locked --target-dir $(TARGET)

headers:
	GFPROXY_WRITE_HEADERS=1 $(CARGO) build --locked --target-dir $(TARGET)

.PHONY: help
help:
	@sed -n '/^[^#]/q; s/^# //p' $(firstword $(MAKEFILE_LIST))

.PHONY: install clean
install: all
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/gfproxy
	$(INSTALL) $(BIN)/webproxy_noasan $(DESTDIR)$(PREFIX)/bin/webproxy
	$(INSTALL) $(BIN)/simplecached_noasan $(DESTDIR)$(PREFIX)/bin/simplecached
	$(INSTALL) $(addprefix $(BIN)/,$(RUST_PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	$(INSTALL) -m 644 $(LIB) $(DESTDIR)$(PREFIX)/lib
	$(INSTALL) -m 644 $(HEADERS) $(DESTDIR)$(PREFIX)/include/gfproxy
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' scripts/gfproxy.pc.in > $(BUILD)/gfproxy.pc
	$(INSTALL) -m 644 $(BUILD)/gfproxy.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/share/gfproxy
	$(INSTALL) -m 644 scripts/valgrind.supp $(DESTDIR)$(PREFIX)/share/gfproxy

clean:
	rm -f $(PROGRAMS)
	rm -rf $(BUILD)
	$(CARGO) clean --target-dir $(TARGET)
