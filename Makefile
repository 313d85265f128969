# Needs only make and Python 3.11 or newer with its venv module.
# `make demo PYTHON=python3.12` chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Arguments for pytest and for the benchmark, as in `make test PYTEST_ARGS=tests/unit`.
PYTEST_ARGS ?=
BENCH_ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format reference bench chaos simulate clean

help:
	@echo "make demo     set up, start a mesh on this machine and count words with it"
	@echo "make test     set up, check style, types and layers, run the tests"
	@echo "make lint     the checks of 'make test' without the tests"
	@echo "make format   let ruff format the code and fix what it can"
	@echo "make reference  write the pages that are made from the code"
	@echo "make bench    measure throughput and latency"
	@echo "make chaos    the long tests that kill nodes"
	@echo "make simulate  ten thousand simulated worlds; are they the same each time? planted bugs"
	@echo "make venv     only set up the development environment in $(VENV)"
	@echo "make clean    remove what was made"

# Two stamps: the demo needs no test tools. Both follow pyproject.toml.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "zmqtasks needs Python 3.11 or newer; choose one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "this Python has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.core

venv: $(VENV)/.dev

demo: $(VENV)/.core
	@$(BIN)/python examples/wordcount/run.py

# pytest comes last, so that its own closing line ends the output.
test: lint
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not chaos" $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(VENV)/.dev
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/generate_from_celery.py
	$(BIN)/python docs/generate_workflows.py

bench: $(VENV)/.core
	@$(BIN)/zmqtasks bench $(BENCH_ARGS)

chaos: $(VENV)/.dev
	$(BIN)/python -m pytest -s -m chaos tests/chaos $(PYTEST_ARGS)

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation --seeds 0:10000 --jobs 2
	$(BIN)/python -m tests.simulation --check-determinism 0:200 --jobs 2
	$(BIN)/python -m pytest -n $(WORKERS) -m chaos tests/simulation $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
