# make serve: everything a demo needs, then the server on 127.0.0.1:8000.   make test: the same set-up, then the whole suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.PHONY: serve test lint setup lock
serve: setup
	$(BIN)/followup up

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.ready

# A plain `pip install torch` takes several GB of CUDA. Where pip knows a local folder with the CPU wheel
# (PIP_FIND_LINKS), take that one; elsewhere ask for the CPU build.
$(VENV)/.ready: requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --no-deps -r requirements-dev.lock
	if $(BIN)/python -m pip install --quiet --no-index --no-deps --dry-run $(TORCH) 2>/dev/null; then \
	  $(BIN)/uv pip install --python $(BIN)/python $${PIP_FIND_LINKS:+--find-links "$$PIP_FIND_LINKS"} $(TORCH); \
	else \
	  $(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu $(TORCH); \
	fi
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	touch $@

# Locks carry hashes and no index address, so that they work behind any mirror. The first is what serving needs and what the
# image installs; the second adds training, the embedded servers and the tests, at the same versions.
COMPILE := $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --python-version 3.11 \
  --custom-compile-command 'make lock' --quiet
lock:
	$(COMPILE) --upgrade -o requirements.lock
	$(COMPILE) --all-extras --constraints requirements.lock -o requirements-dev.lock
