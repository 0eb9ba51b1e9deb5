# make demo    two pods on a network of the real plugins, in a sandbox
# make test    the tests that a newcomer runs
#
# The rest is for those who change podcni; .ci/run calls all of it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO       ?= go
BIN      := $(CURDIR)/bin
PLUGINS  := $(BIN)/plugins
LINT     := $(GO) tool -modfile=tools/go.mod golangci-lint
# Findings hold paths, so each checkout keeps its own.
export GOLANGCI_LINT_CACHE := $(CURDIR)/out/golangci-lint
FUZZTIME ?= 30s
SOAKTIME ?= 2m
# Every module of the repository but the tools, "." first.
MODULES  := . $(sort $(patsubst %/go.mod,%,$(filter-out tools/go.mod,$(wildcard */go.mod */*/go.mod))))

# The reference plugins. flannel is the last release that they had of it.
PLUGINS_VERSION := v1.9.1
FLANNEL_VERSION := v0.9.1
PLUGINS_PATH    := github.com/containernetworking/plugins/plugins
PLUGINS_WANTED  := main/bridge main/host-device main/loopback main/macvlan main/ptp \
	ipam/host-local ipam/static meta/bandwidth meta/firewall meta/portmap meta/tuning
PLUGINS_STAMP   := $(PLUGINS)/.built-$(PLUGINS_VERSION)-flannel-$(FLANNEL_VERSION)

.PHONY: build test race vet lint fmt fmt-check tidy-check cross modules plugins diagram \
	integration demo fuzz soak bench bench-smoke clean

build:
	$(GO) build ./...

test:
	$(GO) test -timeout 5m ./...

# The race detector needs a C compiler.
race:
	CGO_ENABLED=1 $(GO) test -timeout 10m -race ./...

vet:
	set -e; for m in $(MODULES); do (cd $$m && $(GO) vet ./...); done

lint: vet
	$(LINT) run --allow-parallel-runners ./...

fmt:
	$(LINT) fmt ./...

fmt-check:
	test -z "$$(gofmt -s -l . | tee /dev/stderr)"
	$(LINT) fmt --diff ./...

tidy-check:
	set -e; for m in $(MODULES); do (cd $$m && $(GO) mod tidy -diff); done

# What podcni builds on, and what it is vetted for.
cross:
	set -e; for target in linux/arm64 windows/amd64 freebsd/amd64 darwin/arm64; do \
		echo "$$target"; \
		GOOS=$${target%/*} GOARCH=$${target#*/} CGO_ENABLED=0 $(GO) build ./...; \
		GOOS=$${target%/*} GOARCH=$${target#*/} CGO_ENABLED=0 $(GO) vet ./...; \
	done

# The nested modules have tests of their own.
modules:
	set -e; for m in $(filter-out .,$(MODULES)); do echo "$$m"; (cd $$m && $(GO) test ./...); done

plugins: $(PLUGINS_STAMP)

# Outside of any module, so that neither our requirements nor the caller's
# GOFLAGS decide what is built.
$(PLUGINS_STAMP):
	mkdir -p $(PLUGINS)
	cd / && GOBIN=$(PLUGINS) GOFLAGS= GOWORK=off CGO_ENABLED=0 \
		$(GO) install $(PLUGINS_WANTED:%=$(PLUGINS_PATH)/%@$(PLUGINS_VERSION))
	cd / && GOBIN=$(PLUGINS) GOFLAGS= GOWORK=off CGO_ENABLED=0 \
		$(GO) install $(PLUGINS_PATH)/meta/flannel@$(FLANNEL_VERSION)
	rm -f $(PLUGINS)/.built-*
	touch $@

integration: plugins
	PODCNI_PLUGINS=$(PLUGINS) $(GO) test -count=1 ./integration/... ./examples/...

demo: plugins
	$(GO) build -o $(BIN)/twopods ./examples/twopods
	$(BIN)/twopods --plugins $(PLUGINS)

# Each fuzz target for FUZZTIME; without arguments it finds them all.
fuzz:
	set -e; for dir in $$(git ls-files --cached --others --exclude-standard '*_test.go' | \
			xargs grep -l '^func Fuzz' /dev/null | xargs -r -n1 dirname | sort -u); do \
		(cd $$dir; for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' *_test.go | cut -d' ' -f2 | sort); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .; \
		done); \
	done

# Random faults, config churn and kill -9 for SOAKTIME.
soak:
	PODCNI_SOAK=$(SOAKTIME) $(GO) test -count=1 -v -timeout 30m -run '^TestSoak' ./faults

# For example BENCHFLAGS='--only setup --json out/bench.json --plots plots';
# paths are seen from benchmarks/.
BENCHFLAGS ?=

bench: plugins
	cd benchmarks && PODCNI_PLUGINS=$(PLUGINS) $(GO) run . $(BENCHFLAGS)

bench-smoke: plugins
	cd benchmarks && PODCNI_PLUGINS=$(PLUGINS) $(GO) run . --smoke $(BENCHFLAGS)

# Needs graphviz.
diagram:
	dot -Tsvg docs/architecture.dot -o docs/architecture.svg

clean:
	rm -rf $(BIN) out
