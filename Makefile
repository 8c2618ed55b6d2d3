# Everything runs from .venv in this checkout, which the first target that needs it creates.
.DEFAULT_GOAL := help
.PHONY: help demo test nightly faults chaos failover mutants bench peers audit check check-deploy format openapi lock build clean
.DELETE_ON_ERROR:

# No cache outside the checkout: HOME may be read-only.
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
# Nor beside the sources; but without any, each process that a test starts compiles the libraries.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/bytecode
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
READY := .venv/.bootstrapped

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(READY) ## Run the demonstration on a private PostgreSQL (ARGS="--seconds 10 --json")
	@$(BIN)/orchestrator demo $(ARGS)

test: $(READY) ## Run the tests (ARGS="-k name")
	@$(BIN)/pytest -n 2 --ignore tests/browser $(ARGS)

.PHONY: browser screens
browser: $(READY) ## Drive the dashboard in the system's Chromium (two minutes; ARGS="-k name")
	@$(BIN)/pytest tests/browser $(ARGS)

screens: $(READY) ## Take the pictures of docs/screens anew
	@SCREENS=docs/screens $(BIN)/pytest tests/browser/test_screens.py $(ARGS)

nightly: $(READY) ## Draw far more examples, and play 200 more schedules of chaos (hours; ARGS="tests/unit")
	@HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -n 2 $(or $(ARGS),tests/unit tests/stateful tests/hostile/test_fuzz.py)
	@$(if $(ARGS),,HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -n 2 -m faults tests/integration/test_http_described.py)
	@$(if $(ARGS),,$(BIN)/python -m tests.faults.chaos --resume --count 200)

faults: $(READY) ## Run the long tests of faults, with a few chaos schedules (4 minutes)
	@$(BIN)/pytest -m faults -n 2 --dist loadfile $(or $(ARGS),tests)

chaos: $(READY) ## Play the chaos schedule SEED=n, or N=200 more where docs/chaos.tsv ends
	@$(BIN)/python -m tests.faults.chaos $(if $(SEED),--seed $(SEED),--resume --count $(or $(N),20)) $(ARGS)

failover: $(READY) ## Strike 320 leaders with the default settings, write docs/failover.json (25 minutes)
	@$(BIN)/python -m tests.faults.chaos.failover $(ARGS)

mutants: $(READY) ## Plant known mistakes; the tests must notice each (ARGS="--only NAME")
	@$(BIN)/python scripts/mutants.py $(ARGS)

.PHONY: interleavings
interleavings: $(READY) ## Play every order of what must not disturb one another, and write its page
	@$(BIN)/python scripts/interleavings.py $(ARGS)

.PHONY: model
model: $(READY) ## Check the model of docs/model in every state (ARGS="--quick")
	@$(BIN)/python scripts/model.py $(ARGS)

bench: $(READY) ## Measure speed and costs beside other queues (an hour; ARGS="--quick --only drain")
	@$(BIN)/python -m benchmarks all $(ARGS)

peers: $(READY) ## Install the queues that bench measures beside ours, into .cache/peers
	@scripts/peers.sh $(ARGS)

audit: $(READY) ## Ask the advisory service about the locked dependencies (needs a network)
	@$(BIN)/python scripts/audit.py $(ARGS)

check: $(READY) ## Lint, check formatting, types, layers and migration numbers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir .cache/import-linter
	@$(BIN)/python scripts/check_migrations.py

check-deploy: $(READY) ## Check what deploy/ holds: image, systemd units, Kubernetes manifests
	@$(BIN)/python scripts/check_deploy.py

format: $(READY) ## Format the code and fix what can be fixed
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

openapi: $(READY) ## Write docs/openapi.json, the description of the HTTP API
	@$(BIN)/python -m orchestrator.server.openapi > docs/openapi.json

lock: $(READY) ## Resolve the dependencies again, to the newest allowed
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	    --custom-compile-command "make lock" pyproject.toml --all-extras --group dev -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" pyproject.toml --all-extras -c requirements.lock \
	    -o deploy/requirements.lock
	@echo uv | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --custom-compile-command "make lock" - -o scripts/uv.txt

build: $(READY) ## Build the sdist and the wheel into dist/
	@$(BIN)/python -m build --no-isolation

clean: ## Remove everything that was built or cached
	@rm -rf .venv .cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Again when the lock or the project's own metadata changed.
$(READY): requirements.lock scripts/uv.txt scripts/bootstrap.sh pyproject.toml
	@scripts/bootstrap.sh
