# Two commands for a fresh Debian machine with Python 3.11: `make demo` and `make test`. Each does its own set-up, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Peers that the tests and the demo talk to, all from Debian.
PEERS  := orthanc orthanc-dicomweb orthanc-webviewer dcmtk dicom3tools postgresql pgbouncer chromium prometheus zsh fish
# A process takes whole files, in their order: the acceptance tests, which take longest, come first.
SHARED := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
DEMO   ?=
BENCH  ?=

.DEFAULT_GOAL := help
.PHONY: help setup peers demo test check format bench test-systemd viewer-pictures install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The demonstration needs no tool of development and no Ray.
$(VENV)/lab: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[lab,web]"
	touch $@

$(VENV)/ready: $(VENV)/lab
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,lab,scale,web]"
	touch $@

setup: $(VENV)/ready ## make the virtual environment, pinned (seconds when it is there)

peers: ## install the Debian peers where they are missing and apt may be used
	@deploy/peers.sh $(PEERS)

demo: $(VENV)/lab peers ## 320 phantom studies travel archive -> radclipd -> archive; a few are labelled, and what that was worth (DEMO="--hold")
	$(BIN)/radclipd demo $(DEMO)

check: setup ## format, lint, types, boundaries, names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.names

test: setup peers check ## all checks, then all tests that take no more than minutes, on several processors (PYTEST="-n 0": in one)
	$(BIN)/python -m pytest -m "not slow and not systemd and not gpu" $(SHARED) $(PYTEST)

test-systemd: setup peers ## the installed service in a really booted systemd (root; Debian's systemd-container and debootstrap)
	@deploy/peers.sh systemd-container debootstrap
	$(BIN)/python -m tests.builders.machine
	$(BIN)/python -m pytest -m systemd $(PYTEST)

bench: setup peers ## every benchmark side by side with its peers, as JSON, table and plot (BENCH="ingest scoring": only these)
	$(BIN)/python -m tests.benchmarks.performance $(BENCH)

viewer-pictures: setup peers ## the pictures of OHIF and of Orthanc's viewer in the documentation, from a new run
	VIEWER_PICTURES=deploy/docs/pictures VIEWER_STUDIES=28 $(BIN)/python -m pytest tests/acceptance/test_viewers.py

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: ## install as a systemd service under /opt/radclipd (root; DESTDIR is honoured)
	deploy/install.sh

clean: ## remove the virtual environment and what tools left
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
