# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or later: each sets up .venv first.

PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DETECTOR ?= retinanet
JOBS ?= 2
# Containers often set it. Without bytecode each of the hundred processes that the tests start takes twice as long.
unexport PYTHONDONTWRITEBYTECODE
# Whole files to each process: what a file's tests share is made once. In the order of their names, so that none of the
# longest comes last.
BY_FILE := --dist loadfile --no-loadscope-reorder
# What a second version of something is tested with: the fast tests of what depends on it.
FAST := -m "not slow" -p no:cacheprovider -n $(JOBS) --dist worksteal

# $(call detectron2,<python>,<requirements file>[,<more>]): the build without C++ sources that requirements/ describes.
# Without uv's cache, which does not see that a wheel was built with another detectron2-build.cfg.
detectron2 = DIST_EXTRA_CONFIG=$(CURDIR)/requirements/detectron2-build.cfg $(BIN)/uv pip install --quiet --python $(1) \
	--no-cache --no-deps --no-build-isolation --require-hashes -r requirements/$(2) $(3)

.PHONY: help setup demo test lint test-detectron2-0.5 test-lowest lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    fine-tune and audit a small detector on generated shapes (DETECTOR=faster-rcnn for the other one)"
	@echo "make test    all checks: lint, types, every test, the examples in docstrings, JOBS=2 at a time"
	@echo "make lint    ruff and mypy alone"
	@echo "make setup   .venv alone"
	@echo "make test-detectron2-0.5   the fast tests of detectors and engines with Detectron2 0.5 instead of 0.6"
	@echo "make test-lowest           fast tests with the lowest supported version of everything, in $(LOWEST)"
	@echo "make lock    write requirements/lock.txt and lowest.txt again from pyproject.toml"
	@echo "make clean   remove the environments and what the tools cached"

demo: $(READY)
	$(BIN)/odsg demo --detector $(DETECTOR)

test: lint
	$(BIN)/python -m pytest -n $(JOBS) $(BY_FILE)

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
	# An environment made before Detectron2 0.6 was the default gives way to it.
	$(BIN)/uv pip uninstall --quiet --python $(BIN)/python detectron2-cdo
	$(BIN)/python -c 'import detectron2' 2> /dev/null || $(call detectron2,$(BIN)/python,detectron2.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(READY)

test-detectron2-0.5: $(READY)
	test -d $(VENV)/detectron2-0.5 || $(call detectron2,$(BIN)/python,detectron2-0.5.txt,--target $(VENV)/detectron2-0.5)
	PYTHONPATH=$(VENV)/detectron2-0.5 $(BIN)/python -c 'import odsg_lightning, detectron2; assert detectron2.__version__ == "0.5"'
	PYTHONPATH=$(VENV)/detectron2-0.5 $(BIN)/python -m pytest $(FAST) tests/detectors tests/training

test-lowest: $(READY)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(BIN)/uv pip sync --quiet --python $(LOWEST)/bin/python --require-hashes requirements/lowest.txt
	$(call detectron2,$(LOWEST)/bin/python,detectron2.txt)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --no-build-isolation --editable .
	$(LOWEST)/bin/python -m pytest $(FAST) tests/saliency tests/occlusion tests/metrics tests/audit tests/records tests/gate tests/viz tests/data

lock: $(READY)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --constraints requirements/constraints.in --output-file requirements/lock.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --resolution lowest-direct --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --extra detectron2 --extra test --extra build --extra fast-map \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --constraints requirements/lowest.in --output-file requirements/lowest.txt pyproject.toml

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
