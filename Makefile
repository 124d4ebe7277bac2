# Neuron Auditor: every target works on a machine with only python3 (3.11+, venv, pip) and a network to the package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# One more than there are cores: a third of the tests' time is spent waiting for processes and pages.
TEST_WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))

.PHONY: demo up test test-slow lint lock clean install

install: $(VENV)/.runtime

demo: $(VENV)/.runtime  ## seed the sample, start worker and dashboard, audit both models (ARGS=--once: run, write ./reports, exit)
	$(BIN)/auditor demo $(ARGS)

up: $(VENV)/.runtime  ## worker and dashboard
	$(BIN)/auditor up $(ARGS)

test: $(VENV)/.dev  ## lint, types, architecture, tests
	$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(VENV)/.uv  ## resolve the dependencies anew
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --upgrade --no-header pyproject.toml --group build -o requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header -c requirements.txt pyproject.toml --group build --group dev -o requirements-dev.txt

clean:
	rm -rf $(VENV)

$(VENV)/.uv: requirements-uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Neuron Auditor needs Python 3.11 or later, this is %s: name one with make PYTHON=..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	touch $@

$(VENV)/.runtime: $(VENV)/.uv requirements.txt pyproject.toml
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements-dev.txt
	touch $@
