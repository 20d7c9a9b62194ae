# Each target makes its own environment in .venv from pinned versions; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO_HOME ?= $(CURDIR)/.atlas
PIP = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt

.PHONY: demo test test-neo4j lint bench neo4j faults clean

demo: $(VENV)/.ingest  ## the bundled model becomes an atlas, and answers
	@ATLAS_HOME=$(DEMO_HOME) $(BIN)/python -m atlas.demo

test: $(VENV)/.all  ## the suite; every store's contract, on real servers too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore=tests/neo4j -n 2 --dist loadfile

test-neo4j: $(VENV)/.all  ## what only the store over Bolt does, on real servers: kills, wires cut, imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/neo4j -m "not faults" -n 2 --dist loadfile

lint: $(VENV)/.all  ## style, types, arrows
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/pyright

bench: $(VENV)/.all  ## ratios, on a quiet machine
	$(BIN)/python -m pytest tests/bench -o python_files='bench_*.py' -o python_functions='test_* bench_*' -s

neo4j: $(VENV)/.all  ## a real Neo4j on loopback, without Docker
	$(BIN)/python -m atlas.server

faults: $(VENV)/.all  ## every fault of a shared server, the long form, and all its tests on every version
	NEO4J_TEST_EVERY_VERSION=1 $(BIN)/python -m pytest tests/neo4j --timeout=3600

clean:  ## the environment and the demo's atlas
	rm -rf $(VENV) $(DEMO_HOME)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say which: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ingest: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (torch is large: some minutes the first time)"
	@$(PIP) -e '.[ingest]' && touch $@

$(VENV)/.all: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (torch is large: some minutes the first time)"
	@$(PIP) -e '.[all]' && touch $@ $(VENV)/.ingest
