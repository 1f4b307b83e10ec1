# `make demo` and `make test` need Python >= 3.11, make and a package index: no Redis, no Docker.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Tests mostly wait, for servers, leases and child processes: more workers than cores.
WORKERS ?= 4
UV     := $(shell command -v uv 2>/dev/null)

ifdef UV
  MAKE_VENV  = uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
  INSTALL    = VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet
else
  MAKE_VENV  = $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
  INSTALL    = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: help demo test check format bench chaos clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aioinfra needs Python >= 3.11; say make PYTHON=/path/to/python3.11")'
	$(MAKE_VENV)
	$(INSTALL) -e ".[embedded,web]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) -e ".[all]" --group dev
	@touch $@

demo: $(VENV)/.demo  ## run the demo service until Ctrl-C; ARGS="--seconds 20" ends it by itself
	$(BIN)/aioinfra demo $(ARGS)

test: $(VENV)/.dev  ## run the tests in parallel; ARGS="-k name" picks some, one after the other
	@# Tests start hundreds of processes, and each would compile the package anew.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest $(or $(ARGS),-n $(WORKERS) --dist worksteal)

check: $(VENV)/.dev  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

format: $(VENV)/.dev  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## run the benchmarks; ARGS="--quick" for a short look, ARGS="jobs --quick" beside the peers
	$(BIN)/$(if $(filter jobs cache local,$(firstword $(ARGS))),aioinfra bench,python -m benchmarks) $(ARGS)

chaos: $(VENV)/.dev  ## run the fault tests with many seeds; ARGS="--seeds 100 --minutes 60"; goes on where it ended
	$(BIN)/python -m tests.chaos $(ARGS)

clean:  ## remove what make made
	rm -rf $(VENV) .chaos .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
