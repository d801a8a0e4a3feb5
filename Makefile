# make train   environment, installation, then one training run   [BACKEND= DATASET= ARGS=]
# make test    environment, then the fast suite over core and every backend
# make test-cpus   the numerical tests as older CPUs and a busy machine run them   [ARGS_TEST="avx2 lowest busy"]
# make kills   kill -9 at random moments, go on, compare   [N=200]
# make fuzz    damaged inputs of every format   [N=2000 ARGS_FUZZ=]
# make against    the results of an earlier commit, bit for bit   COMMIT= [ARGS_AGAINST="--datasets pom"]
# make lint    ruff and mypy        make test-slow   the long studies        make clean   remove .venv
SHELL := /bin/bash
BACKEND ?= mindspore
DATASET ?= pom
ARGS ?= $(if $(filter pom,$(DATASET)),--data synthetic --config configs/pom_synthetic.yaml,--data synthetic)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES = setup.py constraints.txt

.PHONY: train test test-cpus test-cpus-short test-slow kills fuzz against lint docs clean
.SECONDARY:

train: $(VENV)/.has-$(BACKEND)
	$(BIN)/python -m backends.$(BACKEND).train --dataset $(DATASET) $(ARGS)

test: $(VENV)/.has-all $(VENV)/.has-dev
	$(BIN)/python -m pytest $(ARGS_TEST)

test-cpus: $(VENV)/.has-all $(VENV)/.has-dev
	$(BIN)/python -m tests.cpus $(ARGS_TEST)

test-cpus-short: $(VENV)/.has-all $(VENV)/.has-dev
	$(BIN)/python -m tests.cpus --short $(ARGS_TEST)

test-slow: $(VENV)/.has-all $(VENV)/.has-dev
	$(BIN)/python -m pytest -m slow $(ARGS_TEST)

kills: $(VENV)/.has-all $(VENV)/.has-dev
	$(BIN)/python -m tests.kills --kills $(or $(N),200)

fuzz: $(VENV)/.has-dev
	$(BIN)/python -m tests.fuzz --inputs $(or $(N),2000) $(ARGS_FUZZ)

against: $(VENV)/.has-all $(VENV)/.has-dev
	$(BIN)/python -m tests.against $(COMMIT) $(ARGS_AGAINST)

lint: $(VENV)/.has-dev
	$(BIN)/ruff check . && $(BIN)/mypy

docs: $(VENV)/.has-dev
	$(BIN)/python -m core.reference docs/configuration.md

$(VENV)/.has-%: $(VENV)/.made $(SOURCES)
	@echo "installing .[$*] into $(VENV)"
	@$(PIP) -e '.[$*]'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else "error: Python %d.%d is not supported; make PYTHON=python3.11 (3.10, 3.11 or 3.12)" % v[:2])'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV)
