"""What the tests of CHAIR are made of, and where published captions lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Where published captions and ground truth lie, if they do; they are not part of the project.
DATA = Path(os.environ.get("GROUNDING_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
PUBLISHED = DATA / "hallucination"

SYNONYMS = """person, man, woman, people
dog, puppy
cat, kitten
bench, pew
train, locomotive
dining table, table
"""
TRUTH = {"1": ["dog", "person"], "2": ["cat"], "3": ["bench", "dog"], "4": []}
CAPTIONS = [
    {"image_id": 1, "caption": "A man walks two dogs. The dogs sit on a bench."},
    {"image_id": 2, "caption": "A kitten. A kitten."},
    {"image_id": 3, "caption": "A dog near a table with a"},
    {"image_id": 4, "caption": "Grass under a wide sky."},
]


def write_captions(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
