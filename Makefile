# Everything here needs nothing but Python, make and a package index; CONTRIBUTING.md says when to run what.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# Most of the matrix is waiting for workers and brokers: four processes keep two cores busy.
PROCESSES ?= 4
TESTS ?=

.PHONY: help demo test lint clean

help:
	@echo "make demo   watch a real worker turn a storm of duplicate events into one email each"
	@echo "make test   every test, on private servers that it starts itself"
	@echo "make lint   ruff, mypy and the import directions"
	@echo "make clean  remove what the others built"

$(READY): pyproject.toml constraints.txt
	@echo "== building $(VENV): once, for two minutes or so, in silence"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/python example_proj/demo.py

test: $(READY)
	scripts/servers
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv* build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
