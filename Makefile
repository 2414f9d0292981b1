# kelson: `make demo` shows it, `make test` proves it, `make install` installs it. All as root, on Linux.

ARCH    := $(shell uname -m)
TARGET  := $(ARCH)-unknown-linux-musl
OUT     := target/$(TARGET)/release
PREFIX  ?= /usr/local
export KELSON_COMMIT := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
CARGO   := cargo

.PHONY: all build demo test test-unit test-suite lint conformance fuzz engines churn crash attacks test-vm bench install clean

all: build

build: .toolchain
	$(CARGO) build --release --target $(TARGET)

# The static C library that Rust brings along for this processor.
.toolchain:
	@rustup target list --installed 2>/dev/null | grep -qx $(TARGET) || rustup target add $(TARGET)

demo: build
	bundles/rootfs bundles/demo $(OUT)
	$(OUT)/kelson run --bundle bundles/demo kelson-demo

lint: .toolchain
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --target $(TARGET) -- -D warnings

test: test-unit test-suite

# A test that hangs is to fail: a call of the suite has a deadline of its own.
test-unit: .toolchain
	timeout 1800 $(CARGO) test --workspace --lib --bins --test layers --target $(TARGET)

# Against the real kernel, under each cgroup layout that this host can show.
test-suite: .toolchain
	tests/run

# The OCI's validation suite, with the installed peers beside it; docs/conformance.md is what it prints.
installed = $(foreach peer,$(1),$(addprefix $(peer)=,$(shell PATH=$$PATH:/usr/sbin command -v $(peer))))
PEERS   := $(call installed,runc crun)
conformance: build
	@conformance/oci/run kelson=$(abspath $(OUT))/kelson $(PEERS)

# Every reader of input, SECONDS in all, from the corpus in fuzz/.
SECONDS ?= 120
fuzz:
	fuzz/run $(SECONDS)

engines: build
	conformance/engines/run $(abspath $(OUT))/kelson

# The same and more on a modern host, which is emulated: Debian sid with systemd, cgroup v2 and every engine.
test-vm:
	conformance/vm/test

# Under what the host shows; for cgroup v2 on a hybrid host see tests/run.
churn: build
	conformance/churn $(abspath $(OUT))/kelson

# Every system call of every verb fails once, and the runtime is killed before each: an hour and more; SAMPLE=100 takes
# one case of a hundred. VIEW=v2 for cgroup v2 on a hybrid host.
crash: build
	$(CARGO) build --release --target $(TARGET) -p kelson-conformance
	conformance/crash/run --sample $(or $(SAMPLE),1) $(if $(VIEW),--view $(VIEW)) --table docs/crash.md $(OUT)

# Against the installed runc and crun too, on a cgroup v2 view.
attacks: build
	$(CARGO) build --release --target $(TARGET) -p kelson-conformance
	conformance/attacks/run --view v2 --rounds $(or $(ROUNDS),2000) --seconds 300 --table docs/attacks.md \
		$(OUT) kelson=$(OUT)/kelson $(PEERS)

# What it costs beside the installed peers, or those of PEERS="NAME=PATH ..."; ROUNDS=3 for a first look.
bench: build
	benches/run.py --rounds $(or $(ROUNDS),100) $(if $(ROUNDS),,--page docs/benchmarks.md) kelson=$(OUT)/kelson \
		$(PEERS) $(call installed,youki)

install: build
	install -D -m 0755 $(OUT)/kelson $(DESTDIR)$(PREFIX)/sbin/kelson

clean:
	$(CARGO) clean
	rm -rf bundles/*/rootfs
