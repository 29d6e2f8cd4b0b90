# The two commands of a newcomer: make quickstart, make test. Each sets up first; set-up costs nothing if nothing changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# uv does not read pip's settings, so where pip is told to find wheels is passed on to it.
FIND_LINKS = $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
space := $(subst ,, )
comma := ,

.PHONY: help setup quickstart test test-oldest lint leaderboard
help:
	@echo "make quickstart   set up, run a real sweep on the CPU, print its leaderboard"
	@echo "make test         set up, check style and types, run all fast tests"
	@echo "make test-oldest  engine, models, accounting, pruner and golden tests on transformers 5.17"
	@echo "make lint         style and types alone"
	@echo "make leaderboard  the committed results/leaderboard/*.md, measured anew"
	@echo "make setup        .venv with the versions of constraints.txt"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	UV_FIND_LINKS="$(subst $(space),$(comma),$(strip $(FIND_LINKS)))" \
		$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e ".[dev]"
	@touch $@

quickstart: setup
	$(BIN)/vtpbench run experiment=quickstart
	$(BIN)/vtpbench table

# The oldest transformers that is supported, with the hub client of its time.
test-oldest: setup
	$(BIN)/uv pip install --quiet --target .venv/oldest --no-deps transformers==5.17.0 "huggingface-hub<2"
	PYTHONPATH=.venv/oldest $(BIN)/pytest -q -n 2 tests/engine tests/models tests/accounting \
		tests/pruners tests/test_golden.py tests/test_tiny_model.py

MEASURED := results/runs/leaderboard
# Each as Markdown, and as CSV: the summaries that it is printed from, which a test compares.
leaderboard: setup
	for name in quickstart tiny_decode methods_tiny; do \
		$(BIN)/vtpbench run experiment=$$name resume=fresh paths.results=$(MEASURED)/$$name || exit 1; \
	done
	for to in md csv; do \
		for name in quickstart tiny_decode methods_tiny; do \
			$(BIN)/vtpbench table paths.results=$(MEASURED)/$$name to=results/leaderboard/$$name.$$to \
				made_by="make leaderboard" || exit 1; \
		done; \
		$(BIN)/vtpbench table paths.results=$(MEASURED)/tiny_decode against=base \
			to=results/leaderboard/tiny_decode_against_base.$$to made_by="make leaderboard" || exit 1; \
	done

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -q -n 2
