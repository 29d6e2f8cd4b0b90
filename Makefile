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
	@echo "make quickstart   set up, run a real sweep on the CPU, print its leaderboard, write results/report.html"
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

# What a few replies looked at is recorded in a second run: their times are those of the first.
quickstart: setup
	$(BIN)/vtpbench run experiment=quickstart
	$(BIN)/vtpbench run experiment=quickstart limit=20 record=attention
	$(BIN)/vtpbench table
	$(BIN)/vtpbench report

# The oldest transformers that is supported, with the hub client of its time.
test-oldest: setup
	$(BIN)/uv pip install --quiet --target .venv/oldest --no-deps transformers==5.17.0 "huggingface-hub<2"
	PYTHONPATH=.venv/oldest $(BIN)/pytest -q -n 2 tests/engine tests/models tests/accounting \
		tests/pruners tests/test_golden.py tests/test_tiny_model.py

MEASURED := results/runs/leaderboard
BOARDS := quickstart tiny tiny_decode
TINY := tiny_qwen3_vl tiny_internvl tiny_llava
# Each as Markdown, and as CSV: the summaries that it is printed from, which a test compares. Two processes share the
# samples; what an earlier run has left is measured anew.
leaderboard: setup
	rm -rf $(MEASURED)
	for model in $(TINY); do \
		$(BIN)/vtpbench fit pruner=fitprune model=$$model benchmark=glyph_walk benchmark.seed=1 limit=16 \
			out=results/leaderboard/fitprune_$$model.json || exit 1; \
	done
	for name in $(BOARDS); do \
		run="$(BIN)/vtpbench run experiment=$$name paths.results=$(MEASURED)/$$name"; \
		OMP_NUM_THREADS=1 $$run shard=0/2 & \
		OMP_NUM_THREADS=1 $$run shard=1/2; second=$$?; \
		wait $$! && test $$second = 0 || exit 1; \
	done
	for to in md csv; do \
		for name in $(BOARDS); do \
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
