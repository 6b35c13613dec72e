# The two commands: `make up` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An editable install names its dependencies in these files; a change installs anew.
RUN_STAMP := $(VENV)/.run-stamp
DEV_STAMP := $(VENV)/.dev-stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install
# One line a package is the progress; warnings and errors come on stderr as always.
SHOW := sed -un 's/^Collecting \([^ ]*\).*/  \1/p'

.PHONY: help up test check lint types fast fast-rooms fast-others sim fuzz soak golden slurm test-slurm compiled bench-gateway lock debian clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(RUN_STAMP) ## Install what it needs, then run Tramontane in the foreground (TRAMONTANE_HOME, TRAMONTANE_PORT)
	@exec $(BIN)/tramontane up

test: $(DEV_STAMP) debian ## Install what the tests need, then run them all
	@$(BIN)/python -m tests.support.client_envs
	@$(BIN)/python -m tests.support.node_env
	@bash .ci/test $(BIN)/python

check: $(DEV_STAMP) ## Format, lint, types, import contracts, fast tests (under a minute)
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target fast-rooms fast-others types lint

lint:
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/lint-imports --no-cache | tail -n 12

types:
	@$(BIN)/basedpyright --level error

fast: fast-rooms fast-others

# In two halves, for two cores: many of these tests wait for a moment.
FAST := -m pytest -q -p no:cacheprovider -m "not slow" --hypothesis-profile quick
ROOMS := tests/gateway tests/cli tests/drivers tests/runner tests/arch tests/store

fast-rooms:
	@$(BIN)/python $(FAST) $(ROOMS)

fast-others:
	@$(BIN)/python $(FAST) $(addprefix --ignore=,$(ROOMS))

sim: $(DEV_STAMP) ## Replay one simulated world: make sim SEED=4711
	@$(BIN)/python -m tests.sim.run --seed $(or $(SEED),1)

fuzz: $(DEV_STAMP) ## Fuzz both parsers, guided by coverage: make fuzz SECONDS=600 (60 for each)
	@$(BIN)/python -m tests.fuzz.run --seconds $(or $(SECONDS),60)

soak: $(DEV_STAMP) ## Half an hour of mixed load with faults, everything accounted for (SOAK_MINUTES=1)
	@$(BIN)/python -m tests.soak.run

golden: $(DEV_STAMP) ## Rewrite the golden files; review the diff before you commit it
	@TRAMONTANE_GOLDEN=1 $(MAKE) --no-print-directory fast
	@git status --short tests/golden

slurm: $(RUN_STAMP) ## Run a Slurm cluster on this machine, as root (ARGS="--racks 2 --nodes-per-rack 2 --gpus 4")
	@exec $(BIN)/tramontane dev slurm $(ARGS)

test-slurm: $(DEV_STAMP) debian ## Run the tests that need Slurm, alone
	@$(BIN)/python -m pytest -q tests/slurm

compiled: $(DEV_STAMP) ## Compile the gateway's hot path into build/compiled (needs gcc; a minute): docs/howto/compiled-gateway.md
	@bash .ci/compiled $(BIN)/python

bench-gateway: $(DEV_STAMP) ## Measure the gateway side by side with its peers (ARGS=--quick, ARGS="--only nginx tramontane")
	@bash bench/debian.sh
	@$(BIN)/python -m bench.gateway $(ARGS)

lock: $(DEV_STAMP) ## Pin every dependency anew, by hash
	@cd requirements && for file in run.in dev.in otel.in clients/*.in; do \
	  ../$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 \
	    --custom-compile-command "make lock" $$file -o $${file%.in}.txt; done

debian: ## Install the Debian packages that the tests need (as root), or say what is missing
	@bash tests/debian.sh

clean: ## Remove the environments (never a home)
	@rm -rf $(VENV) .venvs

$(VENV)/bin/python:
	@bash .ci/venv $(PYTHON) $(VENV)

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing Tramontane into $(VENV) (once)"
	@$(PIP) --require-hashes -r requirements/run.txt | $(SHOW)
	@$(PIP) -q --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements/dev.txt $(RUN_STAMP) | $(VENV)/bin/python
	@echo "installing the development tools into $(VENV) (once)"
	@$(PIP) --require-hashes -r requirements/dev.txt | $(SHOW)
	@touch $@
