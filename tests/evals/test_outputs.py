"""What cannot be written is found out before a model is loaded, a judge asked or a file scored."""

from __future__ import annotations

import json
import sys

import pytest
from tiny_photos import write_photos

from grounding.cli import main

NOWHERE = "/proc/nowhere"  # no permission bit says that nothing can be made there, least of all to root


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command that must end with one sentence and must not load a model."""
    monkeypatch.setattr("grounding.models.load.load", lambda *_, **__: pytest.fail("the model was loaded"))

    def run(*words: object) -> None:
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"{NOWHERE}" in err
        assert "cannot be written" in err
        assert "Traceback" not in err

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "diagnose", "--scenes", "1", "--out", NOWHERE),
        ("eval", "run", "--model", "starter", "--out", NOWHERE, "scenes-hallucination", "--scenes", "1"),
        ("lab", "--model", "starter", "--limit", "1", "--out", NOWHERE),
    ],
)
def test_folders(words, refused):
    refused(*words)


def test_photos(refused, tmp_path):
    refused("eval", "photos", "--data", write_photos(tmp_path / "photos"), "--parts", "nouns", "--out", NOWHERE)


def test_the_counts_of_captions(refused, tmp_path):
    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"image_id": 1, "caption": "a dog"}) + "\n")
    truth, synonyms = tmp_path / "truth.json", tmp_path / "words.txt"
    truth.write_text(json.dumps({"1": ["dog"]}))
    synonyms.write_text("dog, puppy\n")
    words = ("--captions", captions, "--ground-truth", truth, "--synonyms", synonyms)
    refused("eval", "chair", *words, "--samples", f"{NOWHERE}/counts.jsonl")


def test_a_judge_is_not_asked(refused, tmp_path):
    asked = tmp_path / "asked"
    judge = tmp_path / "judge.py"
    judge.write_text(f"open({str(asked)!r}, 'w')\nprint('Rating: 3')\n")
    said = {"image_content": ["Dog"], "question": "What is it?", "gt_answer": "A dog.", "model_answer": "A dog."}
    responses = tmp_path / "responses.json"
    responses.write_text(json.dumps([said] * 10))
    words = ("--responses", responses, "--judge", f"{sys.executable} {judge}", "--out", f"{NOWHERE}/replies.jsonl")
    refused("eval", "mmhal", *words)
    assert not asked.exists()
