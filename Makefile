# Everything runs in .venv, made on first use by $(PYTHON) with the exact versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
EXTRAS := .[cli,embedded,flower,metrics,dev]

# Tests start hundreds of processes: where bytecode is not kept, each of them would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help compat demo bench pictures vendor test unit chaos check coverage format format-check lint types constraints clean

help:  ## print these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '%-14s%s\n' "$$name" "$$text"; done

demo: $(READY)  ## run the main flow on an embedded server and real workers; KEEP=1 leaves Flower open
	@$(BIN)/python -m workers.demo $(if $(KEEP),--keep)

# Most tests wait for other processes most of the time, so that five at once keep two cores busy.
PROCESSES ?= 5

test: $(READY)  ## run every test
	@$(BIN)/python -m pytest --collect-only --quiet >/dev/null # writes what each process would compile anew
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --no-loadscope-reorder

unit: $(READY)  ## run the tests that need no server, the scripts on fakeredis
	$(BIN)/python -m pytest tests/unit tests/integration/test_scripts_*.py --fake-server -n 2 --dist loadscope

chaos: $(READY)  ## put the long load under every fault, for minutes; SEED=<n> strikes as that seed did
	$(BIN)/python -m tests.chaos.full_load $(if $(SEED),--seed $(SEED))
	SEED=$(SEED) $(BIN)/python -m pytest -m chaos_long -n 3 --dist loadscope --no-loadscope-reorder

compat: $(READY)  ## try the deployments of docs/deployments.md and write its table, about 20 minutes; needs redis-server, rabbitmq-server, openssl
	$(BIN)/python -m tests.compat.matrix $(WORDS)

pictures: $(READY)  ## write pictures of every page of the Flows tab, and the one of README; needs chromium and its driver
	$(BIN)/python -m tests.pictures

# npm only fetches the package; what it holds is read and kept in the repository.
VENDOR := orchestrator/web/static/vendor/idiomorph
IDIOMORPH ?= $(shell cat $(VENDOR)/VERSION)
vendor:  ## fetch idiomorph, the one script of others in the Flows tab, as VERSION says; IDIOMORPH=<version> takes another; needs npm
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
		&& (cd "$$scratch" && npm pack --silent idiomorph@$(IDIOMORPH) && tar xzf idiomorph-*.tgz) \
		&& cp "$$scratch"/package/LICENSE "$$scratch"/package/dist/idiomorph.min.js $(VENDOR)/ \
		&& sed -n 's/.*"version": "\(.*\)".*/\1/p' "$$scratch"/package/package.json > $(VENDOR)/VERSION

check: format-check lint types test  ## all that CI runs: format, lint, types, tests

bench: $(READY)  ## measure beside raw canvas, about 15 minutes
	@$(BIN)/python -m benchmarks

coverage: $(READY)  ## run every test and report branches that none of them takes
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --no-loadscope-reorder --cov --cov-report=term-missing

format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --exit-zero --quiet .

format-check: $(READY)  ## fail on code that is not in the project's format
	$(BIN)/ruff format --check .

lint: $(READY)  ## fail on what ruff finds
	$(BIN)/ruff check .

types: $(READY)  ## fail on what mypy and pyright find, and on wrong uses that they do not find
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/python -m pytest tests/typing -m types

# An environment of its own: what happens to lie in .venv must not become a requirement.
constraints:  ## resolve the newest versions anew and write constraints.txt
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && $(PYTHON) -m venv "$$scratch" \
		&& "$$scratch/bin/pip" install --quiet --disable-pip-version-check -e '$(EXTRAS)' \
		&& { echo '# Exact versions that the tests ran with. Written by `make constraints`; ranges are in pyproject.toml.'; \
			"$$scratch/bin/pip" freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==[^ ]+$$' | LC_ALL=C sort -f; } > constraints.txt

clean:  ## remove the environment and what the tools left behind
	rm -rf .venv build dist .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache .orchestrator
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# This file says that .venv holds what these two ask for, so that a second make costs nothing.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo "No environment could be made; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(EXTRAS)'
	@touch $@
