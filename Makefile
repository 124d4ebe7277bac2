# Neuron Auditor: every target works on a machine with only python3 (3.11+, venv, pip) and a network to the package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# One more than there are cores: a third of the tests' time is spent waiting for processes and pages.
TEST_WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))
SIDE_BY_SIDE := -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

# The tests start over a hundred interpreters; those that find no bytecode compile 350 modules anew, two seconds each.
export PYTHONDONTWRITEBYTECODE :=
COMPILE := $(BIN)/python -m compileall -q auditor worker app migrations

.PHONY: demo up test test-thorough test-slow quick coverage docs lint lock clean install architecture

install: $(VENV)/.runtime

demo: $(VENV)/.runtime  ## seed the sample, start worker and dashboard, audit both models (ARGS=--once: run, write ./reports, exit)
	$(BIN)/auditor demo $(ARGS)

up: $(VENV)/.runtime  ## worker and dashboard
	$(BIN)/auditor up $(ARGS)

test: $(VENV)/.dev  ## lint, types, architecture, tests
	$(MAKE) --no-print-directory lint
	$(COMPILE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not thorough" $(SIDE_BY_SIDE) $(ARGS)

quick: $(VENV)/.dev  ## types, layers, the contracts and the tests of what changed since main, in under a minute
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	@said=$$($(BIN)/lint-imports) || { echo "$$said"; exit 1; }
	$(BIN)/python -m tests.quick

coverage: $(VENV)/.dev  ## the tests again, and which lines they reach: build/coverage/index.html (ARGS: which tests)
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -m "not slow and not thorough and not browser" $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage html -q -d build/coverage
	$(BIN)/coverage report --format=total

test-thorough: $(VENV)/.dev  ## the same checks on larger networks and more services; .ci/run calls it
	$(COMPILE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "thorough and not slow" $(SIDE_BY_SIDE) $(ARGS)

test-slow: $(VENV)/.dev  ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow $(ARGS)

docs: $(VENV)/.docs  ## the documentation site in build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -d build/site

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(VENV)/.uv  ## resolve the dependencies anew
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --upgrade --no-header pyproject.toml --group build -o requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header -c requirements.txt pyproject.toml --group build --group dev -o requirements-dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header -c requirements-dev.txt pyproject.toml --group build --group docs -o requirements-docs.txt

architecture: $(VENV)/.dev  ## draw the wings of the code anew, docs/architecture.md
	$(BIN)/python docs/architecture.py

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

$(VENV)/.docs: $(VENV)/.runtime requirements-docs.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements-docs.txt
	touch $@
