# Everything starts here: `make quickstart` on a fresh clone needs Python 3.11 or later and nothing else by hand.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.ready
COMPILED := numpy ray sympy torch transformers vllm
LOCK := requirements/cpu.lock
# Unit tests run on all cores; what starts the engine needs them all for itself.
PARALLEL := -n auto --dist worksteal
PEER := benchmarks/peer
TORCH = $(shell grep '^torch==' $(LOCK))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(BIN)/python -m pip install -qq --no-deps --no-compile

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test-unit test-integration test test-all bench-peer lint format types clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything that a CPU run needs
	@echo "rlvr: .venv is ready"

# A stamp newer than lock and pyproject.toml says that .venv holds what they ask for.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "rlvr: Python 3.11 or later is needed, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing):" \
	    "install one and say which, for example: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || { \
	  echo "rlvr: making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear .venv; } || { \
	  echo "rlvr: $(PYTHON) cannot make a virtual environment: install its venv module (python3-venv on Debian)" >&2; exit 1; }
	@echo "rlvr: installing $(TORCH)"
	@# The plain index of most users holds only CUDA builds under this version; PyTorch's own index holds the CPU build.
	@$(PIP) "$(TORCH)" 2>/dev/null || $(PIP) "$(TORCH)" --extra-index-url https://download.pytorch.org/whl/cpu
	@echo "rlvr: installing $$(grep -c '==' $(LOCK)) pinned packages, which takes a few minutes"
	@$(PIP) -r $(LOCK)
	@$(PIP) --no-build-isolation --editable .
	@# pip compiles every file on one core; compiling what a run loads, on all cores, saves a quarter of the time.
	@# Some packages carry files for other Pythons, which do not compile and are never loaded.
	@cd .venv/lib/python3.*/site-packages && ../../../bin/python -m compileall -qq -j 0 $(COMPILED) || true
	@touch $@

quickstart: setup ## train a small model on a CPU, end to end (ARGS="--set steps=5")
	@echo "rlvr: training launch/quickstart_cpu.toml"
	@$(BIN)/rlvr train launch/quickstart_cpu.toml $(ARGS)

test-unit: setup ## unit tests: no engine, no network, under a minute
	@echo "rlvr: unit tests"
	@$(BIN)/python -m pytest -q -m "not e2e and not slow and not integration" $(PARALLEL) $(ARGS)

test-integration: setup ## graders, workers and sandboxes as real processes
	@echo "rlvr: integration tests"
	@$(BIN)/python -m pytest -q -m "integration and not e2e and not slow" $(PARALLEL) $(ARGS)

test: lint types test-unit test-integration ## all of these, and end-to-end tests with the real engine
	@echo "rlvr: end-to-end tests"
	@$(BIN)/python -m pytest -q -m "e2e and not slow" $(ARGS)

test-all: lint types test-unit test-integration ## everything, the slow tests included
	@echo "rlvr: end-to-end and slow tests"
	@$(BIN)/python -m pytest -q -m "e2e or slow" $(ARGS)

bench-peer: setup $(PEER)/.venv/.ready ## compare with TRL, in minutes (ARGS="--only w2 --side rlvr")
	@echo "rlvr: the same steps by TRL and by rlvr; leave the machine alone meanwhile"
	@$(BIN)/python $(PEER)/run.py $(ARGS)

$(PEER)/.venv/.ready: $(PEER)/requirements.txt
	@echo "rlvr: making $(PEER)/.venv with TRL"
	@$(PYTHON) -m venv --clear $(PEER)/.venv
	@$(PEER)/.venv/bin/python -m pip install -qq --no-deps "$(TORCH)" 2>/dev/null || \
	  $(PEER)/.venv/bin/python -m pip install -qq --no-deps "$(TORCH)" --extra-index-url https://download.pytorch.org/whl/cpu
	@$(PEER)/.venv/bin/python -m pip install -qq --no-deps -r $<
	@touch $@

lint: setup ## style, imports, forbidden calls
	@echo "rlvr: lint"
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

format: setup ## write the house style into the files
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m ruff check --fix .

types: setup ## static types of the three packages
	@echo "rlvr: types"
	@$(BIN)/python -m mypy

clean: ## remove .venv and every cache (runs/ and models/ stay)
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "rlvr: clean"
