# Every target makes its environment from nothing, and leaves it alone while pyproject.toml and the lock are unchanged.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
TORCH := 2.13.0

DEMO_BUDGET ?= 150s
DEMO_OUT ?= runs/demo
DEMO_FLAGS ?=
DEMO_SEARCH_BUDGET ?= 150s
DEMO_SEARCH_OUT ?= runs/demo-search
DEMO_PAIRS ?= installed-docs:
DEMO_DOCUMENTS ?= installed-docs:torch,numpy
BENCHES ?= $(patsubst bench/%.py,%,$(filter-out bench/_%,$(wildcard bench/*.py)))

stamp = $(VENV)/.lavra-$(1)-$(firstword $(shell cat pyproject.toml requirements/$(1).lock | cksum))
CORE := $(call stamp,core)
ALL := $(call stamp,all)
DOCS := build/docs-venv
DOCS_STAMP := $(DOCS)/.lavra-docs-$(firstword $(shell cksum < requirements/docs.lock))

.PHONY: help demo demo-search test test-all lint format bench docs lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(CORE) ## train a model on this machine's own documentation and show what it writes (DEMO_BUDGET=150s)
	$(BIN)/lavra train installed-docs: --budget $(DEMO_BUDGET) --out $(DEMO_OUT) --force $(DEMO_FLAGS)
	$(BIN)/lavra generate $(DEMO_OUT) --prompt "Return the" --max-new-tokens 80
	$(BIN)/lavra runs show $(DEMO_OUT)

demo-search: $(ALL) ## documents into better search: train a query generator, expand, evaluate, search
	$(BIN)/lavra doc2query train $(DEMO_PAIRS) --budget $(DEMO_SEARCH_BUDGET) --out $(DEMO_SEARCH_OUT)/generator --force
	$(BIN)/lavra expand $(DEMO_DOCUMENTS) --model $(DEMO_SEARCH_OUT)/generator --queries 3 --score-with model \
		--out $(DEMO_SEARCH_OUT)/queries.jsonl --force
	$(BIN)/lavra search evaluate $(DEMO_DOCUMENTS) --expansions $(DEMO_SEARCH_OUT)/queries.jsonl \
		--out $(DEMO_SEARCH_OUT)/experiment --force
	$(BIN)/lavra search "compute the gradient of a tensor" --index $(DEMO_SEARCH_OUT)/experiment/index

test: $(ALL) ## run the tests, but for the heavy ones
	$(BIN)/python -m pytest -n logical --maxprocesses 8

test-all: $(ALL) ## run every test
	$(BIN)/python -m pytest -n logical --maxprocesses 8 -m "heavy or not heavy"

lint: $(ALL) ## check the style, the rooms' order and the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/basedpyright

format: $(ALL) ## put the code into the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(ALL) ## measure (BENCHES="startup" picks)
	@missed=; for name in $(BENCHES); do \
		echo "== $$name"; $(BIN)/python bench/$$name.py || missed="$$missed $$name"; \
	done; \
	test -z "$$missed" || { echo "failed, or missed a goal of their own:$$missed"; exit 1; }

docs: $(DOCS_STAMP) ## build the documentation into build/docs; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

lock: ## resolve the dependencies anew and write requirements/*.lock
	rm -rf build/lock && mkdir -p build && $(PYTHON_FOR) build/lock
	build/lock/bin/pip install --quiet torch==$(TORCH) hatchling editables
	build/lock/bin/pip install --quiet --no-build-isolation -e .
	$(FREEZE) > requirements/core.lock
	build/lock/bin/pip install --quiet --no-build-isolation -e '.[search,classify,dense,finetune,generate,gguf,tune,onnx,track,dev]'
	$(FREEZE) > requirements/all.lock
	rm -rf build/lock

clean: ## remove the environment and every cache
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The pins, torch first, without the local part of its version ("+cpu"), so that any machine finds its own build.
FREEZE = build/lock/bin/pip freeze --exclude-editable | sed 's/+[a-z0-9]*$$//' | LC_ALL=C sort -f | \
	awk '/^torch==/ {print; next} {rest = rest $$0 "\n"} END {printf "%s", rest}'

PYTHON_FOR = make_venv() { for python in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo "making $$1 with $$($$python --version)"; $$python -m venv $$1; return; fi; done; \
	echo "lavra needs Python 3.11 or newer with its venv module (Debian, Ubuntu: apt install python3-venv);" \
	"name one with make PYTHON=/path/to/python" >&2; return 1; }; make_venv

$(BIN)/python:
	@$(PYTHON_FOR) $(VENV)

$(VENV)/.lavra-%: | $(BIN)/python
	@echo "installing requirements/$(firstword $(subst -, ,$*)).lock into $(VENV) (once; torch is large)"
	@rm -f $(VENV)/.lavra-$(firstword $(subst -, ,$*))-*
	@$(PIP) install -r requirements/$(firstword $(subst -, ,$*)).lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The documentation is built from the source as it is written, so its environment needs neither torch nor lavra.
$(DOCS_STAMP):
	@rm -rf $(DOCS) && mkdir -p build && $(PYTHON_FOR) $(DOCS)
	@echo "installing requirements/docs.lock into $(DOCS) (once)"
	@$(DOCS)/bin/python -m pip --disable-pip-version-check -qq install -r requirements/docs.lock
	@touch $@
