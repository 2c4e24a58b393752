# One word for everything that is done here. `make` alone lists the words.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(CURDIR)/target
# libseccomp goes into the binary, so that a user's machine needs nothing.
export LIBSECCOMP_LINK_TYPE ?= static
export LIBSECCOMP_LIB_PATH ?= $(dir $(shell gcc -print-file-name=libseccomp.a))

DATA_DIR ?= /var/lib/keelson
KEELSON := $(CARGO_TARGET_DIR)/release/keelson
EXAMPLE_TARGET := $(CARGO_TARGET_DIR)/settlement
EXAMPLE_BIN := $(EXAMPLE_TARGET)/x86_64-unknown-linux-gnu/release

.PHONY: help up down build example setup test lint fmt bench bench-scale fuzz

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

up: ## build and start Keelson in the background, with the example application
	@DATA_DIR='$(DATA_DIR)' KEELSON='$(KEELSON)' EXAMPLE_BIN='$(EXAMPLE_BIN)' scripts/up

down: ## stop Keelson and remove its containers and network (data stays; `keelson down --purge` removes it)
	@if [[ -x '$(KEELSON)' ]]; then '$(KEELSON)' down --data-dir '$(DATA_DIR)'; else echo 'nothing was built, so nothing runs'; fi

setup: ## install the system packages that building needs
	@scripts/install-packages build

build: setup ## the release binary
	@cargo build --release --locked --package keelson

example: ## the example's services, one static file each
	@cd examples/settlement && CARGO_TARGET_DIR='$(EXAMPLE_TARGET)' cargo build --release --locked

test: setup ## every test
	@scripts/install-packages test
	@cd examples/settlement && CARGO_TARGET_DIR='$(EXAMPLE_TARGET)' cargo test --release --locked
	@cd examples/settlement && CARGO_TARGET_DIR='$(EXAMPLE_TARGET)' cargo build --release --locked
	@cargo build --locked --package keelson
	@KUBECTL="$$(scripts/get-clients --pinned kubectl)" HELM="$$(scripts/get-clients helm)" \
		PYTHON="$$(scripts/get-clients python)" EXAMPLE_BIN='$(EXAMPLE_BIN)' cargo test --workspace --locked

lint: setup ## formatting, clippy with warnings denied, the layer rules and the file limits
	@scripts/install-packages lint
	@cargo fmt --all --check
	@cd examples/settlement && cargo fmt --all --check
	@scripts/check-structure
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@cd examples/settlement && CARGO_TARGET_DIR='$(EXAMPLE_TARGET)' cargo clippy --release --all-targets --locked -- -D warnings

fmt: ## format everything
	@cargo fmt --all
	@cd examples/settlement && cargo fmt --all

bench: build example ## the numbers of docs/benchmarks.md
	@DATA_DIR="$$(mktemp -d)" KEELSON='$(KEELSON)' EXAMPLE_BIN='$(EXAMPLE_BIN)' scripts/bench

bench-scale: build ## many objects, watches and definitions; PEER names another server to measure in the same run
	@cargo bench --locked --package system-tests --bench scale --no-run
	@scale="$$(cargo bench --locked --package system-tests --bench scale --no-run --message-format=json 2>/dev/null \
		| grep -o '"executable":"[^"]*scale-[^"]*"' | cut -d'"' -f4)"; \
		DATA_DIR="$$(mktemp -d)" KEELSON='$(KEELSON)' SCALE="$$scale" scripts/bench-peer

fuzz: setup ## every parser of untrusted bytes under a fuzzer, FUZZ_SECONDS (20) each
	@scripts/fuzz
