# Molia. Needs Python >= 3.11 with pip, and make; everything else is fetched by pip into $(VENV).
# `make demo` and `make test` are all that a newcomer needs; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
TESTS ?= tests
STATES ?= 1000000
SEED ?= 1
BENCH_SCALE ?= 1
NETWORKS ?= net net-stages net-held
FUZZ_S ?= 600

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
# a large simulation spends an eighth of its time on misses of the page table; glibc can ask for large
# pages, the interpreter's own allocator cannot
LARGE_PAGES := PYTHONMALLOC=malloc GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: help demo demo-node run test check bench bench-net sim sim-long fuzz docs proto clean

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1 @\2/p' Makefile | awk -F@ '{ printf "%-12s %s\n", $$1, $$2 }'

demo: $(VENV)/installed ## install, then keep a file on 20 nodes of which eight are killed
	$(BIN)/python scripts/demo.py

demo-node: $(VENV)/installed ## one node alone: store, kill, damage and read back a real file
	$(BIN)/python scripts/demo_node.py

run: $(VENV)/installed ## run a node on this machine's default home
	$(BIN)/molia run

test: $(VENV)/installed-dev ## install, then pass every test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

check: $(VENV)/installed-dev ## ruff, mypy, import-linter, then every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(MAKE) --no-print-directory test

bench: $(VENV)/installed-dev ## measure beside limits; writes build/bench.json (about 20 GiB of disk traffic)
	$(BIN)/python -m tests.bench.run --scale $(BENCH_SCALE)

bench-net: $(VENV)/installed-dev ## the same of a network of node processes; build/bench-net.json (about half an hour)
	$(BIN)/python -m tests.bench.run $(NETWORKS) --scale $(BENCH_SCALE) --output build/bench-net.json

sim: $(VENV)/installed-dev ## the network in virtual time: every scenario at CI's size, and its bars
	$(BIN)/python -m pytest -q -n 0 tests/sim/test_null_wire.py
	$(LARGE_PAGES) $(BIN)/python -m molia.sim bars --jobs $(JOBS)

sim-long: $(VENV)/installed-dev ## the same at full size: 1,000 and 10,000 nodes; hours, and 20 GB of memory
	$(LARGE_PAGES) $(BIN)/python -m molia.sim bars --long --jobs 1

fuzz: $(VENV)/installed-dev ## long: crash states of the store, packets guided by coverage, every property at length
	$(BIN)/python -m molia.sim powercut --states $(STATES) --seed $(SEED)
	-$(PIP) install 'atheris>=2.3,<4'
	$(BIN)/python -m tests.fuzz.wire -max_total_time=$(FUZZ_S)
	MOLIA_TEST_FLIPS=800 MOLIA_TEST_TORTURE_S=120 MOLIA_TEST_KILL_POINTS=20 \
	  MOLIA_TEST_BLOBS=10000 MOLIA_TEST_READERS=14 \
	  $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --timeout 0 --hypothesis-profile fuzz $(TESTS)

docs: $(VENV)/installed-dev ## write docs/reference again from the code
	$(BIN)/python scripts/gen_docs.py

proto: $(VENV)/installed-dev ## write molia/wire/_pb again from its schema
	$(BIN)/python scripts/gen_proto.py

clean:          ## remove what the other targets made, the environment included
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find molia tests migrations scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# Distributions that split `ensurepip` off their Python still have pip: it fills a bare environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Molia needs Python >= 3.11, {sys.executable} is {sys.version.split()[0]}: try make PYTHON=python3.12")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing Molia into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing Molia and its test tools into $(VENV)"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/installed
