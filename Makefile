# The only task runner. `make` alone prints what there is.
#
# Every path is relative, so that a checkout may lie anywhere, also in a folder
# with a space in its name.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(BIN)/python
READY  := $(VENV)/.ready
LOCKS  := requirements/kme.txt requirements/qkd-sim.txt requirements/dev.txt

ARGS ?=
T    ?= tests

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ First steps

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nOptions are passed on with ARGS, for instance: make demo ARGS="--json --seed 7"\n'

.PHONY: setup
setup: $(READY) ## Virtual environment in .venv, from the hash-pinned requirements

$(READY): requirements/dev.txt pyproject.toml qkd-sim/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "setup: Python 3.11 or newer is needed; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "setup: this Python lacks its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable . --editable qkd-sim
	$(RUN) -m qkd_sim warm
	@touch $@

.PHONY: demo
demo: $(READY) ## The main job once, without Docker: photons to one key in two SAEs' hands
	@$(RUN) -m kme demo $(ARGS)

.PHONY: serve
serve: $(READY) ## Two KMEs and a running simulated link, until Ctrl-C; prints the curl lines
	@exec $(RUN) -m kme serve $(ARGS)

##@ Checks

.PHONY: test
test: $(READY) ## The test suite; one part of it: make test T=tests/unit/supply
	$(RUN) -m pytest -n auto --dist loadscope $(T) $(ARGS)

.PHONY: check
check: format-check lint type arch test ## Format, lint, types, import contracts, then the tests

.PHONY: fmt
fmt: $(READY) ## Format the code
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

.PHONY: format-check
format-check: $(READY)
	$(RUN) -m ruff format --check .

.PHONY: lint
lint: $(READY) ## Lint the code, its docstrings and its spelling
	$(RUN) -m ruff check .
	$(RUN) -m numpydoc lint qkd-sim/src/qkd_sim/*.py qkd-sim/src/qkd_sim/*/*.py src/kme/supply/*.py
	$(RUN) -m codespell_lib .

.PHONY: type
type: $(READY) ## Check the types (mypy --strict)
	$(RUN) -m mypy

.PHONY: arch
arch: $(READY) ## Check that imports go one way (import-linter)
	$(BIN)/lint-imports

.PHONY: cov
cov: $(READY) ## Coverage with branches; the page is htmlcov/index.html
	$(RUN) -m coverage erase
	$(RUN) -m pytest -n auto --dist loadscope $(T) --cov --cov-report=
	$(RUN) -m coverage html --quiet
	$(RUN) -m coverage report

##@ Upkeep

.PHONY: lock
lock: $(READY) ## Renew the hash-pinned requirements
	$(RUN) -m uv pip compile $(LOCK_OPTIONS) pyproject.toml -o requirements/kme.txt
	$(RUN) -m uv pip compile $(LOCK_OPTIONS) --extra appliance pyproject.toml -o requirements/appliance.txt
	$(RUN) -m uv pip compile $(LOCK_OPTIONS) pyproject.toml qkd-sim/pyproject.toml -o requirements/qkd-sim.txt
	$(RUN) -m uv pip compile $(LOCK_OPTIONS) --group pyproject.toml:dev --group pyproject.toml:build \
	  --extra appliance pyproject.toml qkd-sim/pyproject.toml -o requirements/dev.txt

# The project itself is installed from the checkout and is never looked up by name.
LOCK_OPTIONS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-emit-package qkd-kme --no-emit-package qkd-sim --custom-compile-command "make lock"

.PHONY: docs
docs: $(READY) ## Regenerate docs/configuration.md from the settings
	$(RUN) -m kme check-config --describe > docs/configuration.md

.PHONY: clean
clean: ## Remove the virtual environment, caches and reports
	rm -rf $(VENV) .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src qkd-sim tests -name __pycache__ -type d -prune -exec rm -rf {} +
