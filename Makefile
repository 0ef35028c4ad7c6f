# make demo | test | lint | docs | bench: each makes .venv and installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small networks gain nothing from many threads, and two cores lose much to spinning ones.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export NO_MKDOCS_2_WARNING = 1

.PHONY: demo test test-all lint format types docs pages bench clean
.DEFAULT_GOAL := test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mien needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp an extra: a reinstall happens only when pyproject.toml has changed since.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/mien demo --out demo

# In two halves at once, of one thread each: most tests are small, and keep one core busy at best.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m "not slow" tests/claims tests/papers > $(VENV)/papers.log 2>&1 & papers=$$!; \
	failed=0; \
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/claims --ignore=tests/papers || failed=1; \
	wait $$papers || failed=1; \
	cat $(VENV)/papers.log; \
	exit $$failed

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict --quiet

pages: $(VENV)/.installed-dev
	$(BIN)/python scripts/pages.py

# facenet-pytorch asks for a torch, numpy and pillow of 2024; it runs with today's. Installed by itself and to the side, its
# wishes disturb nobody; without it, or if it fails, the benchmark says so and goes on.
$(VENV)/peers: | $(VENV)/.installed-bench
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ 'facenet-pytorch>=2.6'

bench: $(VENV)/.installed-bench | $(VENV)/peers
	PYTHONPATH=$(VENV)/peers $(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) site demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
