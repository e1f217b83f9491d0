# `make` lists what there is. Each target does its own set-up; nothing but Python 3.11 or newer is needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
EXPERIMENTS ?= table2 table1 table3 figure2 mechanism lambda fusion_variants methods equal_compute mixture_ratios distance domains phase parts arms adapters objectives feedback
SWEEP ?= hydra/launcher=joblib
WORKERS ?= $(shell echo $$(($$(nproc) + 2)))
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install gpu vllm demo reproduce test test-slow coverage test-gpu test-ray check format lint types contracts docs bench bench-merge bench-branch bench-evaluate bench-distill clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(READY) ## the virtual environment with the locked dependencies

# torch first: whatever build pip finds for this machine (CUDA or CPU), and nothing later may replace it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("bm needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check $(TORCH)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -q bm hydra_plugins # as pip does for the packages that it copies
	@$(BIN)/python -m bm.merge.precompile
	@touch $@

gpu: $(READY) ## what training on CUDA uses besides: FlashAttention, Liger, bitsandbytes
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[gpu]'
	@$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation flash-attn==2.8.3.post2

# An environment of its own: vLLM pins another torch.
vllm: ## vLLM for evaluate=paper and teacher=vllm, in .venv-vllm
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/pip install -q --disable-pip-version-check vllm==0.33.0

demo: $(READY) ## a whole Branch-Merge experiment in minutes: outputs/demo/report/index.html
	@$(BIN)/bm run recipe=demo output=outputs/demo

# Rerun it to resume; as many jobs at a time as there are cores, one after the other with SWEEP=.
reproduce: $(READY) ## the paper's tables and figures, and what it left out, at tiny scale: experiments/*/measured.json
	@for name in $(EXPERIMENTS); do \
		$(BIN)/bm run -m recipe=tiny experiment=$$name $(SWEEP) || exit 1; \
		$(BIN)/bm report recipe=tiny experiment=$$name record=true || exit 1; \
	done

test: $(READY) ## the tests, in minutes: a process per core, and two for while others wait
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(READY) ## what takes longer: the wheel, kills in every stage, many processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder -m slow

coverage: $(READY) ## the lines of bm/ that the tests run, slow ones too, in all processes; at least 90 %
	@$(BIN)/coverage erase
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n $(WORKERS) --dist load --maxschedchunk 1 -m "slow or not slow"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --skip-covered --fail-under=90

test-gpu: $(READY) ## what no CPU can show, on a machine with a card (make gpu vllm first); skips with the reason elsewhere
	@$(BIN)/python -m pytest -m gpu -rs

# In an environment of its own: Ray's launcher wants an older cloudpickle than the joblib that is tested here.
test-ray: ## a sweep on a local Ray cluster (optional; installs Ray into .venv-ray)
	@test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	@.venv-ray/bin/pip install -q --disable-pip-version-check $(TORCH)
	@.venv-ray/bin/pip install -q --disable-pip-version-check -e '.[ray]' pytest pytest-timeout pytest-xdist hypothesis
	@.venv-ray/bin/python -m pytest tests/sweeps/test_sweep.py -k ray

check: format lint types contracts test test-slow ## all that a change must pass

format: $(READY) ## format the code
	@$(BIN)/ruff format bm tests experiments docs

lint: $(READY) ## style and likely mistakes
	@$(BIN)/ruff check bm tests experiments docs

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

contracts: $(READY) ## which room may import which
	@$(BIN)/lint-imports

docs: $(READY) ## the site, from docs/, docstrings, settings and measurements, with every link checked: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: bench-merge bench-branch bench-evaluate bench-distill ## all comparisons with peers

bench-merge: $(READY) ## merges against mergekit
	@$(BIN)/python -m experiments.speed.merge

bench-branch: $(READY) ## training against TRL
	@$(BIN)/python -m experiments.speed.branch

bench-evaluate: $(READY) ## sampling against lm-eval
	@$(BIN)/python -m experiments.speed.evaluate

bench-distill: $(READY) ## on-policy distillation against TRL
	@$(BIN)/python -m experiments.speed.distill

clean: ## remove outputs and caches, keep the environment
	@rm -rf outputs site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
