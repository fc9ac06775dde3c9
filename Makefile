# `make help` lists what can be made. Everything runs from .venv, which is made when it is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
# Tests start real servers and wait for them a lot, but conversions are real work too.
TEST_PROCESSES ?= $(shell nproc)
PYTEST_ARGUMENTS ?=
RUN_ARGUMENTS ?=
DEMO_ARGUMENTS ?=
SECONDS_EACH ?= 60

# program or file=Debian package
RUN_NEEDS := qemu-img=qemu-utils bwrap=bubblewrap
DEMO_NEEDS := $(RUN_NEEDS) mkfs.ext4=e2fsprogs
TEST_NEEDS := $(DEMO_NEEDS) grpc_tools_ruby_protoc=ruby-grpc-tools curl=curl
SOAK_NEEDS := $(TEST_NEEDS) qemu-system-x86_64=qemu-system-x86 prometheus=prometheus grub-mkimage=grub-common \
	/usr/lib/grub/i386-pc/boot.img=grub-pc-bin strace=strace pgbouncer=pgbouncer
SOAK_NEEDS += debootstrap=debootstrap buildah=buildah
LINT_NEEDS := $(TEST_NEEDS) kubectl=kubernetes-client
BENCH_NEEDS := $(RUN_NEEDS) h2load=nghttp2-client curl=curl taskset=util-linux

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## start the development stack in the foreground: server, worker, gateway, object storage
	@tools/bootstrap.sh $(RUN_NEEDS)
	@exec $(BIN)/darkroom dev $(RUN_ARGUMENTS)

.PHONY: demo
demo: ## import three real disk images into the running stack and compare what is stored
	@tools/bootstrap.sh $(DEMO_NEEDS)
	@exec $(BIN)/darkroom demo $(DEMO_ARGUMENTS)

.PHONY: environment
environment: ## make .venv and install the Debian packages that tests need, nothing else
	@tools/bootstrap.sh $(TEST_NEEDS)

.PHONY: test
test: environment ## run every test
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal $(PYTEST_ARGUMENTS)

.PHONY: lint
lint: check-generated ## check format, lint, types, import directions, protos, manifests and dependencies
	@tools/bootstrap.sh $(LINT_NEEDS)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/lint_protos.py
	$(BIN)/python tools/lint_manifests.py
	$(BIN)/python tools/bill_of_materials.py

.PHONY: format
format: environment ## rewrite the code in its one format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: generate
generate: environment ## make generated/ from protos/
	$(BIN)/python tools/generate.py

.PHONY: check-generated
check-generated: environment ## fail if generated/ is not what protos/ gives
	$(BIN)/python tools/generate.py --check

.PHONY: docs
docs: environment ## write the parts of the documentation that come from the code
	$(BIN)/python tools/write_docs.py

.PHONY: matrix
matrix: environment ## run every client and write README's table of clients
	$(BIN)/pytest -n $(TEST_PROCESSES) -m client --write-client-matrix $(PYTEST_ARGUMENTS)

.PHONY: soak
soak: ## run the tests that need more than Debian's small packages or more than a minute
	@tools/bootstrap.sh $(SOAK_NEEDS)
	$(BIN)/pytest $(PYTEST_ARGUMENTS) tests/soak

.PHONY: fuzz
fuzz: environment ## fuzz the parsers and rules that strangers reach, SECONDS_EACH of each; keep what was found
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/drive.py --seconds $(SECONDS_EACH)

.PHONY: bench
bench: ## measure calls, starts, imports, listings, contents, databases and overload against their bounds, in ratios
	@tools/bootstrap.sh $(BENCH_NEEDS)
	failed=0; for each in rpc starting importing derived listing contents store overload; do \
		$(BIN)/python bench/$$each.py || failed=1; done; exit $$failed

.PHONY: clean
clean: ## remove what make made, the development stack's data included
	rm -rf .venv .darkroom .cache .hypothesis dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find server tests tools generated -name __pycache__ -type d -prune -exec rm -rf {} +
