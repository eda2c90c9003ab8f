# Everything that is done with this project.  `make` alone lists it.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := fedvision privacy clients server simulations
# the first Python that is new enough and runs: 3.11 is what constraints.txt was made with
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint bench soak fuzz configs docs clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP)  ## make .venv and install the project into it (a few minutes the first time)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

demo: setup  ## train federated, pooled and alone on the quickstart, and name the report
	@rm -rf runs/demo
	$(BIN)/fedvision simulate configs/quickstart.yaml --out runs/demo/federated
	$(BIN)/fedvision centralised configs/quickstart.yaml --out runs/demo/centralised
	$(BIN)/fedvision local configs/quickstart.yaml --out runs/demo/local
	$(BIN)/fedvision compare runs/demo/federated runs/demo/centralised runs/demo/local --out runs/demo/compare.html
	@echo
	@echo "The report of the federated run:   $(CURDIR)/runs/demo/federated/report.html"
	@echo "Beside pooled and local training:  $(CURDIR)/runs/demo/compare.html"

test: setup  ## run the tests
	$(BIN)/python -m pytest

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## every benchmarks/bench_*.py; figures are kept under benchmarks/results/ (bench_dp.py only prints)
	@mkdir -p benchmarks/results
	@failed=; for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || failed="$$failed $$file"; done; \
	test -z "$$failed" || { echo "not as promised:$$failed" >&2; exit 1; }

soak: setup  ## every benchmarks/soak_*.py: random kills, long repeats; resumable, kept under benchmarks/results/
	@mkdir -p benchmarks/results
	@failed=; for file in benchmarks/soak_*.py; do echo "== $$file"; $(BIN)/python $$file || failed="$$failed $$file"; done; \
	test -z "$$failed" || { echo "not as promised:$$failed" >&2; exit 1; }

fuzz: setup  ## 100,000 mutated DICOM headers through de-identification and its check
	$(BIN)/python benchmarks/dicom_fuzz.py --count 100000

configs: setup  ## write every config out complete again, after a key was added
	$(BIN)/python -m fedvision.complete configs/*.yaml

docs: setup  ## write docs/cli.md again, after a command or option changed
	$(BIN)/python -m fedvision.reference > docs/cli.md

clean:  ## remove .venv and everything that tools left; keeps runs/
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
