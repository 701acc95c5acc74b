# Everything sets itself up: `make demo`, `make test` and the rest need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test soak lint

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; name one with PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps resemblyzer  # of it only the weights are read
	mkdir -p .venv/checkout/headrace  # where mypy finds the packages under the name that they are imported by
	for package in store featurize train cli; do ln -sfn ../../../$$package .venv/checkout/headrace/$$package; done
	touch $@

demo: venv
	$(BIN)/python -m benchmarks.demo demo

test: venv
	$(BIN)/python -m pytest -m 'not soak'

soak: venv
	$(BIN)/python -m pytest -m soak

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
