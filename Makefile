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
T    ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ First steps

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
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

##@ The appliance (Docker); a site's settings stand in .env, or in another folder's: SITE=DIR

APPLIANCE = @SITE="$(SITE)" YES="$(YES)" RENEW="$(RENEW)" REPLACE="$(REPLACE)" scripts/appliance
SITE    ?= .
YES     ?=
RENEW   ?=
REPLACE ?=

.PHONY: check-config
check-config: ## Check the settings in .env
	$(APPLIANCE) check-config

.PHONY: images
images: ## Build the images of our own services
	@scripts/build-images

.PHONY: offline-images
offline-images: ## Make the base, Vault and Traefik images where no image registry is reachable
	@mkdir -p build
	@scripts/offline-images > build/offline-images.env; cat build/offline-images.env

.PHONY: init
init: ## First start: certificates, Vault, first keys; again, it completes and renews
	$(APPLIANCE) init

.PHONY: shares
shares: ## Take the offline shares of Vault's unseal key out, for people to keep
	$(APPLIANCE) shares

.PHONY: connect
connect: ## Write this KME's bundle; trust the other KME's: make connect PEER=FILE (anew: REPLACE=yes)
	$(APPLIANCE) connect $(if $(PEER),"$(PEER)")

.PHONY: disconnect
disconnect: ## Trust another KME no more: make disconnect KME=...
	$(APPLIANCE) disconnect "$(KME)"

.PHONY: retire
retire: ## A KME is gone for good: burn all keys shared with it, trust it no more: make retire KME=...
	$(APPLIANCE) retire "$(KME)"

.PHONY: certs
certs: ## Make certauth's certificates that are missing; show all, with fingerprints and end dates
	$(APPLIANCE) certs

.PHONY: install
install: ## Sign what Vault's authorities asked for, and install the chains (part of make init)
	$(APPLIANCE) install

.PHONY: ctest
ctest: ## The simulated link once in its container: are both sides' final keys equal?
	$(APPLIANCE) ctest

.PHONY: up
up: ## Start the KME and wait until it serves
	$(APPLIANCE) up

.PHONY: down
down: ## Stop it; nothing is lost
	$(APPLIANCE) down

.PHONY: log
log: ## What the services say; one of them: make log S=rest
	$(APPLIANCE) log $(S)

.PHONY: ps
ps: ## Which containers run, and how they are
	$(APPLIANCE) ps

.PHONY: status
status: ## Are the other KMEs heard? Which alarms were there?
	$(APPLIANCE) status

.PHONY: transfer
transfer: ## Bring the other KME its final keys: make transfer HOST=USER@HOST:DIR
	$(APPLIANCE) transfer "$(HOST)"

.PHONY: notify
notify: ## Have the final keys taken in that lie in epochs/in
	$(APPLIANCE) notify

.PHONY: refill
refill: ## More key from the simulated link, for both KMEs: make refill HOST=USER@HOST:DIR
	$(APPLIANCE) refill "$(HOST)"

.PHONY: keys
keys: ## How much key is in stock, at both ends
	$(APPLIANCE) keys

.PHONY: compare
compare: ## Is the stock of both ends equal?
	$(APPLIANCE) compare

.PHONY: key
key: ## Fetch one key at both ends and compare
	@SITE="$(SITE)" PEER_SITE="$(PEER_SITE)" scripts/get-key $(ARGS)

.PHONY: sae
sae: ## Issue an SAE's certificate: make sae NAME=... (one more: RENEW=yes)
	$(APPLIANCE) sae "$(NAME)"

.PHONY: saes
saes: ## Which SAEs are registered here
	$(APPLIANCE) saes

.PHONY: revoke-sae
revoke-sae: ## Revoke an SAE's certificates: make revoke-sae NAME=...
	$(APPLIANCE) revoke-sae "$(NAME)"

.PHONY: inspect
inspect: ## What an operator may see in Vault: counts and digests, never key
	$(APPLIANCE) inspect

.PHONY: rotate-audit
rotate-audit: ## Begin a new file of Vault's audit log
	$(APPLIANCE) rotate-audit

.PHONY: backup
backup: ## Copy all that Vault holds into a file, while it runs: make backup OUT=FILE
	$(APPLIANCE) backup "$(OUT)"

.PHONY: restore
restore: ## Put Vault back to such a file, before make up: make restore FROM=FILE; after asking
	$(APPLIANCE) restore "$(FROM)"

.PHONY: clear
clear: ## Drop the keys at both ends, after asking
	$(APPLIANCE) clear

.PHONY: restored
restored: ## The volumes were put back to an older copy: say so, before make up; after asking
	$(APPLIANCE) restored

.PHONY: clean
clean: ## Remove everything made for this KME: certificates, Vault, keys; after asking
	$(APPLIANCE) clean

.PHONY: two-kmes
two-kmes: ## Two appliances on this host, from nothing to one key compared
	@scripts/two-kmes

##@ Checks

.PHONY: test
test: $(READY) ## The test suite; one part of it: make test T=tests/unit/supply
	$(RUN) -m pytest -n auto --dist loadscope $(T) $(ARGS)

.PHONY: simulate
simulate: $(READY) ## The whole system in simulated worlds: make simulate SEEDS=10000, or replay one: SEED=n
	@PYTHONPATH=tests:tests/support $(RUN) -m simulate \
	  $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

SEEDS ?= 1000
SEED  ?=

.PHONY: test-vault
test-vault: $(READY) ## Tests that need a real Vault, Traefik or sshd
	scripts/build-vault
	$(RUN) -m pytest tests/integration $(ARGS)

.PHONY: test-system
test-system: $(READY) ## Tests of two appliances in Docker (make two-kmes starts them)
	$(RUN) -m pytest tests/appliance $(ARGS)

.PHONY: test-faults
test-faults: $(READY) ## Real KMEs killed and cut off under load: longer with KME_FAULT_SECONDS=60
	scripts/build-vault
	$(RUN) -m pytest tests/faults -rP $(ARGS)

.PHONY: bench
bench: $(READY) ## Figures of the two appliances that `make two-kmes` started
	$(RUN) benchmarks/appliance.py $(ARGS)

.PHONY: bench-supply
bench-supply: $(READY) ## Keys per second of two KMEs on this host (of the appliances: ARGS=--appliance)
	$(RUN) benchmarks/supply.py $(ARGS)

.PHONY: flame
flame: $(READY) ## Draw where the time goes, into docs/performance (of the appliances: ARGS=--appliance)
	$(RUN) benchmarks/flame.py $(ARGS)

.PHONY: bench-flat
bench-flat: $(READY) ## Cost per key with few and many blocks in stock: ARGS="--blocks 1000,1000000"
	$(RUN) benchmarks/flat.py $(ARGS)

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
	$(RUN) -m uv pip compile $(LOCK_OPTIONS) --group pyproject.toml:build -o requirements/build.txt
	$(RUN) -m uv pip compile $(LOCK_OPTIONS) --group pyproject.toml:dev --group pyproject.toml:build \
	  --extra appliance pyproject.toml qkd-sim/pyproject.toml -o requirements/dev.txt

# The project itself is installed from the checkout and is never looked up by name.
LOCK_OPTIONS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-emit-package qkd-kme --no-emit-package qkd-sim --custom-compile-command "make lock"

.PHONY: docs
docs: $(READY) ## Regenerate docs/configuration.md from the settings
	$(RUN) -m kme check-config --describe > docs/configuration.md

.PHONY: distclean
distclean: ## Remove the virtual environment, caches, reports and downloaded wheels
	rm -rf $(VENV) .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis build/wheels
	find src qkd-sim tests -name __pycache__ -type d -prune -exec rm -rf {} +
