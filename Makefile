# Each target does the set-up it needs. Override the interpreter with `make PYTHON=python3.12 ...`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check format bench wheel clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[starter,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/grounding scenes --seed 8 --n 1 --out out/demo/scene
	$(BIN)/grounding segment --manifest out/demo/scene/expressions.jsonl --out out/demo --formats png coco npz
	@echo "Look at the pictures in out/demo/"

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/grounding bench record
	$(BIN)/grounding eval scenes --limit 200 --seed 1 --ablate

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
