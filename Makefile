# Everything sets itself up: `make demo`, `make test` and the rest need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Tests that run at a time. Each process takes up to 4 GB, and some tests start processes of their own.
JOBS ?= 2

.PHONY: venv demo test test-fast soak coverage gpu lint format docs

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; name one with PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps resemblyzer  # of it only the weights are read
	$(BIN)/python -m pip download --quiet --no-deps --dest .venv/schemas dask-kubernetes==2026.3.0  # of it only the schemas are read
	mkdir -p .venv/checkout/headrace  # where mypy finds the packages under the name that they are imported by
	for package in store featurize train cli; do ln -sfn ../../../$$package .venv/checkout/headrace/$$package; done
	touch $@

demo: venv
	$(BIN)/python -m benchmarks.demo demo

test: venv
	$(BIN)/python -m pytest -m 'timing and not soak'
	$(BIN)/python -m pytest -m 'not soak and not timing' --numprocesses $(JOBS) --dist worksteal --durations 15

test-fast: venv  # what takes less than two minutes on two cores; it starts no clusters and trains no runs
	$(BIN)/python -m pytest -m 'not soak and not slow and not timing' --numprocesses $(JOBS)

soak: venv
	$(BIN)/python -m pytest -m soak

coverage: venv  # kernels that Numba compiles, and what runs in other processes, count as not covered
	$(BIN)/python -m pytest -m 'not soak' --cov --cov-report=term:skip-covered --cov-report=html:.venv/coverage

gpu: venv  # on a machine that has one: tests that need it, then every measurement, on one page
	$(BIN)/python -m benchmarks.gpu

lint: venv docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14 --no-warn-unused-ignores  # fails on what Python has removed since
	$(BIN)/lint-imports --no-logo

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
