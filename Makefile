# Each target does the set-up it needs. Override the interpreter with `make PYTHON=python3.12 ...`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ACTIVATE = To use the command 'grounding' in this shell: source $(BIN)/activate
# Photographs in the public domain that scikit-image carries; its own `data_dir` is a cache wherever pooch is installed.
PHOTOS = $$($(BIN)/python -c "import skimage.data; print(*skimage.data.__path__)")

.PHONY: setup demo test quick test-extras test-lmms check format bench lab wheel clean

setup: $(STAMP)
	@echo "$(ACTIVATE)"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[starter,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/grounding scenes --seed 8 --n 1 --out out/demo/scene
	$(BIN)/grounding segment --model starter --manifest out/demo/scene/expressions.jsonl --out out/demo/scene --formats png coco npz
	$(BIN)/grounding segment $(PHOTOS)/astronaut.png "the person" --out out/demo/photo
	$(BIN)/grounding segment $(PHOTOS)/chelsea.png "the cat" --out out/demo/photo
	$(BIN)/grounding segment $(PHOTOS)/coffee.png "the coffee" --out out/demo/photo
	@echo "Look at the pictures in out/demo/"
	@echo "$(ACTIVATE)"

test: $(STAMP)
	$(BIN)/python -m pytest

# Without the tests that start whole runs in child processes.
quick: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

# The tests that need an extra, with all extras installed; a missing package is a failure here and not a skip.
test-extras: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	GROUNDING_TEST_EXTRAS=1 $(BIN)/python -m pytest -n 0 -m extra --ignore tests/evals/test_lmms.py

# Replaces antlr4-python3-runtime by the version of lmms-eval, which hydra-core refuses: not for an environment to keep.
test-lmms: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[lmms]'
	GROUNDING_TEST_EXTRAS=1 $(BIN)/python -m pytest -n 0 tests/evals/test_lmms.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/grounding bench record --check record
	$(BIN)/grounding bench flow --check flow
	$(BIN)/grounding bench steer --check steer
	$(BIN)/grounding bench steer --steer headwise --check steer-headwise
	$(BIN)/grounding eval scenes --limit 200 --seed 1 --ablate

lab: $(STAMP)
	$(BIN)/python -m grounding.starter.habits_train --out runs/habits
	$(BIN)/grounding lab --out runs/lab

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
