# Sets the suite up in .venv and runs it; nothing outside this folder is touched. `make` lists the targets.
#
# A CUDA build of torch is what PyPI serves for Linux. On a machine without a GPU, PyTorch's CPU index has a much smaller
# download of the same version: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# --no-compile: Python compiles what is imported, when it is imported, which is a small part of what is installed.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile

# Every stage and test may start processes, which would all compile what they import where this is set.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 make ...   uses another interpreter (>= 3.11; default: python3)"

demo: $(VENV)/.installed ## set up from nothing, run the quickstart sweep on the CPU, write its report
	$(BIN)/kto-bench -m +sweeps=quickstart
	$(BIN)/kto-bench-report quickstart
	@echo "== the report: file://$(CURDIR)/reports/quickstart/index.html"

test: $(VENV)/.installed-test ## set up from nothing and run the tests
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.installed-test ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

format: $(VENV)/.installed-test ## let ruff format the code and sort its imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: ## resolve pyproject.toml afresh in a new .venv and rewrite constraints.txt
	rm -rf $(VENV)
	$(MAKE) $(BIN)/python
	$(INSTALL) -e '.[test]'
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip \
		| sed -E '/^(#|nvidia-|triton==|cuda-)/d; s/\+.*//'; } > constraints.new
	mv constraints.new constraints.txt
	touch $(VENV)/.installed $(VENV)/.installed-test

clean: ## remove .venv and caches; results and artifacts stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "kto_bench needs Python >= 3.11; '$(PYTHON)' is $$($(PYTHON) -V 2>&1 || true)." \
			"Choose another: PYTHON=/path/to/python3.12 make ..." >&2; exit 1; }
	@echo "== creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "could not create $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# Each stamp says that the versions in the two files are installed; the test extra includes everything the demo needs.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing kto_bench and its pinned dependencies into $(VENV) (minutes, the first time)"
	$(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing kto_bench, its pinned dependencies and the test tools into $(VENV) (minutes, the first time)"
	$(INSTALL) -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed
