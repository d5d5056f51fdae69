# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or later: each sets up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DETECTOR ?= retinanet
JOBS ?= 2

.PHONY: help setup demo test lint lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    fine-tune and audit a small detector on generated shapes (DETECTOR=faster-rcnn for the other one)"
	@echo "make test    all checks: lint, types, every test, JOBS=2 at a time"
	@echo "make lint    ruff and mypy alone"
	@echo "make setup   .venv alone"
	@echo "make lock    write requirements/lock.txt anew from pyproject.toml"
	@echo "make clean   remove .venv and what the tools cached"

demo: $(READY)
	$(BIN)/odsg demo --detector $(DETECTOR)

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# uv, because pip from 26.3 on refuses the Detectron2 distribution; it comes from PyPI into .venv as well.
# A Detectron2 that is already in .venv (an official build, or one from source) is used as it is.
$(READY): pyproject.toml $(wildcard requirements/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Expected Python 3.11 or later, but $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/lock.txt
	$(BIN)/python -c 'import detectron2' 2> /dev/null || \
	  DIST_EXTRA_CONFIG=$(CURDIR)/requirements/detectron2-build.cfg $(BIN)/uv pip install --quiet --python $(BIN)/python \
	    --no-deps --no-build-isolation --require-hashes -r requirements/detectron2.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(READY)

lock: $(READY)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --constraints requirements/constraints.in --output-file requirements/lock.txt pyproject.toml

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
