# `make help` lists the verbs. The environment in $(VENV) is made once, and again when its inputs change.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread a worker: tests run in parallel, and results do not depend on the number of cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help setup demo results test test-slow coverage lint format types docs docs-serve build clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the environment

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "labeldist needs Python 3.11 or newer, \
	$(PYTHON) is " + sys.version.split()[0] + ": name one, as in `make $(MAKECMDGOALS) PYTHON=python3.12`.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,docs]" --group dev
	@touch $@

demo: $(READY)  ## compare the objectives on the built-in corpus: under three minutes on two cores
	$(BIN)/labeldist compare --data demo --encoder textcnn --seeds 0 1 2 --epochs 5 --batch-size 64 --embedding-dim 200 --jobs 2 \
		--output runs/demo $(ARGS)

results: $(READY)  ## write the README's tables from benchmarks/results
	$(BIN)/python -m benchmarks.paper.tables

test: $(READY)  ## run the tests and every docstring's example
	$(PYTEST) $(ARGS)

test-slow: $(READY)  ## run the tests that take minutes, too
	$(PYTEST) -m "not gpu" $(ARGS)

coverage: $(READY)  ## run the tests and show the lines that none of them reaches
	$(PYTEST) --cov $(ARGS)

lint: $(READY)  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY)  ## format, and repair what can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(READY)  ## check types
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(READY)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

docs-serve: $(READY)  ## serve the documentation at http://127.0.0.1:8000
	$(BIN)/python -m mkdocs serve

build: $(READY)  ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build $(ARGS)

clean:  ## delete everything that the verbs above made, but not runs/
	rm -rf $(VENV) build dist site htmlcov .coverage .pytest_cache .ruff_cache .hypothesis
	find labeldist tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
