from __future__ import annotations

import json
from pathlib import Path

import pytest
from chair_files import CAPTIONS, SYNONYMS, TRUTH, write_captions

from evals.chair.resources import ChairResources, load_chair_resources


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder with `captions.jsonl`, `truth.json` and `synonyms.txt`."""
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    write_captions(tmp_path / "captions.jsonl", CAPTIONS)
    return tmp_path


@pytest.fixture
def resources(files) -> ChairResources:
    return load_chair_resources(str(files / "truth.json"), str(files / "synonyms.txt"))
