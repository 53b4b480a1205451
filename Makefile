# One verb a target; `make help` lists them. Everything runs in .venv, which is made on first use and kept.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Tests start a thousand interpreters. Without bytecode each of them would compile everything that it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done; true)
VENV ?= .venv
BIN := $(VENV)/bin
# Tests mostly wait for processes, so that two cores have time for four at a time.
PYTEST_ARGS ?= --numprocesses 4 --dist loadfile --no-loadscope-reorder
# The others compute; each worker more than cores would only collect all tests once more.
FAST_ARGS ?= --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest --durations=20
# The Python package pgserver brings PostgreSQL, but not for newer Pythons.
POSTGRESQL = $(shell $(or $(PYTHON),python3) -c 'import sys; sys.version_info < (3, 13) or print("postgresql")')
DEMO_ARGS ?=
BENCH_ARGS ?=
LOCK_ARGS ?=
REDTEAM_ARGS ?=

.PHONY: help env compiled format lint types style check fast unit test coverage docs lock release tools demo bench redteam soak clean distclean FORCE

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

env: ## make .venv with everything that development needs
	@scripts/environment.sh $(VENV) "$(or $(PYTHON),python3)" dev

compiled: env # once for each environment: the workers of pytest would each compile all that tests import, at the same time
	@test -e $(VENV)/.compiled || ! $(BIN)/python -m pytest --collect-only -qq -p no:xdist >/dev/null || touch $(VENV)/.compiled

format: env ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: env ## style, formatting, and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: env ## mypy, strict
	$(BIN)/mypy

check: env ## in three minutes: style, walls, types, and beside them the quick tests
	@$(MAKE) --jobs=2 fast style

fast: compiled ## the quick tests (tests/tiers.py knows which those are)
	$(PYTEST) $(FAST_ARGS) -m "not processes and not long"

unit: compiled ## all tests; PYTEST_ARGS="tests/schema -k …" chooses
	$(PYTEST) $(PYTEST_ARGS)

test: ## everything that must pass, in a quarter of an hour: all tests, and beside them style, walls, types
	@$(MAKE) --jobs=2 env tools
	@$(MAKE) --jobs=2 unit style

style: lint types ## style, walls, types

coverage: env tools ## branch coverage of serving, rollout, statistics and package; fails below 90 %
	$(BIN)/python scripts/room_coverage.py $(PYTEST_ARGS)

docs: env ## the documentation site, in build/site; strict, and complete without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir build/site

lock: env ## requirements-dev.lock: every package of the development environment, with hashes
	$(BIN)/python scripts/lock.py $(LOCK_ARGS)

release: env ## build and check the archives in dist/, and write the release notes; uploads nothing
	$(BIN)/python scripts/release.py

tools: # the servers that tests need; without PostgreSQL its tests fail, without the others theirs are skipped
	@scripts/tools.sh load redis nginx $(POSTGRESQL) || test -z "$${CI:-}"

demo: env ## the whole journey on real flights; DEMO_ARGS=--exit stops the server at the end
	$(BIN)/python demo/run.py $(DEMO_ARGS)

bench: bench-road bench-gateway ## the benchmarks of one machine's speed

bench-%: env FORCE ## one benchmark: bench-gateway, -before, -chaos, -exact, -hostile, -neighbours, -overload, -peers, -road, -rollout, -switches
	@scripts/tools.sh load
	$(BIN)/python -m bench.$* $(BENCH_ARGS)

redteam: env ## attacks on a running installation, as a table; REDTEAM_ARGS="--only A1,B3" chooses, --stops 50 stops more often
	$(BIN)/python -m bench.redteam $(REDTEAM_ARGS)

soak: env ## a long steady load that nothing may grow under; BENCH_ARGS="--minutes 5" chooses
	$(BIN)/python -m bench.soak $(BENCH_ARGS)

clean: ## remove what builds and tests leave
	rm -rf build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## and the environment
	rm -rf $(VENV)
