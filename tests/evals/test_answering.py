"""What becomes of answers that say nothing: no score takes them for the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from evals.commands.chair import EvalChairCommand
from evals.commands.pope import EvalPopeCommand
from evals.runs import RunFolder
from grounding.errors import EvalDataError, GroundingError


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory) -> Path:
    """A tiny LLaVA whose first MLP exceeds float16."""
    from grounding.models.tiny import tiny_llava

    folder = tmp_path_factory.mktemp("overflowing")
    model, processor = tiny_llava()
    with torch.no_grad():
        model.get_parameter("model.language_model.layers.0.mlp.down_proj.weight").mul_(3e5)
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "pics").mkdir()
    for number in (1, 2):
        Image.new("RGB", (40, 40), (90 * number, 10, 10)).save(folder / "pics" / f"{number}.jpg")
    (folder / "truth.json").write_text(json.dumps({"1": ["dog"], "2": []}))
    (folder / "words.txt").write_text("dog, puppy\ncat, kitten\n")
    rows = [
        {"question_id": number, "image": f"{number}.jpg", "text": "Is there a dog in the image?", "label": label}
        for number, label in ((1, "yes"), (2, "no"))
    ]
    (folder / "questions.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def chair(model: Path, data: Path, out: Path, dtype: str) -> EvalChairCommand:
    return EvalChairCommand(
        model=str(model),
        data=str(data / "pics"),
        ground_truth=str(data / "truth.json"),
        synonyms=str(data / "words.txt"),
        pipeline="rules",
        out=out,
        dtype=dtype,
        device="cpu",
        max_new_tokens=4,
        json=True,
    )


def pope(model: Path, data: Path, out: Path, dtype: str) -> EvalPopeCommand:
    return EvalPopeCommand(
        model=str(model),
        data=str(data / "pics"),
        questions=(data / "questions.json",),
        out=out,
        dtype=dtype,
        device="cpu",
        max_new_tokens=4,
        json=True,
    )


@pytest.mark.parametrize("command", [chair, pope])
def test_a_model_that_overflows_gets_no_score(command, overflowing, data, tmp_path, capsys):
    """It says nothing, which CHAIR would call perfect and POPE's own parser a yes."""
    with pytest.raises(GroundingError):
        command(overflowing, data, tmp_path / "half", "float16").run()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "half" / "scores.json").exists()
    silent = RunFolder(tmp_path / "half").answers().values()
    assert [(one.text, one.error is None) for one in silent] == [("", False)] * 2
    assert command(overflowing, data, tmp_path / "whole", "float32").run() == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0


def test_a_run_all_of_whose_answers_are_empty_is_not_scored(tiny_model, data, tmp_path, capsys):
    """Also where the answers were written before empty ones counted as errors."""
    out = tmp_path / "run"
    chair(tiny_model, data, out, "float32").run()
    capsys.readouterr()
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().split("\n") if line]
    blank = [{**row, "text": " ", "error": None} for row in rows]
    (out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in blank))
    with pytest.raises(EvalDataError, match="has a word, so no score is made of them"):
        chair(tiny_model, data, out, "float32").run()
    assert RunFolder(out).manifest()["task"]["options"]["pipeline"] == "rules"
