# Everything below sets itself up in .venv; nothing has to be installed by hand.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc python -type f -not -name '*.pyc' 2>/dev/null)

.PHONY: demo test lint bench gpu-check asan tsan clean

demo: $(VENV)/demo.stamp
	$(BIN)/preimage demo -o demo

test: lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/bench_descriptors.py
	$(BIN)/python benchmarks/plot_descriptors.py
	$(BIN)/python benchmarks/bench_upconv.py
	$(BIN)/python benchmarks/bench_upconv.py --markdown docs/upconv.md
	$(BIN)/python benchmarks/bench_training.py

# With whatever Python has torch: a machine with a GPU may have no network.
gpu-check:
	@for python in $(BIN)/python python3 $(PYTHON); do \
	    if $$python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' 2>/dev/null; \
	    then exec $$python benchmarks/gpu_check.py; fi; \
	done; echo 'gpu-check needs a Python with PyTorch: none in $(VENV), none on PATH' >&2; exit 1

asan tsan: $(VENV)/test.stamp
	tests/helpers/sanitize.sh $@ $(BIN)/python

# The package is installed as a user would get it, not in place: what is tested is what is shipped.
$(VENV)/%.stamp: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt \
	    $(if $(CI),-C cmake.define.PREIMAGE_WERROR=ON) ".[$*]"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build demo
