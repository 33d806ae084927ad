# Everything here needs nothing but Python, make and a package index; CONTRIBUTING.md says when to run what.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# Half of the tests wait for workers and brokers: six processes keep two cores busy.
PROCESSES ?= 6
TESTS ?= tests
PYTEST = $(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --no-loadscope-reorder

.PHONY: help demo quick test test-all lint clean

help:
	@echo "make demo      watch a real worker turn a storm of duplicate events into one email each"
	@echo "make quick     what needs no server and no process; after each change: a minute and a half"
	@echo "make test      quick's tests, real servers and workers, and 8 of the matrix's 32 places;"
	@echo "               before each commit: about seven minutes on two quiet cores"
	@echo "make test-all  every test at its full size; before a release and for a change of the ledger: 22 minutes"
	@echo "make lint      ruff, mypy and the import directions"
	@echo "make clean     remove what the others built"
	@echo
	@echo "A part: make test TESTS=tests/rq    the same places of the matrix again: make test MATRIX_SEED=2"
	@echo "One place of the matrix: make test-all TESTS='tests/matrix -k redis-postgres-prefork'"

$(READY): pyproject.toml constraints.txt
	@echo "== building $(VENV): once, for two minutes or so, in silence"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/python example_proj/demo.py

quick: $(READY)
	$(PYTEST) --tier=quick $(TESTS)

test: $(READY)
	scripts/servers
	$(PYTEST) --tier=test $(TESTS)

test-all: $(READY)
	scripts/servers
	$(PYTEST) --tier=all --timeout=600 $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv* build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
