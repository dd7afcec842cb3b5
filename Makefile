# `make` alone lists the targets. Each sets up what it needs in .venv, with uv
# where there is one and with venv and pip otherwise.

VENV := .venv
BIN := $(VENV)/bin
# What the demonstration needs, and all: each its own stamp, in the one environment.
DEMO := $(VENV)/.ssmlin-demo
STAMP := $(VENV)/.ssmlin-installed
$(DEMO): EXTRAS := cli,compare
$(STAMP): EXTRAS := dev

# Throw-away environments, of uv and the build backend and of other versions of the libraries.
ENVS := .envs
TOOLS := $(ENVS)/tools/bin

PYTHON ?=
UV ?= $(shell command -v uv 2>/dev/null)
WORKERS ?= 2
ARGS ?=
PYTEST = MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

IS_SUPPORTED := import sys; sys.exit(sys.version_info < (3, 12))

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-slow test-all calibration coverage test-oldest test-newest test-sktime lint format docs build check-wheel bench install install-demo clean

help: ## list the targets
	@echo "usage: make TARGET [ARGS='more arguments'] [PYTHON=python3.12] [WORKERS=2]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO) ## set everything up and run the demonstration
	$(BIN)/ssmlin demo $(ARGS)

test: $(STAMP) ## set everything up, run the tests and the doctests
	SSMLIN_TYPES=0 $(PYTEST) $(ARGS)

test-quick: $(STAMP) ## run the tests that take seconds
	$(PYTEST) -m 'quick and not slow and not calibration' $(ARGS)

test-slow: $(STAMP) ## run what `make test` leaves out, and execute the annotations
	$(PYTEST) -m '(slow or quick) and not calibration' $(ARGS)

test-all: test test-slow ## run all tests but the calibration

calibration: $(STAMP) ## run the long calibration tests
	$(PYTEST) -m calibration $(ARGS)

coverage: $(STAMP) ## say which lines and branches `make test` runs, then `make test-all`
	SSMLIN_TYPES=0 $(PYTEST) --cov $(ARGS)
	$(PYTEST) -m '(slow or quick) and not calibration' --cov --cov-append $(ARGS)

# The tests that take seconds in an environment of its own, made with these options of uv.
define quick_with
	$(TOOLS)/uv venv --quiet --clear --python $(BIN)/python $(ENVS)/$(1)
	$(TOOLS)/uv pip install --quiet --python $(ENVS)/$(1)/bin/python $(2) -e '.[test]'
	$(TOOLS)/uv pip list --quiet --python $(ENVS)/$(1)/bin/python
	MPLBACKEND=Agg $(ENVS)/$(1)/bin/python -m pytest -n $(WORKERS) --dist worksteal \
		-m 'quick and not slow and not calibration' $(ARGS)
endef

test-oldest: $(TOOLS) ## run the quick tests with the oldest libraries that pyproject.toml allows
	$(call quick_with,oldest,--resolution lowest-direct)

test-newest: $(TOOLS) ## run them with the newest, without constraints.txt
	$(call quick_with,newest,--upgrade)

# sktime allows new versions of pandas months after they are there, so it has another pandas.
# Annotations are not executed: sktime reads the signature of the constructor.
test-sktime: $(TOOLS) ## run sktime's own checks of the forecaster that is one of theirs
	grep -v '^pandas==' constraints.txt > $(ENVS)/sktime.txt
	$(TOOLS)/uv venv --quiet --clear --python $(BIN)/python $(ENVS)/sktime
	$(TOOLS)/uv pip install --quiet --python $(ENVS)/sktime/bin/python -c $(ENVS)/sktime.txt \
		-e '.[sktime]' beartype pytest
	SSMLIN_TYPES=0 $(ENVS)/sktime/bin/python -m pytest -o addopts=--doctest-modules \
		tests/forecasting/test_sktime.py ssmlin/sktime.py $(ARGS)

lint: $(STAMP) ## check the format, the style and the types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format the code and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(STAMP) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

build: $(TOOLS) ## make the wheel and the source distribution in dist/
	rm -rf dist
	$(TOOLS)/hatchling build -d dist

check-wheel: build ## try the wheel in a bare environment, with the core alone and with [cli]
	PYTHON=$(BIN)/python .ci/check-wheel dist/*.whl

bench: $(STAMP) ## run the benchmarks
	$(BIN)/ssmlin bench $(ARGS)

install: $(STAMP) ## set everything up in .venv

install-demo: $(DEMO) ## set up in .venv what the demonstration needs

clean: ## remove what was built (but not .venv)
	rm -rf site build dist ssmlin-demo $(ENVS) .coverage htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(TOOLS): | $(STAMP)
	$(BIN)/python -m venv --clear $(ENVS)/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check hatchling uv

# Installed anew only when one of these files is newer than the last installation.
$(DEMO) $(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
		found=; \
		for python in $(if $(PYTHON),"$(PYTHON)",python3.12 python3 python python3.13 python3.14); do \
			if "$$python" -c '$(IS_SUPPORTED)' >/dev/null 2>&1; then \
				found=$$("$$python" -c 'import sys; print(sys.executable)'); break; \
			fi; \
		done; \
		if [ -z "$$found" ] && { [ -z "$(UV)" ] || [ -n "$(PYTHON)" ]; }; then \
			echo "ssmlin needs Python 3.12 or newer, and $(or $(PYTHON),python3) is" \
				"$$("$(or $(PYTHON),python3)" --version 2>&1 || true)." >&2; \
			echo "Install Python 3.12 or uv, or name an interpreter: make PYTHON=/path/to/python3.12 ..." >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $${found:-the Python 3.12 that uv provides}"; \
		if [ -n "$(UV)" ]; then \
			"$(UV)" venv --python "$${found:-3.12}" $(VENV); \
		else \
			"$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
		fi; \
	fi; \
	if ! $(BIN)/python -c '$(IS_SUPPORTED)'; then \
		echo "ssmlin needs Python 3.12 or newer, and $(VENV) has $$($(BIN)/python --version)." >&2; \
		echo "Remove $(VENV) and run make again." >&2; \
		exit 1; \
	fi; \
	echo "Installing ssmlin and what it needs in $(VENV)"; \
	if [ -n "$(UV)" ]; then \
		"$(UV)" pip install --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade; \
		$(BIN)/python -m pip install --disable-pip-version-check --no-compile \
			-c constraints.txt -e '.[$(EXTRAS)]'; \
	fi; \
	echo "Compiling to bytecode, on all cores and without the tests of other packages"; \
	$(BIN)/python -W ignore -m compileall -q -q -j 0 -x '/tests/' $(VENV)/lib || true; \
	touch $(DEMO) $@
