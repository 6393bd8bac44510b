# Everything starts here. `make help` lists the commands; each makes .venv on first use from the exact pins.
PROFILE ?= pocket
BIN := .venv/bin
export JUPYTER_PREFER_ENV_PATH = 1
.DEFAULT_GOAL := help
.PHONY: help reproduce test test-versions faults lint lab docs readme release setup

help:        ## list the commands
	@echo "CRANE companion"; grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/.complete: requirements.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh
setup: .venv/.complete    ## make .venv and install the pinned packages (the others do this by themselves)

reproduce: setup    ## run every notebook: tables, figures, verdicts (PROFILE=pocket; smoke: tiny; full: all trained anew)
	@$(BIN)/crane reproduce --profile $(PROFILE)
	@$(BIN)/python scripts/docs.py readme

test: setup    ## all checks: ruff, every notebook at smoke parameters from nothing, then pytest
	@status=0; $(MAKE) -s lint || status=1; \
	$(BIN)/crane reproduce --profile smoke --fresh || status=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder || status=1; exit $$status

faults: setup    ## try every fault and every hostile input many times over, and keep what was survived for the site
	@rm -rf runs/faults; CRANE_FAULTS=$(CURDIR)/runs/faults CRANE_KILLS=300 OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest -m faults -n 2 --dist loadfile --no-loadscope-reorder && $(BIN)/python scripts/ship_faults.py

test-versions: setup    ## install and use the package with the oldest and the newest versions that it allows (needs a network)
	@$(BIN)/python scripts/versions.py oldest && $(BIN)/python scripts/versions.py newest

lint: setup    ## check style: ruff on notebooks, scripts, tests and the package
	@$(BIN)/ruff check nbs tests benchmarks scripts crane && $(BIN)/ruff format --check nbs tests benchmarks scripts

lab: setup    ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir nbs $(if $(filter 0,$(shell id -u)),--allow-root)

docs: setup    ## build the site into _docs, offline
	@$(BIN)/python scripts/docs.py build

readme: setup    ## write README.md and the cards beside the data from nbs/
	@$(BIN)/python scripts/docs.py readme

release: setup    ## build the wheel into dist/ with its bill of materials; the same commit gives the same bytes
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@$(BIN)/python scripts/sbom.py dist
