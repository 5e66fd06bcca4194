# The two commands that matter: `make trace` and `make test`. `make help` prints the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Without DEST the path leads through the bundled simulated internet: no root, no network.
DEST ?=
PACKETS ?= 10000000

.DEFAULT_GOAL := help
.PHONY: help trace test check lint types layers format schema fuzz bench clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable . --group dev
	@$(BIN)/python -m compileall -q src
	@touch $@

trace: $(READY) ## trace a path: DEST=example.org, or without it through a simulated internet
ifeq ($(DEST),)
	$(BIN)/allhops --simulate demo demo.example.net
else
	$(BIN)/allhops $(DEST)
endif

test: $(READY) ## every test; those of the lab skip with their reason where there is no root
	$(BIN)/python -m pytest

check: lint types layers test ## lint, types, layers, tests

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy --strict
	$(BIN)/mypy

layers: $(READY) ## each room imports only what stands above it
	$(BIN)/lint-imports --no-logo

format: $(READY) ## let ruff format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(READY) ## write docs/trace.schema.json from the model
	$(BIN)/python -m allhops.output.schema > docs/trace.schema.json

fuzz: $(READY) ## mutated packets through the parsers: PACKETS=10000000
	$(BIN)/python -m benchmarks.fuzz --packets $(PACKETS)

bench: $(READY) ## side by side with traceroute, mtr, scamper, caracal, zmap ... (root, Debian packages)
	-@$(BIN)/python -m pip install --quiet --group peers
	$(BIN)/python -m benchmarks

clean: ## remove the environment and what tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
