# `make` alone says what there is. A bare machine needs Python 3.11 or newer and make; the rest is fetched into .venv,
# in the exact versions of requirements/*.txt. Stamps in .venv make a second run instant and follow a changed lock file.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3.13 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
ARGS ?=

# A company's own certificate authority and index, as pip would take them, hold for uv too.
export UV_SYSTEM_CERTS ?= 1
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help setup demo up test lint bench bench-cpu bench-log docs proto proto-release tools lock sbom audit release clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS goes on to the program: make test ARGS="-k embedded", make up ARGS="--port-offset 100"'

demo: $(VENV)/.run ## Notarise a file with five services on this machine, and verify its receipt offline
	@$(BIN)/python -m afdp.cli.demo $(ARGS)

up: $(VENV)/.run ## Run the whole stack on loopback until Ctrl-C
	@exec $(BIN)/afdp dev $(ARGS)

setup: $(VENV)/.dev ## Install all that work on this tree needs into .venv

test: setup tools ## Run the tests; what a missing toolchain makes impossible is skipped with the reason
	@$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

lint: setup ## Check style, types, import rules, protos, and that generated code is current
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/lint.sh

bench: setup ## Measure, and write bench/results.json (ARGS="--only signer" for a part)
	@$(BIN)/python -m bench $(ARGS)

bench-cpu: setup ## Print the CPU time of a notarisation by process, which holds on a busy machine too
	@$(BIN)/python -m bench.cpu $(ARGS)

bench-log: setup ## Grow a log to ten million entries and measure it: some 15 minutes, 12 GB of disk
	@$(BIN)/python -m bench --only log $(ARGS)

docs: setup ## Write the table of docs/access.md from the protos and the policies
	@$(BIN)/python tools/access.py

proto: setup ## Generate proto/afdp/pb from the .proto files
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/proto.sh

proto-release: setup ## Record the protos as released: from then on a breaking change to them fails lint
	@ln -sfn "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" proto-deps
	@$(BIN)/buf build proto --path proto/afdp --output proto/released.binpb

tools: $(VENV)/.uv ## Build the test tools that are not in .venv (cosign, fsck, litewitness, Keycloak, Rekor, sigstore-js), once, into $AFDP_TOOLS
	@$(BIN)/python tools/build.py

lock: $(VENV)/.uv ## Write requirements/*.txt anew from pyproject.toml (ARGS=--upgrade for newer versions)
	@tools/lock.sh $(ARGS)

sbom: $(VENV)/.supply ## Write an SBOM (CycloneDX) of each image to dist/sbom
	@$(BIN)/python tools/sbom.py $(ARGS)

audit: $(VENV)/.supply ## Look up known vulnerabilities of what is locked; says NOT AUDITED where nobody answers
	@$(BIN)/python tools/audit.py $(ARGS)

release: $(VENV)/.supply ## Build, describe, notarise and verify a release in dist (docs/releasing.md)
	@$(BIN)/python tools/release.py $(ARGS)

clean: ## Remove what was made here; data in .afdp and the tools' cache stay
	rm -rf $(VENV) proto-deps dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@echo 'Making .venv'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml $(VENV)/.uv
	@echo 'Installing what running needs'
	@$(INSTALL) --require-hashes --requirement $<
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.supply: requirements/supply.txt $(VENV)/.run
	@echo 'Installing what describes and checks a release'
	@$(INSTALL) --require-hashes --requirement $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo 'Installing what development needs'
	@$(INSTALL) --require-hashes --requirement $<
	@touch $@
